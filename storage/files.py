"""Files, local or gs://. What is written appears whole or not at all.

Where something is wrong, every function raises an OSError whose message is one line that names the file and the remedy:
FileNotFoundError, PermissionError, or Unavailable where trying again later is the remedy.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from absl import app

from storage import local

CLOUD = 'gs://'


class File(NamedTuple):
  """A file that was found, and its size in bytes."""

  uri: str
  size: int


class Unavailable(OSError):
  """Cloud Storage did not answer for as long as a call is repeated."""


@contextlib.contextmanager
def refused(flag: str) -> Iterator[None]:
  """Makes what is wrong with files that the user named bad input, unless it may be right later.

  Raises:
    app.UsageError: in place of any OSError but Unavailable, with `flag` before its message.
  """
  try:
    yield
  except Unavailable:
    raise
  except OSError as error:
    raise app.UsageError(f'{flag}: {str(error).splitlines()[0]}') from error


def is_local(uri: str) -> bool:
  return '://' not in uri


def _home(uri: str):
  """The module that keeps this file. Cloud Storage's client takes a third of a second to import."""
  if is_local(uri):
    return local
  if not uri.startswith(CLOUD):
    raise OSError(f'{uri}: files are local or {CLOUD}; pass one of these')
  from storage import gcs

  return gcs


def join(directory: str, *names: str) -> str:
  return '/'.join([directory.rstrip('/'), *names])


def match(pattern: str) -> list[File]:
  """The files that a pattern names, sorted. `**/` also stands for no directory at all.

  Wildcards match no name that begins with a dot. A file whose very name the pattern is, is the only one it names.
  """
  return [File(*found) for found in sorted(_home(pattern).match(pattern))]


def under(directory: str) -> list[File]:
  """All files in a directory and its directories, sorted, but for those whose names begin with a dot."""
  return [File(*found) for found in sorted(_home(directory).under(directory))]


def exists(uri: str) -> bool:
  return os.path.exists(uri) if is_local(uri) else _home(uri).exists(uri)


def open_bytes(uri: str) -> BinaryIO:
  """The file's own bytes, in any order: nothing is decompressed by its name."""
  return open(uri, 'rb') if is_local(uri) else _home(uri).open_bytes(uri)


def read(uri: str, limit: int | None = None) -> bytes:
  """The file's content.

  Raises:
    ValueError: it has more than `limit` bytes.
  """
  return _home(uri).read(uri, limit)


def write(uri: str, content: str | bytes, durable: bool = False) -> None:
  """Replaces the file at `uri` in one step. An object in a bucket only appears when its upload ends.

  Args:
    uri: where to; a directory that is missing is made.
    content: text is written as UTF-8.
    durable: whether a local file has to survive a power failure. That costs milliseconds; a bucket's always do.
  """
  _home(uri).write(uri, content.encode() if isinstance(content, str) else content, durable)


def remove(uris: Iterable[str]) -> None:
  """Deletes files, those that are there."""
  for home, some in _by_home(uris).items():
    home.remove(some)


def _by_home(uris: Iterable[str]) -> dict:
  homes: dict = {}
  for uri in uris:
    homes.setdefault(_home(uri), []).append(uri)
  return homes


def remove_folder(directory: str) -> None:
  """Deletes a directory, if it is there, and all that is in it."""
  _home(directory).remove_folder(directory)


def publish(source: str, directory: str, last: str) -> None:
  """Copies the local folder `source` to `directory`, in place of what is there.

  Readers see a local directory whole or not at all. In a bucket, which has no directories, the file called `last`, for
  which they look, goes first and comes last.
  """
  _home(directory).publish(source, directory, last)


def copy(source: str, directory: str, last: str) -> None:
  """Copies the local folder `source` into `directory`, the file called `last` last. What else is there stays."""
  _home(directory).copy(source, directory, last)


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
  """A local directory with the same files: itself, or one that is gone afterwards."""
  if is_local(directory):
    yield directory
    return
  with tempfile.TemporaryDirectory() as copy:
    _home(directory).fetch(directory, copy)
    yield copy
