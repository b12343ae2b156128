"""Sparse files in tar archives: where the parts go that are stored.

GNU's own headers, and the three versions that pax headers describe
(https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from batch.readers import stream, tar_numbers

BLOCK = 512
DAMAGED = 'the map of a sparse file is damaged'
MAX_MAP_BLOCKS = 10_000


class Sparse(NamedTuple):
  """How a sparse file is put together.

  Attributes:
    size: the number of bytes of the whole file.
    parts: (offset, length) of what is stored, one after the other; None if the content begins with
      this map.
  """

  size: int
  parts: Sequence[tuple[int, int]] | None

  def expand(self, stored: bytes) -> bytes:
    """Returns the whole file from what is stored.

    Raises:
      ValueError: the map is damaged.
    """
    parts, place = (self.parts, 0) if self.parts is not None else _leading_map(stored)
    whole = bytearray(self.size)
    for offset, length in parts:
      if min(offset, length) < 0 or offset + length > self.size or place + length > len(stored):
        raise ValueError(DAMAGED)
      whole[offset : offset + length] = stored[place : place + length]
      place += length
    return bytes(whole)


def from_gnu_header(header: bytes, source: stream.Stream) -> Sparse:
  """Returns the map in a header of type S and in the blocks that follow it in the stream.

  Raises:
    ValueError: the map is damaged.
  """
  parts, is_extended = _gnu_parts(header[386:482]), header[482]
  for _ in range(MAX_MAP_BLOCKS):
    if not is_extended:
      break
    block = source.take(BLOCK)
    if len(block) < BLOCK:
      raise ValueError(DAMAGED)
    parts += _gnu_parts(block[:504])
    is_extended = block[504]
  size = tar_numbers.number(header[483:495])
  if is_extended or size < 0:
    raise ValueError(DAMAGED)
  return Sparse(size, parts)


def _gnu_parts(fields: bytes) -> list[tuple[int, int]]:
  pairs = [fields[place : place + 24] for place in range(0, len(fields), 24)]
  return [
    (tar_numbers.number(pair[:12]), tar_numbers.number(pair[12:])) for pair in pairs if pair[0]
  ]


def from_pax(records: Mapping[bytes, Sequence[bytes]]) -> Sparse | None:
  """Returns the map that a pax header describes, or None if the file is not sparse.

  Raises:
    ValueError: the map is damaged.
  """
  sizes = records.get(b'GNU.sparse.realsize') or records.get(b'GNU.sparse.size')
  if not sizes:
    return None
  (size,) = _integers(sizes[-1:])
  if records.get(b'GNU.sparse.major', [b'0'])[-1] == b'1':
    return Sparse(size, None)
  if b'GNU.sparse.map' in records:
    numbers = _integers(records[b'GNU.sparse.map'][-1].split(b','))
    return Sparse(size, list(zip(numbers[::2], numbers[1::2])))
  offsets = _integers(records.get(b'GNU.sparse.offset', ()))
  return Sparse(size, list(zip(offsets, _integers(records.get(b'GNU.sparse.numbytes', ())))))


def _leading_map(stored: bytes) -> tuple[list[tuple[int, int]], int]:
  """Returns the map with which a file's content begins, and where what is stored begins."""
  first, place = _line(stored, 0)
  numbers: list[int] = []
  for _ in range(2 * min(first, len(stored))):
    value, place = _line(stored, place)
    numbers.append(value)
  return list(zip(numbers[::2], numbers[1::2])), -(-place // BLOCK) * BLOCK


def _line(stored: bytes, place: int) -> tuple[int, int]:
  end = stored.find(b'\n', place, place + 24)
  if end < 0:
    raise ValueError(DAMAGED)
  (value,) = _integers([stored[place:end]])
  return value, end + 1


def _integers(texts: Sequence[bytes]) -> list[int]:
  if not all(text.isdigit() and len(text) < 20 for text in texts):
    raise ValueError(DAMAGED)
  return [int(text) for text in texts]
