"""The sizes that the AV1 data of an AVIF file declares, which need not be those of its boxes."""

import struct
from collections.abc import Iterator

from images import bounds

SEQUENCE_HEADER, TEMPORAL_DELIMITER = 1, 2  # types of OBU (AV1 specification, section 6.2.2)
MAX_ITEMS = 4096


def check(data: bytes, max_pixels: int) -> None:
  """Raises ValueError if any part of the file is larger than max_pixels when decoded."""
  for number, offset in enumerate(_offsets(data)):
    if number == MAX_ITEMS:
      raise ValueError(f'the AVIF file has more than {MAX_ITEMS} parts: not decoded')
    found = _sequence_size(data[offset : offset + 64])
    if found:
      bounds.check_size(*found, max_pixels)


def _offsets(data: bytes) -> Iterator[int]:
  """Yields where items and the chunks of tracks begin, of all boxes that say so."""
  for kind, read in ((b'iloc', _item_offsets), (b'stco', _chunk_offsets)):
    at = -1
    while (at := data.find(kind, at + 1)) >= 0:
      try:
        yield from read(data, at + 4)
      except (struct.error, IndexError, ValueError):
        continue  # cut short, or no box


def _chunk_offsets(data: bytes, at: int) -> Iterator[int]:
  (count,) = struct.unpack_from('>I', data, at + 4)
  for number in range(count):
    yield struct.unpack_from('>I', data, at + 8 + 4 * number)[0]


def _item_offsets(data: bytes, at: int) -> Iterator[int]:
  """Yields where the extents of an `iloc` box begin (ISO/IEC 14496-12, section 8.11.3)."""
  version, sizes = data[at], data[at + 4 : at + 6].hex()
  offset_bytes, length_bytes, base_bytes, index_bytes = (int(digit, 16) for digit in sizes)
  id_format, skipped = ('I' if version == 2 else 'H'), (2 if version in (1, 2) else 0)
  (count,) = struct.unpack_from(f'>{id_format}', data, at + 6)
  at += 6 + struct.calcsize(id_format)
  for _ in range(count):
    at += struct.calcsize(id_format) + skipped + 2
    base = int.from_bytes(data[at : at + base_bytes], 'big')
    (extents,) = struct.unpack_from('>H', data, at + base_bytes)
    at += base_bytes + 2
    if not extents:
      yield base  # so that it counts as a part
    for _ in range(extents):
      at += index_bytes if version in (1, 2) else 0
      yield base + int.from_bytes(data[at : at + offset_bytes], 'big')
      at += offset_bytes + length_bytes


def _sequence_size(data: bytes) -> tuple[int, int] | None:
  """Returns the size in the sequence header that AV1 data begins with, or None if it has none."""
  at = 0
  while at + 2 < len(data):
    kind, has_extension, has_size = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
    at += 2 if has_extension else 1
    size, shift = len(data) - at, 0
    if has_size:
      size = 0
      while at < len(data) and shift < 56:
        size |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
          break
    if kind == SEQUENCE_HEADER:
      return _parse_sequence_header(data[at : at + size])
    if kind != TEMPORAL_DELIMITER:
      return None
    at += size
  return None


class _Bits:
  """Reads numbers bit by bit; beyond the end there are zeros."""

  def __init__(self, data: bytes):
    self._bits, self._left = int.from_bytes(data, 'big') << 64, 8 * len(data) + 64

  def read(self, count: int) -> int:
    """Returns the next `count` bits."""
    self._left = max(self._left - count, 0)
    return self._bits >> self._left & ((1 << count) - 1)


def _parse_sequence_header(data: bytes) -> tuple[int, int] | None:
  """Returns (width, height) of a sequence header (AV1 specification, section 5.5.1)."""
  bits = _Bits(data)
  bits.read(4)  # profile, still picture
  if bits.read(1):  # reduced still picture header
    bits.read(5)
  else:
    if bits.read(1):  # timing, which pictures do not have
      return None
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
      bits.read(12)
      if bits.read(5) > 7:
        bits.read(1)
      if has_delay and bits.read(1):
        bits.read(4)
  width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
  return bits.read(width_bits) + 1, bits.read(height_bits) + 1
