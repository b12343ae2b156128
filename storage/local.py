"""Files on this machine: the backend for paths without a scheme."""

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from storage.base import File


def match(pattern: str) -> Iterator[File]:
  """Yields the files that a pattern names."""
  if os.path.isfile(pattern):  # a name may contain [ or *
    yield File(pattern, os.path.getsize(pattern))
    return
  for path in glob.iglob(pattern, recursive=True):
    yield from _sized(path)


def list_files(directory: str) -> Iterator[File]:
  """Yields all files in a directory and its subdirectories, except hidden ones."""
  return match(os.path.join(glob.escape(directory), '**'))


def _sized(path: str) -> Iterator[File]:
  """Yields the file unless `path` is a directory.

  A broken link has size 0; its reader will report it.
  """
  try:
    status = os.stat(path)
  except OSError:
    if os.path.islink(path):
      yield File(path, 0)
    return
  if not stat.S_ISDIR(status.st_mode):
    yield File(path, status.st_size)


def exists(path: str) -> bool:
  """Returns whether there is such a file."""
  return os.path.exists(path)


def open_bytes(path: str) -> BinaryIO:
  """Opens a file for reading."""
  return open(path, 'rb')


def read(path: str, limit: int | None) -> bytes:
  """Returns the content; raises ValueError if it has more than `limit` bytes."""
  with open(path, 'rb') as file:
    content = file.read() if limit is None else file.read(limit + 1)
  if limit is not None and len(content) > limit:
    raise ValueError(f'the file has more than {limit} bytes')
  return content


def write(path: str, content: bytes, durable: bool) -> None:
  """Replaces the file in one step."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  with _replacing(path) as incomplete, open(incomplete, 'wb') as file:
    file.write(content)
    if durable:
      file.flush()
      os.fsync(file.fileno())


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
