"""The hold of one process on its workdir, which a second process is refused.

The kernel keeps it, as a lock on a file, so it ends with the process, however that dies.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import TextIO

from storage import files
from trainer import failures

NAME = '.lock'
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Held(failures.Failure):
  """Another process writes to the workdir. When it has ended, trying again succeeds."""


@contextlib.contextmanager
def hold(directory: str) -> Iterator[None]:
  """Keeps other processes from writing to a workdir in the block.

  A bucket has no locks; there, Cloud Storage's preconditions keep each object whole.

  Raises:
    Held: another process has it.
  """
  if not files.is_local(directory):
    yield
    return
  path = os.path.join(directory, NAME)
  with files.as_usage_error(f'--workdir={directory}: cannot be written'):
    os.makedirs(directory, exist_ok=True)
    file = _locked(directory, path)
  with file:
    _write_holder(file)
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        os.unlink(path)


def _locked(directory: str, path: str) -> TextIO:
  """Returns the lock's file, open and locked. Raises Held if another process has locked it."""
  while True:
    file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115 - stays open as long as the hold
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in NO_LOCKS or _is_alive(_holder(file)):
        _raise_held(directory, file)
    # The one that had it before may have deleted it meanwhile.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        return file
    file.close()


def _write_holder(file: TextIO) -> None:
  """Records this process, for the message to others; a full disk need not end the run here."""
  holder = {'pid': os.getpid(), 'host': socket.gethostname(), 'started': _started(os.getpid())}
  with contextlib.suppress(OSError):
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), json.dumps(holder).encode())  # a buffer would be written again on close


def _holder(file: TextIO) -> dict:
  """Returns what the holder recorded; nothing if it has not yet."""
  file.seek(0)
  try:
    return dict(json.loads(file.read()))
  except (ValueError, TypeError):
    return {}


def _raise_held(directory: str, file: TextIO) -> None:
  with file:
    holder = _holder(file)
  who = f'process {holder["pid"]} on {holder["host"]}' if holder else 'another process'
  raise Held(
    f'--workdir={directory}: {who} is writing to it; wait for its end, or pass another --workdir'
  )


def _is_alive(holder: dict) -> bool:
  """Returns whether the holder, in a file system without locks, is known to be running."""
  if not holder or holder['host'] != socket.gethostname() or holder['pid'] == os.getpid():
    return False
  started = _started(holder['pid'])
  return started is not None and started == holder['started']


def _started(pid: int) -> str | None:
  """Returns when a process of this machine started, in ticks after boot; None if it has ended."""
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]
  except OSError:
    return None
