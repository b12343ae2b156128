"""Plain PNG files of one size, many at a time: per-file decoder set-up costs more than the pixels.

The scanlines of each file are inflated and joined into one tall PNG, stored and not compressed,
which OpenCV decodes in one call. A line of zeros precedes each image's lines: filters refer to the
line above, and above the first line there must be nothing but zeros (PNG specification, section
9.2).
"""

import functools
import struct
from collections.abc import Sequence

import cv2
import deflate
import numpy as np

from images import ImageShape

COLOUR_TYPES = {1: 0, 3: 2}  # by channels: grey, RGB
LAST_FILTER = 4
MAX_STRIP_IMAGES = 64
MAX_STORED_BYTES = 0xFFFF  # of a stored block of deflate
END = b'\0\0\0\0IEND\xaeB`\x82'

cv2.setNumThreads(1)  # threads slow its decoder down, and there are many processes


def strip_images(shape: ImageShape) -> int:
  """Returns how many images `decode` takes at once: 0 if they are too large for it."""
  height = shape[0]
  return min(MAX_STRIP_IMAGES, MAX_STORED_BYTES // ((height + 1) * _line_bytes(shape)))


def scanlines(data: bytes, shape: ImageShape) -> bytearray | None:
  """Returns the filtered lines of a plain 8-bit PNG of this size, or None for any other file.

  A plain file contains one IDAT chunk and nothing else.
  """
  plain = _head(*shape)
  start = len(plain)
  if not data.startswith(plain) or not data.endswith(END) or data[start + 4 : start + 8] != b'IDAT':
    return None
  length = int.from_bytes(data[start : start + 4], 'big')
  checksum = int.from_bytes(data[-16:-12], 'big')
  if length + start + 24 != len(data) or deflate.crc32(data[start + 4 : -16]) != checksum:
    return None
  size = shape[0] * _line_bytes(shape)
  try:
    lines = deflate.zlib_decompress(data[start + 8 : -16], size)
  except deflate.DeflateError:
    return None
  return lines if len(lines) == size else None


def decode(lines: Sequence[bytearray], shape: ImageShape) -> np.ndarray | None:
  """Decodes the filtered lines of N <= strip_images(shape) images.

  Returns:
    uint8 (N, height, width, channels), or None if one of them has no valid lines.
  """
  height, width, channels = shape
  line_bytes = _line_bytes(shape)
  blank = bytes(line_bytes)
  joined = blank + blank.join(lines)
  filters = np.frombuffer(joined, np.uint8)[::line_bytes]
  if filters.max() > LAST_FILTER:
    return None
  size = len(joined)
  # The header of zlib, and that of its only block.
  stored = b'\x78\x01\x01' + struct.pack('<HH', size, size ^ 0xFFFF)
  pixels = _chunk(b'IDAT', stored, joined, struct.pack('>I', deflate.adler32(joined)))
  file = _head(len(filters), width, channels) + pixels + END
  tall = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
  if tall is None:
    return None
  images = tall.reshape(-1, height + 1, width, channels)[:, 1:]
  return images if channels == 1 else images[..., ::-1]  # OpenCV's order is blue, green, red


def _line_bytes(shape: ImageShape) -> int:
  return 1 + shape[1] * shape[2]  # the filter's number, then the pixels


def _chunk(kind: bytes, *content: bytes) -> bytes:
  body = b''.join((kind, *content))
  return b''.join((struct.pack('>I', len(body) - 4), body, struct.pack('>I', deflate.crc32(body))))


@functools.lru_cache(maxsize=256)
def _head(height: int, width: int, channels: int) -> bytes:
  """Returns the signature and header of an 8-bit PNG that is not interlaced."""
  fields = struct.pack('>IIBBBBB', width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', fields)


def encode(pixels: np.ndarray) -> bytes:
  """Returns uint8 (height, width, 1 or 3), grey or RGB, as a PNG file."""
  blue_first = pixels[..., ::-1]  # the order that OpenCV expects
  return cv2.imencode('.png', blue_first)[1].tobytes()
