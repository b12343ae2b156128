"""A file read once from front to back, unpacked where it is gzip, and cut into chunks."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from storage import files

BLOCK_BYTES = 1 << 20
GUNZIP_BYTES = 8 << 10  # at damage, zlib keeps what it unpacked of the same piece to itself
CHUNK_BYTES = 64 << 20  # a chunk of large files ends early, so that memory stays bounded
GZIP = b'\x1f\x8b'

Item = TypeVar('Item')


class Stream:
  """Bytes from `start` to `stop` of a file; of what it unpacks to, where it is gzip.

  Attributes:
    buffer, position: what is read and where in it the reader is.
    broken: why the file ends before its end, or ''.
  """

  def __init__(self, uri: str, start: int = 0, stop: int = -1):
    self.buffer, self.position, self.broken = b'', 0, ''
    self._before = start  # where in the file the buffer begins
    self._blocks = self._read(uri, start, stop)

  @property
  def offset(self) -> int:
    """Where in the (unpacked) file the reader is, in bytes."""
    return self._before + self.position

  def have(self, size: int) -> bool:
    """Whether `size` more bytes are there; reads until they are."""
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
    """The next `size` bytes, or what is left of them."""
    self.have(size)
    taken = self.buffer[self.position : self.position + size]
    self.position += len(taken)
    return taken

  def skip(self, size: int) -> bool:
    """Moves on by `size` bytes, holding one block at a time. False where the file ends before."""
    while size:
      if not self.have(1):
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


def _blocks(file, block: bytes, left: int) -> Iterator[bytes]:
  while block:
    yield block
    left -= len(block)
    block = file.read(min(BLOCK_BYTES, left))


def _gunzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
  """Unpacks gzip members one after the other. Unlike gzip.open, it hands out everything that comes before damage."""
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


def cut(
  items: Iterable[Item], size: Callable[[Item], int], chunk_images: int
) -> Iterator[list[Item]]:
  """Consecutive items in lists of `chunk_images`, or fewer where they reach CHUNK_BYTES together."""
  chunk: list[Item] = []
  held = 0
  for item in items:
    chunk.append(item)
    held += size(item)
    if len(chunk) == chunk_images or held >= CHUNK_BYTES:
      yield chunk
      chunk, held = [], 0
  if chunk:
    yield chunk
