"""What `files` and its backends share: the errors, and the functions that a backend defines."""

import collections
import contextlib
import errno
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

from absl import app

# What the kernel answers if a disk, its network or this process is in trouble rather than the file.
# Not every system has all of them.
_OUTAGE_NAMES = (
  'EIO ESTALE ENOSPC EDQUOT EMFILE ENFILE ENOMEM EAGAIN ENODEV ENXIO EREMOTEIO ENOLINK ECOMM '
  'EPROTO ENOTCONN ESHUTDOWN ECONNABORTED ECONNREFUSED ECONNRESET ENETDOWN ENETUNREACH EHOSTDOWN '
  'EHOSTUNREACH ETIMEDOUT'
)
OUTAGES = frozenset(getattr(errno, name) for name in _OUTAGE_NAMES.split() if hasattr(errno, name))


class Unavailable(Exception):
  """A disk or Cloud Storage did not respond, delivered wrong bytes, or a file changed meanwhile.

  The same command may succeed later. It is not an OSError, so that no handler of damaged or missing
  files takes it for one of these.
  """


def raise_if_outage(error: OSError, uri: str) -> None:
  """Raises Unavailable if the error is about the disk rather than the file."""
  if error.errno in OUTAGES:
    error.filename = error.filename or uri
    raise Unavailable(
      f'{uri}: the file system failed ({error.strerror}); try again when it works'
    ) from error


class File(NamedTuple):
  """A file that was found, and its size in bytes."""

  uri: str
  size: int


@contextlib.contextmanager
def as_usage_error(flag: str) -> Iterator[None]:
  """Turns OSErrors about paths that the user gave into UsageErrors.

  An outage is none: a retry may succeed.

  Raises:
    app.UsageError: in place of any other OSError, with `flag` before its message.
    Unavailable: a disk failed, or is full.
  """
  try:
    yield
  except OSError as error:
    raise_if_outage(error, flag)
    raise app.UsageError(f'{flag}: {str(error).splitlines()[0]}') from error


class Backend(Protocol):
  """The functions of a module that stores files: `local` and `gcs`.

  `files` describes what each does. All raise what `files` promises.
  """

  def match(self, pattern: str, passed_over: collections.Counter[str]) -> Iterable[File]:
    """Returns the files that a pattern names, in any order; counts what it passes over, by kind."""

  def list_files(self, directory: str, passed_over: collections.Counter[str]) -> Iterable[File]:
    """Returns all files in a directory and its subdirectories likewise."""

  def exists(self, uri: str) -> bool:
    """Returns whether there is such a file."""

  def may_read(self, uri: str) -> bool:
    """Returns whether the user may in general read what is in the file's bucket."""

  def open_bytes(self, uri: str) -> BinaryIO:
    """Opens a file for reading, in any order."""

  def read(self, uri: str, limit: int | None) -> bytes:
    """Returns the content; raises ValueError if it has more than `limit` bytes."""

  def write(self, uri: str, content: bytes, durable: bool) -> None:
    """Replaces the file in one step."""

  def writing(self, uri: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Returns a context with a file to write, which replaces the file when the block ends."""

  def remove(self, uris: Iterable[str]) -> None:
    """Deletes those files that exist."""

  def remove_folder(self, directory: str) -> None:
    """Deletes a directory and everything in it, if it exists."""

  def publish(self, source: str, directory: str, last: str) -> None:
    """Replaces `directory` by a copy of the local folder `source`."""

  def copy(self, source: str, directory: str, last: str) -> None:
    """Copies the local folder `source` into `directory`."""

  def local_copy(self, directory: str) -> contextlib.AbstractContextManager[str]:
    """Returns a context in which a local directory has the same files."""
