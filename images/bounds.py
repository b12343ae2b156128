"""What a file's header says about its size, checked before a decoder may trust it.

Pillow's own check looks at the size of the picture only. Decoders also allocate what else a header
declares, or take time for it.
"""

import re
import struct

from PIL import ImageFile

MAX_SCANS = 100  # of a JPEG; encoders write about 10, and each passes over all pixels
MAX_TILES = 4096  # of a JPEG 2000 file; its decoder allocates kilobytes for each
MAX_COMPONENTS = 4
MAX_CODESTREAMS = 100  # of a JPEG 2000 file, which usually has one
MAX_MARKERS = 1000  # of a codestream's main header; encoders write about 10
MAX_LAYERS = 1000  # encoders write some dozens at most
MAX_PACKETS = 1 << 16  # tiles times layers
MIN_PRECINCT_BITS = 4  # of a side; there is a structure for each precinct
MIN_TILE_PIXELS = 1 << 20  # a TIFF's tile may be larger than a small picture
MAX_SLOW_VALUES = 1_000_000  # Pillow decodes some kinds of PNM value by value, in Python
TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
TIFF_TYPE_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}
TILE_WIDTH, TILE_HEIGHT = 322, 323
BITS, PLANES, SEPARATE = 258, 284, 2
MARKER = re.compile(rb'\xff[^\0\xff\xd0-\xd7]')  # of a JPEG, except those within a scan
START_OF_SCAN, END_OF_IMAGE, STANDALONE = 0xDA, 0xD9, (0x01, 0xD8)
START_OF_TILE, CODING_STYLE = b'\xff\x90', b'\xff\x52'
CODESTREAM = b'\xff\x4f\xff\x51'  # how one of JPEG 2000 begins


def check_size(width: int, height: int, max_pixels: int) -> None:
  """Raises ValueError if a picture is larger than --max_pixels."""
  if width * height > max_pixels:
    raise ValueError(f'{width}x{height} is more than --max_pixels={max_pixels}: not decoded')


def check_webp(data: bytes, max_pixels: int) -> None:
  """Checks the header of a WebP file, whose decoder allocates the image on open."""
  if len(data) < 30:
    return
  if data[12:16] == b'VP8X':
    width, height = (1 + int.from_bytes(data[at : at + 3], 'little') for at in (24, 27))
  elif data[12:16] == b'VP8L':
    bits = int.from_bytes(data[21:25], 'little')
    width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  else:
    width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', data, 26))
  check_size(width, height, max_pixels)


def check_jpeg(data: bytes, max_pixels: int) -> None:
  """Checks the number of a JPEG's scans."""
  if data.count(bytes([0xFF, START_OF_SCAN])) <= MAX_SCANS:
    return
  position = scans = 0
  while found := MARKER.search(data, position):
    marker, position = data[found.end() - 1], found.end()
    if marker == END_OF_IMAGE:
      return  # what follows may be anything
    if marker not in STANDALONE:
      position += int.from_bytes(data[position : position + 2], 'big')
    scans += marker == START_OF_SCAN
    if scans > MAX_SCANS:
      raise ValueError(f'the JPEG has more than {MAX_SCANS} scans: not decoded')


