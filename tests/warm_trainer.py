"""Trainers forked from a process that has imported TensorFlow, which takes 4 CPU seconds.

Such a trainer runs the module trainer.main as `python -m` does, in a process with a command line,
an environment, a standard error and an exit code of its own.
"""

import functools
import gc
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_MESSAGE_BYTES = 1 << 20


class Trainer:
  """A running trainer, with what the tests need of subprocess.Popen."""

  def __init__(self, flags: Sequence[str], environment: Mapping[str, str]):
    self.returncode: int | None = None
    self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    self.stderr = open(reading, encoding='utf-8')  # noqa: SIM115
    message = json.dumps([list(flags), dict(environment)]).encode()
    socket.send_fds(_server(), [message], [writing, status.fileno()])
    os.close(writing)
    status.close()
    self.pid = int(self._status.recv(MAX_MESSAGE_BYTES))

  def poll(self) -> int | None:
    if self.returncode is None and select.select([self._status], [], [], 0)[0]:
      self.wait()
    return self.returncode

  def wait(self) -> int:
    if self.returncode is None:
      self.returncode = int(self._status.recv(MAX_MESSAGE_BYTES))
      self._status.close()
    return self.returncode

  def communicate(self) -> tuple[None, str]:
    with self.stderr:
      said = self.stderr.read()
    self.wait()
    return None, said

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
  """Starts this process's server, which ends when the returned socket is closed."""
  mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  with other:
    # A fork lacks the threads that a library starts when it is imported.
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'tests.warm_trainer', str(other.fileno())]
    subprocess.Popen(command, cwd=ROOT, pass_fds=[other.fileno()], env=environment)
  return mine


def main() -> None:
  """Forks a trainer for each message at the socket whose file descriptor is the argument."""
  from runtime import process

  process.use_utf8()
  process.prepare()
  from trainer import run  # noqa: F401

  gc.freeze()
  # Python 3.12 and later warn of threads: there are OpenBLAS's and jemalloc's, made for forks.
  warnings.filterwarnings('ignore', 'This process .* is multi-threaded', DeprecationWarning)
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the processes that tell
  with socket.socket(fileno=int(sys.argv[1])) as server:
    while True:
      message, descriptors, _, _ = socket.recv_fds(server, MAX_MESSAGE_BYTES, 2)
      if not message:
        return
      if os.fork() == 0:
        server.close()
        _train_and_tell(*json.loads(message), *descriptors)
      for descriptor in descriptors:
        os.close(descriptor)


def _train_and_tell(
  flags: list[str], environment: dict[str, str], stderr: int, status: int
) -> NoReturn:
  """Sends the process id of a trainer, and its exit code when it has ended; then exits."""
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  pid = os.fork()
  if pid == 0:
    os.close(status)
    _train(flags, environment, stderr)
  os.close(stderr)
  told = socket.socket(fileno=status)
  told.send(str(pid).encode())
  told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
  os._exit(0)


def _train(flags: list[str], environment: dict[str, str], stderr: int) -> NoReturn:
  """Becomes the trainer."""
  with open(os.devnull, 'r+b') as null:
    for source, target in ((null.fileno(), 0), (null.fileno(), 1), (stderr, 2)):
      os.dup2(source, target)
  os.close(stderr)
  os.environ.clear()
  os.environ.update(environment)
  sys.argv[1:] = flags
  runpy.run_module('trainer.main', run_name='__main__', alter_sys=True)
  sys.exit()


if __name__ == '__main__':
  main()
