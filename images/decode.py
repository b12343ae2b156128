"""Files to the pixels that a network takes, or to the reason why not."""

import contextlib
import ctypes
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import (
  AvifImagePlugin,
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  ImageFile,
  Jpeg2KImagePlugin,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from images import ImageShape, avif, bounds, colours, formats, photo, png, png_chunks

COLOURS = {1: 'grey', 3: 'RGB'}  # by channels

# `max_pixels` is checked instead, and rejects one image rather than warning.
Image.MAX_IMAGE_PIXELS = None
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there are many processes
# Rejects have reasons; what decoders print would be thousands of lines without a file's name.
warnings.filterwarnings('ignore', module='PIL')
logging.getLogger('PIL').setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff
  ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


class FirstPage(TiffImagePlugin.TiffImageFile):
  """A TIFF's first page, without its EXIF directories, which may be bad."""

  def load_end(self) -> None:
    """Does nothing that the pixels do not need; `orientation` turns them."""
    self._size = self.im.size


# The plugins themselves: Image.open would ask several, and read the other pictures of a file.
PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
  'PNG': PngImagePlugin.PngImageFile,
  'JPEG': JpegImagePlugin.JpegImageFile,
  'GIF': GifImagePlugin.GifImageFile,
  'BMP': BmpImagePlugin.BmpImageFile,
  'WebP': WebPImagePlugin.WebPImageFile,
  'TIFF': FirstPage,
  'AVIF': AvifImagePlugin.AvifImageFile,
  'JPEG 2000': Jpeg2KImagePlugin.Jpeg2KImageFile,
  'PNM': PpmImagePlugin.PpmImageFile,
}
CHECKS = {
  'WebP': bounds.check_webp,
  'JPEG': bounds.check_jpeg,
  'JPEG 2000': bounds.check_jpeg2000,
  'TIFF': bounds.check_tiff,
  'AVIF': avif.check,
}


class Decoded(NamedTuple):
  """N files as pixels.

  Attributes:
    pixels: uint8 (N, height, width, channels), zeros for those rejected.
    reasons: of the rejections, by position.
    converted: the number of images converted as photos.
    by_background: the number of those by the ground they show, `light` or `dark`.
  """

  pixels: np.ndarray
  reasons: dict[int, str]
  converted: int
  by_background: dict[str, int]


def decode(
  encoded: Sequence[bytes],
  preprocess: str,
  max_pixels: int,
  shape: ImageShape,
  background: int = 0,
  conversion: str = 'fashion_mnist',
  seen_on: str = 'auto',
) -> Decoded:
  """Decodes N files.

  Args:
    encoded: each file's bytes.
    preprocess: `auto` converts what is not already of `shape` as a photo, `none` rejects it,
      `photo` converts everything.
    max_pixels: a file whose header declares more is rejected before it is decoded.
    shape: (height, width, channels), with 1 channel for grey or 3 for RGB.
    background: brightness of the network's background.
    conversion: one of photo.CONVERSIONS.
    seen_on: the ground of pictures that are converted, one of photo.BACKGROUNDS.
  """
  pixels = np.zeros((len(encoded), *shape), np.uint8)
  left = range(len(encoded)) if preprocess == 'photo' else _decode_plain(encoded, pixels)
  reasons: dict[int, str] = {}
  converted = 0
  by_background: dict[str, int] = {}
  for i in left:
    try:
      pixels[i], ground = decode_one(
        encoded[i], preprocess, max_pixels, shape, background, conversion, seen_on
      )
      converted += ground is not None
      if ground:
        by_background[ground] = by_background.get(ground, 0) + 1
    except Exception as error:  # decoders raise what they like; only this image is rejected
      reasons[i] = _reason(error)
  return Decoded(pixels, reasons, converted, by_background)


def decode_one(
  data: bytes,
  preprocess: str,
  max_pixels: int,
  shape: ImageShape,
  background: int = 0,
  conversion: str = 'fashion_mnist',
  seen_on: str = 'auto',
) -> tuple[np.ndarray, str | None]:
  """Decodes one file; see `decode` for the arguments.

  Returns:
    uint8 of `shape`, and on which ground it was seen if it was converted as a photo, else None.

  Raises:
    ValueError: it is empty, no image, too large, or not what `preprocess` takes.
    Exception: any other error of the decoder.
  """
  opened = _open(data, max_pixels)
  if preprocess == 'none':
    return _only_as_drawn(opened, shape, background), None
  image = colours.normalize(opened)
  if preprocess == 'auto':
    drawn = photo.as_drawn(image, shape, background, seen_on)
    if drawn is not None:
      return drawn, None
  return photo.CONVERSIONS[conversion](image, shape, background, seen_on)


def _only_as_drawn(image: Image.Image, shape: ImageShape, background: int) -> np.ndarray:
  """Returns an image of the network's shape, and raises ValueError for any other."""
  ground = 'light' if background >= photo.MIDDLE else 'dark'
  drawn = photo.as_drawn(colours.normalize(image), shape, background, ground)
  if drawn is not None:
    return drawn
  height, width, channels = shape
  raise ValueError(
    f'{image.width}x{image.height} {image.mode}, not {width}x{height} {COLOURS[channels]}, '
    'and --preprocess=none'
  )


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
  """Loads an image after checking what its header declares."""
  if not data:
    raise ValueError('the file is empty')
  kind = formats.of(data)
  if kind not in formats.READ:
    raise ValueError(formats.unread(data))
  if kind == 'PNG':
    return _open_png(data, max_pixels)
  check = CHECKS.get(kind)
  if check:
    check(data, max_pixels)
  return _load(kind, data, max_pixels)


def _open_png(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
  """Loads a PNG. What it has beside its pixels is used if it can be, and costs nothing if not."""
  bounds.check_png(data, max_pixels)
  *attempts, last = png_chunks.ATTEMPTS
  for optional in attempts:
    with contextlib.suppress(ValueError):
      return _load('PNG', png_chunks.needed(data, optional), max_pixels)
  return _load('PNG', png_chunks.needed(data, last), max_pixels)


def _load(kind: str, data: bytes, max_pixels: int) -> ImageFile.ImageFile:
  try:
    image = PLUGINS[kind](io.BytesIO(data))
  except Exception as error:
    raise ValueError(f'the {kind} header is damaged or cut short') from error
  bounds.check_size(*image.size, max_pixels)
  if kind == 'PNM':
    bounds.check_pnm(image)
  try:
    image.load()
  except Exception as error:
    raise ValueError(f'the {kind} data is damaged or cut short: {_first_line(error)}') from error
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


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0]


def _reason(error: Exception) -> str:
  text = _first_line(error)
  return text if isinstance(error, ValueError) and text else f'{type(error).__name__}: {text}'
