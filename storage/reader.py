"""An object read in ranges, as a file, and checksums."""

import base64
import io

import google_crc32c
from google.cloud import storage

from storage import errors

FIRST_BYTES, MOST_BYTES = (
  256 << 10,
  8 << 20,
)  # of a request: whoever goes on reading gets larger ones


def crc32c(content: bytes) -> str:
  """The checksum as Cloud Storage writes it."""
  return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


def verify(uri: str, found: str, expected: str | None) -> None:
  """Raises OSError where both checksums are known and differ."""
  if expected and found != expected:
    raise OSError(
      f'{uri}: its content came with crc32c {found} and is kept with {expected}; try again'
    )


class Ranges(io.RawIOBase):
  """The bytes of one generation of an object: replaced meanwhile, reading it fails rather than mix the two.

  Raises:
    OSError: from its end on, where all was read in order and is not what the checksum says.
  """

  def __init__(self, blob: storage.Blob, uri: str, **call):
    """
    Args:
      blob: with its size, generation and crc32c.
      uri: what it is called in errors.
      call: how a request is made: retry and timeout.
    """
    super().__init__()
    self._bucket, self._name, self._generation = blob.bucket, blob.name, blob.generation
    self._size, self._expected = blob.size, blob.crc32c
    self._uri, self._call = uri, call
    self._position, self._step = 0, FIRST_BYTES
    self._checked, self._checksum = (
      0,
      google_crc32c.Checksum(),
    )  # of the bytes that were read in order

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._position

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
    if origin + offset != self._position:
      self._position, self._step = origin + offset, FIRST_BYTES
    return self._position

  def readinto(self, buffer) -> int:
    size = min(len(buffer), self._step, self._size - self._position)
    if size <= 0:
      return 0
    content = self._range(self._position, self._position + size)
    buffer[:size] = content
    self._check(content)
    self._position, self._step = self._position + size, min(self._step * 4, MOST_BYTES)
    return size

  def _range(self, start: int, stop: int) -> bytes:
    blob = self._bucket.blob(self._name, generation=self._generation)
    try:
      with errors.explained(self._uri):
        content = blob.download_as_bytes(
          start=start, end=stop - 1, raw_download=True, checksum=None, **self._call
        )
    except FileNotFoundError as error:
      raise OSError(
        f'{self._uri}: was replaced or deleted while it was read; start again'
      ) from error
    if len(content) != stop - start:
      raise OSError(f'{self._uri}: {len(content)} bytes came of {stop - start}; try again')
    return content

  def _check(self, content: bytes) -> None:
    if self._position == self._checked:
      self._checksum.update(content)
      self._checked += len(content)
      if self._checked == self._size:
        verify(self._uri, base64.b64encode(self._checksum.digest()).decode(), self._expected)


def opened(blob: storage.Blob, uri: str, **call) -> io.BufferedReader:
  return io.BufferedReader(Ranges(blob, uri, **call), MOST_BYTES)
