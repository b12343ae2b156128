"""An object read in ranges, as a file, and checksums."""

import base64
import io

import google_crc32c
from google.cloud import storage as cloud_storage

from storage.base import Unavailable
from storage.gcs_errors import translate_errors

# Range sizes, growing while reading is sequential.
MIN_RANGE_BYTES, MAX_RANGE_BYTES = 256 << 10, 8 << 20


def crc32c(content: bytes) -> str:
  """Returns the checksum as Cloud Storage writes it."""
  return as_text(google_crc32c.Checksum(content))


def as_text(checksum: google_crc32c.Checksum) -> str:
  """Returns a checksum as Cloud Storage writes it."""
  return base64.b64encode(checksum.digest()).decode()


def verify(uri: str, found: str, expected: str | None) -> None:
  """Raises Unavailable if both checksums are known and differ: the content changed on its way."""
  if expected and found != expected:
    raise Unavailable(
      f'{uri}: its content arrived with crc32c {found} and is stored with {expected}; try again'
    )


class Limited(io.BytesIO):
  """A BytesIO that refuses more than `limit` bytes."""

  limit: int | None = None

  def write(self, content) -> int:
    """Appends content; raises ValueError if that is too much."""
    if self.limit is not None and self.tell() + len(content) > self.limit:
      raise ValueError(f'the file has more than {self.limit} bytes')
    return super().write(content)


class Ranges(io.RawIOBase):
  """The bytes of one generation of an object; if it is replaced, reading fails.

  Raises:
    Unavailable: on reading, no answer, or the object was replaced or deleted; at the end of the
      file, if it was read sequentially and its checksum differs.
  """

  def __init__(self, blob: cloud_storage.Blob, uri: str, **call):
    """
    Args:
      blob: with its size, generation and crc32c.
      uri: its name in errors.
      call: how to make a request: retry and timeout.
    """
    super().__init__()
    self._bucket, self._name, self._generation = blob.bucket, blob.name, blob.generation
    self._size, self._expected = blob.size, blob.crc32c
    self._uri, self._call = uri, call
    self._position, self._step = 0, MIN_RANGE_BYTES
    # Of the bytes read sequentially from the beginning.
    self._checked, self._checksum = 0, google_crc32c.Checksum()

  def readable(self) -> bool:
    """Returns True."""
    return True

  def seekable(self) -> bool:
    """Returns True."""
    return True

  def tell(self) -> int:
    """Returns the position in bytes."""
    return self._position

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    """Moves to a position and returns it."""
    origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
    if origin + offset != self._position:
      self._position, self._step = origin + offset, MIN_RANGE_BYTES
    return self._position

  def readinto(self, buffer) -> int:
    """Reads up to one range into `buffer` and returns the number of bytes, 0 at the end."""
    size = min(len(buffer), self._step, self._size - self._position)
    if size <= 0:
      return 0
    content = self._range(self._position, self._position + size)
    buffer[:size] = content
    self._check(content)
    self._position, self._step = self._position + size, min(self._step * 4, MAX_RANGE_BYTES)
    return size

  def _range(self, start: int, stop: int) -> bytes:
    blob = self._bucket.blob(self._name, generation=self._generation)
    try:
      with translate_errors(self._uri):
        content = blob.download_as_bytes(
          start=start, end=stop - 1, raw_download=True, checksum=None, **self._call
        )
    except FileNotFoundError as error:
      raise Unavailable(
        f'{self._uri}: was replaced or deleted while it was read; start again'
      ) from error
    if len(content) != stop - start:
      raise Unavailable(f'{self._uri}: {len(content)} of {stop - start} bytes arrived; try again')
    return content

  def _check(self, content: bytes) -> None:
    if self._position == self._checked:
      self._checksum.update(content)
      self._checked += len(content)
      if self._checked == self._size:
        verify(self._uri, as_text(self._checksum), self._expected)


def open_blob(blob: cloud_storage.Blob, uri: str, **call) -> io.BufferedReader:
  """Opens an object for reading; see `Ranges` for the arguments."""
  return io.BufferedReader(Ranges(blob, uri, **call), MAX_RANGE_BYTES)
