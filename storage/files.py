"""Files, local or gs://. A written file appears whole or not at all.

  files.write('gs://bucket/run/metrics.json', text)
  for file in files.match('pictures/**/*.png'):
    content = files.read(file.uri)

Every function raises an OSError whose message is one line that names the file and the remedy, among
them FileNotFoundError and PermissionError; or Unavailable, which is no OSError, if the remedy is to
try again later.
"""

import collections
import contextlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from storage import local, spool
from storage.base import Backend
from storage.base import File as File
from storage.base import Unavailable as Unavailable
from storage.base import as_usage_error as as_usage_error

CLOUD = 'gs://'
Counts = collections.Counter[str]


def is_local(uri: str) -> bool:
  """Returns whether a file is on this machine's file system."""
  return '://' not in uri


def _backend(uri: str) -> Backend:
  """Returns the backend module for a URI. That of Cloud Storage takes 0.3 s to import."""
  if '\0' in uri:
    raise OSError(f'{uri!a}: has a null character, which no name has; correct it')
  if is_local(uri):
    return local
  if not uri.startswith(CLOUD):
    raise OSError(f'{uri}: files are local or {CLOUD}; pass one of these')
  from storage import gcs

  return gcs


def join(directory: str, *names: str) -> str:
  """Returns the URI of a file in a directory."""
  return '/'.join([directory.rstrip('/'), *names])


def match(pattern: str) -> list[File]:
  """Returns the files that a pattern names, sorted."""
  return list(spool.in_order(iter_match(pattern)))


def iter_match(pattern: str, passed_over: Counts | None = None) -> Iterator[File]:
  """Yields the files that a pattern names, in any order, some maybe more than once.

  `**/` also matches no directory at all.

  Wildcards match no name that begins with a dot. Where the pattern, or a directory in it, is the
  name of something that exists, that is what it means.

  Args:
    pattern: a path with wildcards.
    passed_over: counts what would match but is hidden, or is no regular file, by kind.
  """
  yield from _backend(pattern).match(pattern, Counts() if passed_over is None else passed_over)


def list_files(directory: str, passed_over: Counts | None = None) -> list[File]:
  """Returns all files in a directory and its subdirectories, sorted, except hidden ones."""
  return sorted(iter_files(directory, passed_over))


def iter_files(directory: str, passed_over: Counts | None = None) -> Iterator[File]:
  """Yields all files in a directory and its subdirectories, in any order, except hidden ones.

  Hidden are those whose name, or a subdirectory's, begins with a dot.

  Args:
    directory: its path; no character in it is a wildcard.
    passed_over: counts what is left out, as for `iter_match`.
  """
  counts = Counts() if passed_over is None else passed_over
  yield from _backend(directory).list_files(directory, counts)


def exists(uri: str) -> bool:
  """Returns whether there is such a file."""
  return _backend(uri).exists(uri)


def may_read(uri: str) -> bool:
  """Returns whether the user may in general read what is in the file's bucket; True on a disk.

  Where a file that may not be read is one of many, this tells whether it is the only one.
  """
  return _backend(uri).may_read(uri)


def open_bytes(uri: str) -> BinaryIO:
  """Opens a file for reading its stored bytes, in any order: nothing is decompressed by name."""
  return _backend(uri).open_bytes(uri)


def read(uri: str, limit: int | None = None) -> bytes:
  """Returns the file's content.

  Raises:
    ValueError: it has more than `limit` bytes.
  """
  return _backend(uri).read(uri, limit)


def write(uri: str, content: str | bytes, durable: bool = False) -> None:
  """Replaces the file at `uri` in one step. An object in a bucket appears when its upload ends.

  Args:
    uri: where to; a missing directory is created.
    content: text is written as UTF-8.
    durable: whether a local file has to survive a power failure, which takes milliseconds; objects
      in a bucket always do.
  """
  encoded = content.encode() if isinstance(content, str) else content
  _backend(uri).write(uri, encoded, durable)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[BinaryIO]:
  """Yields a file to write, which replaces the one at `uri` when the block ends without an error.

  For content that is too large for memory. In a bucket it is on this machine's disk until then.
  """
  with _backend(uri).writing(uri) as file:
    yield file


def remove(uris: Iterable[str]) -> None:
  """Deletes those files that exist."""
  for backend, some in _group_by_backend(uris).items():
    backend.remove(some)


def _group_by_backend(uris: Iterable[str]) -> dict[Backend, list[str]]:
  groups: dict[Backend, list[str]] = {}
  for uri in uris:
    groups.setdefault(_backend(uri), []).append(uri)
  return groups


def remove_folder(directory: str) -> None:
  """Deletes a directory and everything in it, if it exists."""
  _backend(directory).remove_folder(directory)


def publish(source: str, directory: str, last: str) -> None:
  """Replaces `directory` by a copy of the local folder `source`.

  Readers see a local directory whole or not at all. A bucket has no directories: there the file
  called `last`, for which readers look, is deleted first and written last.
  """
  _backend(directory).publish(source, directory, last)


def copy(source: str, directory: str, last: str) -> None:
  """Copies the local folder `source` into `directory`, the file called `last` last.

  Other files in `directory` stay.
  """
  _backend(directory).copy(source, directory, last)


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
  """Yields a local directory with the same files: itself, or one that is deleted afterwards."""
  with _backend(directory).local_copy(directory) as copied:
    yield copied