def check_jpeg2000(data: bytes, max_pixels: int) -> None:
  """Checks the codestreams of a JPEG 2000 file, which need not be of the size in its box."""
  if data.count(CODESTREAM) > MAX_CODESTREAMS:
    raise ValueError(f'the JPEG 2000 file has more than {MAX_CODESTREAMS} codestreams: not decoded')
  start = -1
  while (start := data.find(CODESTREAM, start + 1)) >= 0:
    if start + 42 > len(data):
      return
    right, bottom, left, top, tile_width, tile_height, _, _, components = struct.unpack_from(
      '>8IH', data, start + 8
    )
    if right <= left or bottom <= top or not tile_width or not tile_height:
      raise ValueError('the header is damaged')
    check_size(right - left, bottom - top, max_pixels)
    tiles = -(-right // tile_width) * -(-bottom // tile_height)
    if tiles > MAX_TILES or components > MAX_COMPONENTS:
      raise ValueError(
        f'the JPEG 2000 file has {tiles} tiles and {components} components, more than '
        f'{MAX_TILES} or {MAX_COMPONENTS}: not decoded'
      )
    _check_coding(data, start + 2, tiles)


def _check_coding(data: bytes, at: int, tiles: int) -> None:
  """Checks the layers and precincts that the main header of a JPEG 2000 codestream declares."""
  for _ in range(MAX_MARKERS):
    if at + 16 >= len(data) or data[at : at + 2] == START_OF_TILE:
      return
    length = int.from_bytes(data[at + 2 : at + 4], 'big')
    if data[at : at + 2] == CODING_STYLE:
      layers = int.from_bytes(data[at + 6 : at + 8], 'big')
      precincts = data[at + 14 : at + 2 + length] if data[at + 4] & 1 else b''
      is_too_fine = any(min(sides >> 4, sides & 15) < MIN_PRECINCT_BITS for sides in precincts)
      if layers > MAX_LAYERS or layers * tiles > MAX_PACKETS or is_too_fine:
        raise ValueError('the JPEG 2000 file has too many layers or precincts: not decoded')
    at += 2 + max(length, 2)
  raise ValueError(f'the JPEG 2000 header has more than {MAX_MARKERS} markers: not decoded')


def check_tiff(data: bytes, max_pixels: int) -> None:
  """Checks the first directory of a TIFF: the size of its tiles, and that of all tags together."""
  tags = _tiff_tags(data)
  width, height = tags.get(TILE_WIDTH, (0, 0))[1], tags.get(TILE_HEIGHT, (0, 0))[1]
  if width * height > max(max_pixels, MIN_TILE_PIXELS):
    raise ValueError(
      f'its tiles of {width}x{height} are more than --max_pixels={max_pixels}: not decoded'
    )
  if sum(size for size, _ in tags.values()) > 2 * len(data) + 65536:
    raise ValueError('the TIFF tags declare more data than there is: not decoded')


def check_planes(image: ImageFile.ImageFile) -> None:
  """Raises ValueError for a TIFF with a plane of 16 bits for each colour, of which Pillow errs."""
  planes, bits = image.tag_v2.get(PLANES), image.tag_v2.get(BITS)  # type: ignore[attr-defined]
  if planes == SEPARATE and isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8:
    raise ValueError(
      f'TIFF with {max(bits)} bits in a plane for each colour is not read; save it interleaved'
    )


def _tiff_tags(data: bytes) -> dict[int, tuple[int, int]]:
  """Returns the first directory: by tag, the size of its data in bytes, and its value if it is one.

  A tag that occurs again counts as often.
  """
  order = '<' if data[:2] == b'II' else '>'
  is_big = b'+' in data[2:4]
  offset, count, entry = ('Q', 'Q', 'HHQ') if is_big else ('I', 'H', 'HHI')
  tags: dict[int, tuple[int, int]] = {}
  try:
    (start,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + count, data, start)
    start += struct.calcsize(order + count)
    for at in range(start, start + entries * (20 if is_big else 12), 20 if is_big else 12):
      tag, kind, values = struct.unpack_from(order + entry, data, at)
      where = at + struct.calcsize(order + entry)
      (value,) = struct.unpack_from(order + ('H' if kind == 3 else offset), data, where)
      size = values * TIFF_TYPE_BYTES.get(kind, 0)
      tags[tag] = (tags.get(tag, (0, 0))[0] + size, value)
  except struct.error:
    pass  # cut short: Pillow rejects it
  return tags


def check_png(data: bytes, max_pixels: int) -> None:
  """Checks the size in a PNG's header before its chunks are looked at."""
  if data[12:16] == b'IHDR' and len(data) >= 24:
    width, height = struct.unpack_from('>II', data, 16)
    check_size(width, height, max_pixels)


def check_pnm(image: ImageFile.ImageFile) -> None:
  """Raises ValueError if decoding takes too long."""
  values = image.width * image.height * len(image.getbands())
  if image.tile[0].codec_name != 'raw' and values > MAX_SLOW_VALUES:
    raise ValueError(f'{values} values of this kind of PNM are too slow to decode: use PNG')
