"""Files to the pixels that the model takes, or to a reject that says why not."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from batch import chunk, photo, png

FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP')
SIGNATURES = (b'\x89PNG', b'\xff\xd8\xff', b'GIF8', b'BM', b'RIFF')

Image.MAX_IMAGE_PIXELS = (
  None  # --max_pixels is checked instead, and rejects one image rather than warning
)


def decode(
  encoded: Sequence[bytes], preprocess: str, max_pixels: int
) -> tuple[np.ndarray, dict[int, str], int]:
  """Decodes N files.

  Args:
    encoded: each file's bytes.
    preprocess: `auto` converts what is not 28x28 grey as a photo, `none` rejects it, `photo` converts everything.
    max_pixels: a file that says it has more is rejected by its header.

  Returns:
    pixels uint8 (N, 28, 28, 1), zeros where rejected; why those were, by position; how many were converted.
  """
  pixels = np.zeros((len(encoded), *chunk.IMAGE_SHAPE), np.uint8)
  left = range(len(encoded)) if preprocess == 'photo' else _decode_plain(encoded, pixels)
  reasons: dict[int, str] = {}
  converted = 0
  for i in left:
    try:
      pixels[i], was_converted = decode_one(encoded[i], preprocess, max_pixels)
      converted += was_converted
    except Exception as error:  # decoders raise what they like; one bad image costs itself only
      reasons[i] = _reason(error)
  return pixels, reasons, converted


def _decode_plain(encoded: Sequence[bytes], pixels: np.ndarray) -> list[int]:
  """Fills in the rows of plain PNG files, and returns the others."""
  left: list[int] = []
  for first in range(0, len(encoded), png.STRIP_IMAGES):
    files = range(first, min(first + png.STRIP_IMAGES, len(encoded)))
    found = {i: lines for i in files if (lines := png.scanlines(encoded[i]))}
    images = png.decode(list(found.values())) if found else None
    if images is None:
      left.extend(files)
    else:
      pixels[list(found), ..., 0] = images
      left.extend(i for i in files if i not in found)
  return left


def _reason(error: Exception) -> str:
  text = (str(error).splitlines() or [''])[0]
  return text if isinstance(error, ValueError) and text else f'{type(error).__name__}: {text}'


def decode_one(data: bytes, preprocess: str, max_pixels: int) -> tuple[np.ndarray, bool]:
  """uint8 (28, 28, 1), and whether it took the photo conversion.

  Raises:
    ValueError: it is empty, no image, too large, or not what `preprocess` takes.
    Exception: whatever the decoder finds wrong.
  """
  if not data:
    raise ValueError('the file is empty')
  _check_webp(data, max_pixels)
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except Image.UnidentifiedImageError as error:
    if data.startswith(SIGNATURES):
      raise ValueError('the header is damaged or cut short') from error
    raise ValueError(f'not one of {", ".join(FORMATS)}: it begins with {data[:8]!r}') from error
  _check_size(*image.size, max_pixels)
  if image.format == 'PNG':
    _check_png(data)
  image.load()
  if preprocess != 'photo':
    grey = _as_drawn(image)
    if grey is not None:
      return grey, False
    if preprocess == 'none':
      raise ValueError(
        f'{image.width}x{image.height} {image.mode}, not 28x28 grey, and --preprocess=none'
      )
  return photo.convert(image), True


def _as_drawn(image: Image.Image) -> np.ndarray | None:
  """The pixels of a 28x28 image without colour, however it is stored; None for any other."""
  if image.size != (28, 28):
    return None
  if image.mode == 'L' and 'transparency' not in image.info:
    return np.asarray(image)[..., None]
  rgb = np.asarray(photo.to_rgb(image))
  return rgb[..., :1] if (rgb == rgb[..., :1]).all() else None


def _check_size(width: int, height: int, max_pixels: int) -> None:
  if width * height > max_pixels:
    raise ValueError(f'{width}x{height} is more than --max_pixels={max_pixels}: not decoded')


def _check_webp(data: bytes, max_pixels: int) -> None:
  """WebP is measured here, because its decoder makes room for the picture as soon as it opens the file."""
  if data[:4] != b'RIFF' or data[8:12] != b'WEBP' or len(data) < 30:
    return
  if data[12:16] == b'VP8X':
    width, height = (1 + int.from_bytes(data[place : place + 3], 'little') for place in (24, 27))
  elif data[12:16] == b'VP8L':
    bits = int.from_bytes(data[21:25], 'little')
    width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  else:
    width, height = (
      int.from_bytes(data[place : place + 2], 'little') & 0x3FFF for place in (26, 28)
    )
  _check_size(width, height, max_pixels)


def _check_png(data: bytes) -> None:
  """Every PNG chunk whole and with the right checksum, up to IEND: Pillow lets a damaged end pass."""
  position = 8
  while position + 12 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, position)
    end = position + 8 + length
    if end + 4 > len(data):
      break
    if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], 'big'):
      raise ValueError(f'the checksum of a PNG chunk {kind.decode("latin-1")} is wrong')
    if kind == b'IEND':
      return
    position = end + 4
  raise ValueError('the PNG file is cut short')
