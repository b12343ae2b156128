"""Plain 28x28 PNG files, many at a time: one at a time, setting a decoder up takes longer than the pixels do.

The scanlines of each file are inflated and joined into one tall PNG, stored and not compressed, that OpenCV decodes in
one call. A line of zeros comes before each image's lines: filters refer to the line above, and above the first line
there is to be nothing but zeros (PNG specification, section 9.2).
"""

import struct
from collections.abc import Sequence

import cv2
import deflate
import numpy as np

SIZE = 28
LINE_BYTES = 1 + SIZE  # a filter's number, then the pixels
BLANK_LINE = bytes(LINE_BYTES)
LAST_FILTER = 4
STRIP_IMAGES = 64  # what fits a stored block of deflate, of 65,535 bytes at most
END = b'\0\0\0\0IEND\xaeB`\x82'

cv2.setNumThreads(1)  # threads slow its decoder down; the processes are many


def _part(kind: bytes, *content: bytes) -> bytes:
  body = b''.join((kind, *content))
  return b''.join((struct.pack('>I', len(body) - 4), body, struct.pack('>I', deflate.crc32(body))))


def _head(height: int) -> bytes:
  """Signature and header of an 8-bit grey PNG, not interlaced."""
  return b'\x89PNG\r\n\x1a\n' + _part(b'IHDR', struct.pack('>IIBBBBB', SIZE, height, 8, 0, 0, 0, 0))


PLAIN = _head(SIZE)
PLAIN_BYTES = len(PLAIN)


def scanlines(data: bytes) -> bytearray | None:
  """The filtered lines of an 8-bit grey 28x28 PNG that holds one run of pixels and nothing else; of any other, None."""
  if (
    not data.startswith(PLAIN)
    or not data.endswith(END)
    or data[PLAIN_BYTES + 4 : PLAIN_BYTES + 8] != b'IDAT'
  ):
    return None
  length = int.from_bytes(data[PLAIN_BYTES : PLAIN_BYTES + 4], 'big')
  checksum = int.from_bytes(data[-16:-12], 'big')
  if (
    length + PLAIN_BYTES + 24 != len(data) or deflate.crc32(data[PLAIN_BYTES + 4 : -16]) != checksum
  ):
    return None
  try:
    lines = deflate.zlib_decompress(data[PLAIN_BYTES + 8 : -16], SIZE * LINE_BYTES)
  except deflate.DeflateError:
    return None
  return lines if len(lines) == SIZE * LINE_BYTES else None


def decode(lines: Sequence[bytearray]) -> np.ndarray | None:
  """Filtered lines of N <= STRIP_IMAGES images to uint8 (N, 28, 28), or None where they are no PNG's."""
  joined = BLANK_LINE + BLANK_LINE.join(lines)
  filters = np.frombuffer(joined, np.uint8)[::LINE_BYTES]
  if filters.max() > LAST_FILTER:
    return None
  size = len(joined)
  stored = b'\x78\x01\x01' + struct.pack(
    '<HH', size, size ^ 0xFFFF
  )  # zlib's header, and that of its only block
  pixels = _part(b'IDAT', stored, joined, struct.pack('>I', deflate.adler32(joined)))
  tall = cv2.imdecode(
    np.frombuffer(_head(len(filters)) + pixels + END, np.uint8), cv2.IMREAD_UNCHANGED
  )
  return None if tall is None else tall.reshape(-1, LINE_BYTES, SIZE)[:, 1:]
