"""A file read once from front to back, decompressed if it is gzip, and cut into chunks.

source = Stream('shard.tar.gz')
while source.ensure(512):
  header = source.take(512)
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from storage import files

BLOCK_BYTES = 1 << 20
GUNZIP_BYTES = 8 << 10  # on an error zlib discards the current piece's output, so pieces are small
CHUNK_BYTES = 64 << 20  # a chunk of large files ends early, so that memory stays bounded
GZIP = b'\x1f\x8b'

Item = TypeVar('Item')


def is_gzip(uri: str) -> bool:
  """Returns whether a file begins as gzip does."""
  with files.open_bytes(uri) as file:
    return file.read(2) == GZIP


class Stream:
  """Bytes `start` to `stop` of a file; of its decompressed content if it is gzip.

  Attributes:
    buffer, position: what has been read, and the reader's place in it.
    broken: why the content ends too early, or ''.
  """

  def __init__(self, uri: str, start: int = 0, stop: int = -1):
    self.buffer, self.position, self.broken = b'', 0, ''
    self._before = start  # where in the file the buffer begins
    self._blocks = self._read(uri, start, stop)

  @property
  def offset(self) -> int:
    """The reader's place in the decompressed file, in bytes."""
    return self._before + self.position

  def ensure(self, size: int) -> bool:
    """Reads until `size` more bytes are in the buffer; returns whether there are as many."""
    if len(self.buffer) - self.position >= size:
      return True
    self._before += self.position
    parts, held = [self.buffer[self.position :]], len(self.buffer) - self.position
    for block in self._blocks:
      parts.append(block)
      held += len(block)
      if held >= size:
        break
    self.buffer, self.position = b''.join(parts), 0
    return held >= size

  def take(self, size: int) -> bytes:
    """Returns the next `size` bytes, fewer at the end of the file."""
    self.ensure(size)
    taken = self.buffer[self.position : self.position + size]
    self.position += len(taken)
    return taken

  def skip(self, size: int) -> bool:
    """Skips `size` bytes, one block in memory at a time; returns whether there were as many."""
    while size:
      if not self.ensure(1):
        return False
      step = min(size, len(self.buffer) - self.position)
      self.position += step
      size -= step
    return True

  def _read(self, uri: str, start: int, stop: int) -> Iterator[bytes]:
    with files.open_bytes(uri) as file:
      if start:
        file.seek(start)
      left = stop - start if stop >= 0 else 1 << 62
      first = file.read(min(BLOCK_BYTES, left))
      blocks = _blocks(file, first, left)
      try:
        yield from _gunzip(blocks) if not start and first.startswith(GZIP) else blocks
      except (OSError, EOFError, zlib.error) as error:
        self.broken = f'{type(error).__name__}: {error}'


def _blocks(file: BinaryIO, block: bytes, left: int) -> Iterator[bytes]:
  while block:
    yield block
    left -= len(block)
    block = file.read(min(BLOCK_BYTES, left))


def _gunzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
  """Decompresses consecutive gzip members; unlike gzip.open, yields everything before damage."""
  member = None
  for block in blocks:
    for first in range(0, len(block), GUNZIP_BYTES):
      piece = block[first : first + GUNZIP_BYTES]
      while piece:
        member = member or zlib.decompressobj(wbits=31)
        yield member.decompress(piece)
        piece, member = (member.unused_data, None) if member.eof else (b'', member)
  if member:
    raise EOFError('the gzip stream is cut short')


def batch_by_size(
  items: Iterable[Item], num_bytes: Callable[[Item], int], max_items: int
) -> Iterator[list[Item]]:
  """Yields consecutive items in lists of `max_items`, fewer if they reach CHUNK_BYTES together."""
  batch: list[Item] = []
  held = 0
  for item in items:
    batch.append(item)
    held += num_bytes(item)
    if len(batch) == max_items or held >= CHUNK_BYTES:
      yield batch
      batch, held = [], 0
  if batch:
    yield batch
