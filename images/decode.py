"""Files to the pixels that a network takes, or to the reason why not."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from images import ImageShape, photo, png

FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP')
SIGNATURES = (b'\x89PNG', b'\xff\xd8\xff', b'GIF8', b'BM', b'RIFF')
COLOURS = {1: 'grey', 3: 'RGB'}  # by channels

# `max_pixels` is checked instead, and rejects one image rather than warning.
Image.MAX_IMAGE_PIXELS = None


def decode(
  encoded: Sequence[bytes],
  preprocess: str,
  max_pixels: int,
  shape: ImageShape,
  background: int = 0,
  conversion: str = 'fashion_mnist',
) -> tuple[np.ndarray, dict[int, str], int]:
  """Decodes N files.

  Args:
    encoded: each file's bytes.
    preprocess: `auto` converts what is not already of `shape` as a photo, `none` rejects it,
      `photo` converts everything.
    max_pixels: a file whose header declares more is rejected before it is decoded.
    shape: (height, width, channels), with 1 channel for grey or 3 for RGB.
    background: brightness of the network's background.
    conversion: one of photo.CONVERSIONS.

  Returns:
    pixels uint8 (N, *shape), zeros where rejected; reasons of the rejections, by position; the
    number of images converted.
  """
  pixels = np.zeros((len(encoded), *shape), np.uint8)
  left = range(len(encoded)) if preprocess == 'photo' else _decode_plain(encoded, pixels)
  reasons: dict[int, str] = {}
  converted = 0
  for i in left:
    try:
      pixels[i], was_converted = decode_one(
        encoded[i], preprocess, max_pixels, shape, background, conversion
      )
      converted += was_converted
    except Exception as error:  # decoders raise what they like; only this image is rejected
      reasons[i] = _reason(error)
  return pixels, reasons, converted


def decode_one(
  data: bytes,
  preprocess: str,
  max_pixels: int,
  shape: ImageShape,
  background: int = 0,
  conversion: str = 'fashion_mnist',
) -> tuple[np.ndarray, bool]:
  """Decodes one file; see `decode` for the arguments.

  Returns:
    uint8 of `shape`, and whether it was converted as a photo.

  Raises:
    ValueError: it is empty, no image, too large, or not what `preprocess` takes.
    Exception: any other error of the decoder.
  """
  image = _open(data, max_pixels)
  if preprocess != 'photo':
    drawn = _of_shape(image, shape)
    if drawn is not None:
      return drawn, False
    if preprocess == 'none':
      height, width, channels = shape
      raise ValueError(
        f'{image.width}x{image.height} {image.mode}, not {width}x{height} {COLOURS[channels]}, '
        'and --preprocess=none'
      )
  return photo.CONVERSIONS[conversion](image, shape, background), True


def _open(data: bytes, max_pixels: int) -> Image.Image:
  """Loads an image after checking its size and, for PNG, its checksums."""
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
  return image


def _decode_plain(encoded: Sequence[bytes], pixels: np.ndarray) -> list[int]:
  """Fills in the rows of plain PNG files, and returns the indices of the others."""
  shape = pixels.shape[1:]
  step = png.strip_images(shape)
  if not step:
    return list(range(len(encoded)))
  left: list[int] = []
  for first in range(0, len(encoded), step):
    files = range(first, min(first + step, len(encoded)))
    found = {i: lines for i in files if (lines := png.scanlines(encoded[i], shape))}
    images = png.decode(list(found.values()), shape) if found else None
    if images is None:
      left.extend(files)
    else:
      pixels[list(found)] = images
      left.extend(i for i in files if i not in found)
  return left


def _reason(error: Exception) -> str:
  text = (str(error).splitlines() or [''])[0]
  return text if isinstance(error, ValueError) and text else f'{type(error).__name__}: {text}'


def _of_shape(image: Image.Image, shape: ImageShape) -> np.ndarray | None:
  """Returns the pixels of an image that is of `shape`, however it is stored, or None for any other.

  A coloured one is not grey; a grey one is RGB too.
  """
  height, width, channels = shape
  if image.size != (width, height):
    return None
  if channels == 1 and image.mode == 'L' and 'transparency' not in image.info:
    return np.asarray(image)[..., None]
  rgb = np.asarray(photo.to_rgb(image))
  if rgb.shape[:2] != (height, width):  # it lay on its side
    return None
  if channels == 3:
    return rgb
  return rgb[..., :1] if (rgb == rgb[..., :1]).all() else None


def _check_size(width: int, height: int, max_pixels: int) -> None:
  if width * height > max_pixels:
    raise ValueError(f'{width}x{height} is more than --max_pixels={max_pixels}: not decoded')


def _check_webp(data: bytes, max_pixels: int) -> None:
  """Checks the WebP header first, because the decoder allocates the image on open."""
  if data[:4] != b'RIFF' or data[8:12] != b'WEBP' or len(data) < 30:
    return
  if data[12:16] == b'VP8X':
    width, height = (1 + int.from_bytes(data[at : at + 3], 'little') for at in (24, 27))
  elif data[12:16] == b'VP8L':
    bits = int.from_bytes(data[21:25], 'little')
    width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
  else:
    width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', data, 26))
  _check_size(width, height, max_pixels)


def _check_png(data: bytes) -> None:
  """Checks that every PNG chunk up to IEND is whole; Pillow lets a damaged end pass."""
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
