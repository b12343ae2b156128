"""A file read once from front to back, decompressed if need be, and cut into chunks.

source = Stream('shard.tar.gz')
while source.ensure(512):
  header = source.take(512)
"""

import bz2
import contextlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

import zstandard

from storage import files

BLOCK_BYTES = 1 << 20
# Who skims reads little and skips much. In a bucket a request takes as long as reading 4 MB.
SKIM_BYTES, CLOUD_SKIP_BYTES = 16 << 10, 4 << 20
CHUNK_BYTES = 64 << 20  # a chunk of large files ends early, so that memory stays bounded
XZ_MEMORY_BYTES = 256 << 20  # xz -9 needs 65 MiB
GZIP = b'\x1f\x8b'
HEAD_BYTES = 16  # tell how a file is compressed
SUFFIXES = ('', '.gz', '.bz2', '.xz', '.zst')  # of names of files that may be compressed
SUFFIX = r'(\.(gz|bz2|xz|zst))?'

Item = TypeVar('Item')


class Codec(NamedTuple):
  """A kind of compression.

  Attributes:
    begins: how its files begin.
    start: returns what decompresses one member, of which a file may have several.
    piece_bytes: how much is decompressed at a time, which bounds the memory.
  """

  name: str
  begins: tuple[bytes, ...]
  start: Callable[[], Any]
  piece_bytes: int


CodecOf = Callable[[bytes], Codec | None]  # from a file's beginning

ZLIB = Codec(
  'zlib', (b'\x78\x01', b'\x78\x5e', b'\x78\x9c', b'\x78\xda'), zlib.decompressobj, 32 << 10
)
CODECS = (
  Codec('gzip', (GZIP + b'\x08',), lambda: zlib.decompressobj(wbits=31), 32 << 10),
  Codec('bzip2', tuple(b'BZh%d1AY&SY' % n for n in range(1, 10)), bz2.BZ2Decompressor, 1024),
  Codec('xz', (b'\xfd7zXZ\0',), lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES), 1024),
  Codec(
    'zstd',
    (b'\x28\xb5\x2f\xfd', *(bytes([0x50 + n]) + b'\x2a\x4d\x18' for n in range(16))),
    lambda: zstandard.ZstdDecompressor().decompressobj(),
    1024,
  ),
)


class _DamagedError(Exception):
  """Compressed content that cannot be decompressed further."""


def find_codec(beginning: bytes) -> Codec | None:
  """Returns how a file that begins like this is compressed, or None if it is not."""
  return next((codec for codec in CODECS if beginning.startswith(codec.begins)), None)


def is_compressed(uri: str, codec_of: CodecOf = find_codec) -> bool:
  """Returns whether a file is compressed, so that reading it can only begin at its start."""
  with files.open_bytes(uri) as file:
    return codec_of(file.read(HEAD_BYTES)) is not None


class Stream:
  """Bytes `start` to `stop` of a file; of its decompressed content if it is compressed.

  Reading raises what `files` does; damage ends the content instead, and `broken` is the reason.

  Attributes:
    buffer, position: what has been read, and the reader's place in it.
    broken: why the content ends too early, or ''.
  """

  def __init__(
    self,
    uri: str,
    start: int = 0,
    stop: int = -1,
    codec_of: CodecOf = find_codec,
    skims: bool = False,
  ):
    """Prepares to read; the file is opened when something is read.

    Args:
      uri: the file.
      start: its first byte that is read.
      stop: the one after the last; -1 for the end.
      codec_of: returns how a file that begins like this is compressed.
      skims: whether what is skipped in a file that is not compressed need not be read.
    """
    self.buffer, self.position, self.broken = b'', 0, ''
    self._before = start  # where in the file the buffer begins
    self._end: int | None = None  # of the content; None if it is compressed or not yet opened
    self._skims, self._is_local = skims, files.is_local(uri)
    self._block_bytes = SKIM_BYTES if skims and self._is_local else BLOCK_BYTES
    self._file: BinaryIO | None = None  # in which to skip
    self._blocks = self._read(uri, start, stop, codec_of)

  @property
  def offset(self) -> int:
    """Returns the reader's place in the decompressed file, in bytes."""
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

  def peek(self, size: int) -> bytes:
    """Returns what `take` would, and stays in place."""
    self.ensure(size)
    return self.buffer[self.position : self.position + size]

  def skip(self, size: int) -> bool:
    """Skips `size` bytes, one block in memory at a time; returns whether there were as many."""
    unread = size - (len(self.buffer) - self.position)
    if self._file and unread > (0 if self._is_local else CLOUD_SKIP_BYTES):
      return self._skip_unread(self._file, self.offset + size)
    while size:
      if not self.ensure(1):
        return False
      step = min(size, len(self.buffer) - self.position)
      self.position += step
      size -= step
    return True

  def _skip_unread(self, file: BinaryIO, target: int) -> bool:
    end = self._end or 0
    self._before, self.buffer, self.position = min(target, end), b'', 0
    file.seek(self._before)
    return target <= end

  def at_end(self) -> bool:
    """Returns whether nothing is left."""
    return not self.ensure(1)

  def lacks(self, size: int) -> bool:
    """Returns whether it is known, without reading, that fewer than `size` bytes are left."""
    return self._end is not None and self.offset + size > self._end

  def _read(self, uri: str, start: int, stop: int, codec_of: CodecOf) -> Iterator[bytes]:
    with files.open_bytes(uri) as file:
      end = stop if stop >= 0 else file.seek(0, os.SEEK_END)
      file.seek(start)
      first = file.read(min(self._block_bytes, max(end - start, 0)))
      blocks = _blocks(file, first, end, self._block_bytes)
      codec = None if start else codec_of(first)
      self._end = None if codec else end
      self._file = file if self._skims and not codec else None
      try:
        yield from _decompress(blocks, codec) if codec else blocks
      except _DamagedError as error:
        self.broken = str(error)
    self._file = None


def _blocks(file: BinaryIO, block: bytes, end: int, size: int) -> Iterator[bytes]:
  while block:
    yield block
    block = file.read(min(size, max(end - file.tell(), 0)))


def _decompress(blocks: Iterable[bytes], codec: Codec) -> Iterator[bytes]:
  """Decompresses consecutive members; unlike gzip.open, yields everything before damage."""
  member, is_first = None, True
  for block in blocks:
    for first in range(0, len(block), codec.piece_bytes):
      piece = block[first : first + codec.piece_bytes]
      while piece := piece if member or is_first else piece.lstrip(b'\0'):  # may be padded
        member, is_first = member or codec.start(), False
        yield from _decompressed(member, piece, codec)
        piece, member = (member.unused_data, None) if member.eof else (b'', member)
  if member:
    raise _DamagedError(f'the {codec.name} data is cut short')


def _decompressed(member: Any, piece: bytes, codec: Codec) -> Iterator[bytes]:
  """Yields the content of a piece, if it is damaged that of the bytes before the damage."""
  before = member.copy() if hasattr(member, 'copy') else None
  try:
    content = member.decompress(piece)
  except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
    if before:
      yield _until_damage(before, piece)
    raise _DamagedError(f'the {codec.name} data is damaged ({error})') from error
  yield content


def _until_damage(member: Any, piece: bytes) -> bytes:
  parts = []
  with contextlib.suppress(zlib.error):
    for place in range(len(piece)):
      parts.append(member.decompress(piece[place : place + 1]))
  return b''.join(parts)


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
