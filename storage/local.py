"""Files on this machine: the backend for paths without a scheme."""

import collections
import contextlib
import glob
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from storage import local_patterns
from storage.base import File, raise_if_outage


def match(pattern: str, passed_over: collections.Counter[str]) -> Iterator[File]:
  """Yields the files that a pattern names."""
  return _listed(pattern, local_patterns.match(pattern, passed_over))


def list_files(directory: str, passed_over: collections.Counter[str]) -> Iterator[File]:
  """Yields all files in a directory and its subdirectories, except hidden ones."""
  return _listed(directory, local_patterns.list_files(directory, passed_over))


def _listed(pattern: str, found: Iterator[File]) -> Iterator[File]:
  try:
    yield from found
  except OSError as error:
    raise_if_outage(error, pattern)
    raise


def exists(path: str) -> bool:
  """Returns whether there is such a file."""
  try:
    os.stat(path)
  except ValueError:  # no file has such a name
    return False
  except OSError as error:
    raise_if_outage(error, path)
    return False
  return True


def may_read(path: str) -> bool:
  """Returns True: permissions are each file's own."""
  return True


class _Reader(io.FileIO):
  """A file whose outages are Unavailable."""

  def readinto(self, buffer) -> int:
    """Reads into `buffer` and returns the number of bytes."""
    try:
      return super().readinto(buffer)
    except OSError as error:
      raise_if_outage(error, str(self.name))
      raise

  def readall(self) -> bytes:
    """Returns all bytes that are left."""
    try:
      return super().readall()
    except OSError as error:
      raise_if_outage(error, str(self.name))
      raise


def open_bytes(path: str) -> BinaryIO:
  """Opens a file for reading."""
  try:
    return io.BufferedReader(_Reader(path))
  except OSError as error:
    raise_if_outage(error, path)
    raise


def read(path: str, limit: int | None) -> bytes:
  """Returns the content; raises ValueError if it has more than `limit` bytes.

  A pipe would block and a device might never end, so neither is opened.
  """
  try:
    content = _content(path, limit)
  except OSError as error:
    raise_if_outage(error, path)
    raise
  if limit is not None and len(content) > limit:
    raise ValueError(f'the file has more than {limit} bytes')
  return content


def _content(path: str, limit: int | None) -> bytes:
  """Returns the content, of which at most one byte is beyond the limit."""
  status = os.stat(path)
  if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
    raise OSError(f'{path}: is a pipe, a socket or a device; copy its content into a file')
  size = status.st_size
  if limit is None or size <= limit:
    with open(path, 'rb', buffering=0) as unbuffered:
      content = unbuffered.read(size + 1)  # reading `limit` + 1 would allocate as much
    if len(content) == size:
      return content
  with open(path, 'rb') as file:  # it is too large, or its size is not the one that it states
    return file.read() if limit is None else file.read(limit + 1)


def write(path: str, content: bytes, durable: bool) -> None:
  """Replaces the file in one step."""
  with writing(path) as file:
    file.write(content)
    if durable:
      file.flush()
      os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
  """Yields a hidden file, which replaces the file at the end of the block."""
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with _replacing(path) as incomplete, open(incomplete, 'wb') as file:
      yield file
  except OSError as error:
    raise_if_outage(error, path)
    raise


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[str]:
  """Yields a hidden file in the same directory, which replaces `path` on success."""
  handle, incomplete = tempfile.mkstemp(
    dir=os.path.dirname(path) or '.', prefix='.' + os.path.basename(path)
  )
  os.close(handle)
  try:
    yield incomplete
    with contextlib.suppress(OSError):  # not every file system has modes
      os.chmod(incomplete, 0o644)
    os.replace(incomplete, path)
  except BaseException:
    os.unlink(incomplete)
    raise


def remove(paths: Iterable[str]) -> None:
  """Deletes those files that exist."""
  for path in paths:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)


def remove_folder(directory: str) -> None:
  """Deletes a directory and everything in it, if it exists."""
  if os.path.lexists(directory):
    shutil.rmtree(directory)


def publish(source: str, directory: str, last: str) -> None:
  """Replaces `directory` by a copy of `source`. A rename makes it appear whole, `last` and all."""
  target = os.path.realpath(directory)  # a link stays one
  for left_by_a_killed_process in glob.glob(f'{glob.escape(target)}.incomplete-*'):
    remove_folder(left_by_a_killed_process)
  incomplete = f'{target}.incomplete-{os.getpid()}'
  _copy_contents(source, incomplete)
  remove_folder(target)
  os.rename(incomplete, target)


def copy(source: str, directory: str, last: str) -> None:
  """Copies the folder `source` into `directory`, the file called `last` last."""
  _copy_contents(source, directory, without=last)
  shutil.copyfile(os.path.join(source, last), os.path.join(directory, last))


def _copy_contents(source: str, directory: str, without: str | None = None) -> None:
  """Copies a folder's files, except its own file `without`.

  Modes and times, which not every file system has, are those of new files.
  """
  for folder, _, names in os.walk(source):
    target = os.path.normpath(os.path.join(directory, os.path.relpath(folder, source)))
    os.makedirs(target, exist_ok=True)
    for name in names:
      if folder != source or name != without:
        shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
  """Yields the directory itself."""
  yield directory
