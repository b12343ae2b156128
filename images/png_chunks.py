"""The chunks of a PNG file: those that its pixels need, whole, without the others."""

import struct
import zlib
from collections.abc import Sequence

SIGNATURE = b'\x89PNG\r\n\x1a\n'
CRITICAL = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
TRANSPARENCY = b'tRNS'
METADATA = (b'eXIf', b'tEXt', b'zTXt', b'iTXt')
# Which chunks to keep beside the critical ones; each attempt does with less.
ATTEMPTS = ((TRANSPARENCY, *METADATA), (TRANSPARENCY,), ())
ORIENTATION_TEXTS = (b'Raw profile type exif\0', b'XML:com.adobe.xmp\0')
MAX_CHUNKS = 100_000


def needed(data: bytes, optional: Sequence[bytes]) -> bytes:
  """Returns a PNG file without the chunks that its pixels do not need.

  An ancillary chunk with a wrong checksum is left out, as libpng does, and what would make an
  animation of it, so that its plain picture counts.

  Args:
    data: a PNG file.
    optional: ancillary chunks to keep; of metadata, only what may tell the orientation.

  Raises:
    ValueError: a chunk that the pixels need is damaged, or the end is missing.
  """
  kept = [SIGNATURE]
  position = len(SIGNATURE)
  for _ in range(MAX_CHUNKS):
    if position + 12 > len(data):
      break
    length, kind = struct.unpack_from('>I4s', data, position)
    end = position + 12 + length
    if end > len(data) or not kind.isalpha():
      break
    crc = zlib.crc32(memoryview(data)[position + 4 : end - 4])
    is_whole = crc == int.from_bytes(data[end - 4 : end], 'big')
    if not is_whole and _may_be_critical(kind):
      raise ValueError(f'the checksum of a PNG chunk {kind.decode("latin-1")} is wrong')
    if is_whole and _is_needed(kind, data[position + 8 : position + 40], optional):
      kept.append(data[position:end])
    if kind == b'IEND':
      return b''.join(kept)
    position = end
  else:
    raise ValueError(f'the PNG file has more than {MAX_CHUNKS} chunks: not decoded')
  raise ValueError('the PNG file is cut short')


def _may_be_critical(kind: bytes) -> bool:
  """Returns whether a type is that of a critical chunk, or one with a changed letter."""
  is_ancillary = kind[0] & 0x20
  near = (sum(a != b for a, b in zip(kind, known)) <= 1 for known in CRITICAL)
  return not is_ancillary or any(near)


def _is_needed(kind: bytes, begin: bytes, optional: Sequence[bytes]) -> bool:
  if kind in METADATA and kind != b'eXIf' and not begin.startswith(ORIENTATION_TEXTS):
    return False
  return kind in optional or not kind[0] & 0x20
