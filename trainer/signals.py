"""SIGTERM and SIGINT, heard wherever the process is: in Python, or waiting in TensorFlow's C++.

Python runs a signal's handler in the main thread, between two of its instructions, which a call
into C++ can put off for an hour. Its part in C, however, runs at once, in whichever thread the
signal arrives, and writes to a pipe that a thread of ours reads.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainer import exit_codes
from trainer.failures import RESUME

CODES = {
  signal.SIGTERM: exit_codes.PREEMPTED,
  signal.SIGINT: exit_codes.INTERRUPTED,
}
GRACE_SECONDS = 3.0  # for the main thread to end by itself
TAKE_BACK_SECONDS = 0.1
ECHO_SECONDS = 0.2  # `timeout`, for one, sends a signal twice: to the process, then to its group


class _State:
  """What the handler and the thread know.

  Attributes:
    first: the first signal received.
    stop: what to call in place of ending the process.
    can_save: returns whether there are steps to save.
    said: the line about it is printed.
  """

  first: signal.Signals | None = None
  stop: Callable[[signal.Signals], None] | None = None
  can_save: Callable[[], bool] = bool
  said = False


def listen() -> None:
  """Makes SIGTERM and SIGINT end the process, from now on, with the codes in CODES.

  The second one ends it at once. Only the main thread may call this.
  """
  readable, writable = os.pipe()
  os.set_blocking(writable, False)
  signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
  _handle_signals()
  threading.Thread(target=_watch, args=[readable], daemon=True).start()


@contextlib.contextmanager
def kept() -> Iterator[None]:
  """Handles the signals in the block although TensorFlow takes SIGTERM in it.

  It does so for several hosts, and then waits for them. Only the main thread may replace a handler
  with Python's own functions; with C's, any thread.
  """
  get, replace = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
  get.restype = replace.restype = ctypes.c_void_p
  handlers = {number: ctypes.c_void_p(get(number)) for number in CODES}
  done = threading.Event()

  def take_back() -> None:
    while True:
      for number, handler in handlers.items():
        replace(number, handler)
      if done.wait(TAKE_BACK_SECONDS):
        return

  thread = threading.Thread(target=take_back, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    _handle_signals()


def _handle_signals() -> None:
  for number in CODES:
    signal.signal(number, _handle)


def received() -> signal.Signals | None:
  """Returns the first signal that was received, if any."""
  return _State.first


@contextlib.contextmanager
def deferred(
  stop: Callable[[signal.Signals], None], can_save: Callable[[], bool]
) -> Iterator[None]:
  """Makes the first signal call `stop`, in the main thread, while there is something to save.

  Args:
    stop: gets the signal, and has the process end soon.
    can_save: returns whether to call it, rather than to end the process at once; any thread may
      ask.
  """
  _State.stop, _State.can_save = stop, can_save
  try:
    yield
  finally:
    _State.stop = None


def _deferred_to() -> Callable[[signal.Signals], None] | None:
  """Returns what to call instead of ending the process, if anything."""
  stop = _State.stop
  return stop if stop and _State.can_save() else None


def _handle(number: int, _: Any) -> None:
  _State.first = _State.first or signal.Signals(number)
  stop = _deferred_to()
  if stop is None:
    _say(f'stopped by {_State.first.name}; {RESUME}')
    sys.exit(CODES[_State.first])
  stop(_State.first)


def _watch(readable: int) -> None:
  """Ends the process if the main thread does not, or if it is told twice."""
  first, heard = _next(readable), time.monotonic()
  _State.first = _State.first or first
  while True:
    if select.select([readable], [], [], GRACE_SECONDS)[0]:
      again = _next(readable)
      if again != first or time.monotonic() - heard > ECHO_SECONDS:
        _end(again, f'stopped at once by a second {again.name}; {RESUME} from the last checkpoint')
    elif _deferred_to() is None:
      _end(first, f'stopped by {first.name}; {RESUME}')


def _next(readable: int) -> signal.Signals:
  """Returns the next of our signals; others that have a handler in Python come here too."""
  while (number := os.read(readable, 1)[0]) not in list(CODES):
    pass
  return signal.Signals(number)


def _end(number: signal.Signals, message: str) -> None:
  _say(message)
  os._exit(CODES[number])


def _say(message: str) -> None:
  """Prints the one line about a signal, unless there was one, and nothing after it.

  Where the exception cannot go up, as in a destructor or in TensorFlow's tracing, Python or
  TensorFlow would print it with its traceback.
  """
  if not _State.said:
    _State.said = True
    with contextlib.suppress(OSError):
      os.write(2, f'lookbook-train: {message}\n'.encode())
      os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
