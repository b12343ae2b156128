"""Files to pictures, once their header has been checked; photos at a reduced scale if that does."""

import contextlib
import ctypes
import io
import logging
import warnings
from collections.abc import Callable
from typing import NamedTuple

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

from images import avif, bounds, formats, png_chunks

NO_MEMORY = 'there is too little memory to decode a picture; give each worker more, or start fewer'
UNKNOWN_PIXELS = 'unknown pixel mode'  # Pillow's message about a kind of TIFF that it lacks
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


class Opened(NamedTuple):
  """A picture that is loaded.

  Attributes:
    image: the picture.
    reduction: 1, or 2, 4 or 8 if it has been decoded at that fraction of its width and height.
  """

  image: ImageFile.ImageFile
  reduction: int


def open_picture(data: bytes, max_pixels: int, longer_side: int | None = None) -> Opened:
  """Loads a picture after checking what its header declares.

  Args:
    data: the file.
    max_pixels: a file whose header declares more is rejected before it is decoded.
    longer_side: how many pixels of its longer side suffice. A JPEG is decoded at 1/2, 1/4 or 1/8 of
      its size if it still has so many then, which takes a tenth of the time: its blocks of 8x8 are
      stored by frequency, and the higher ones are left out. Other formats do not have that.

  Raises:
    ValueError: it is empty, no image, too large, or damaged.
    MemoryError: there is not enough memory, which says nothing about the picture.
  """
  if not data:
    raise ValueError('the file is empty')
  kind = formats.of(data)
  if kind not in formats.READ:
    raise ValueError(formats.unread(data))
  if kind == 'PNG':
    return Opened(_open_png(data, max_pixels), 1)
  check = CHECKS.get(kind)
  if check:
    check(data, max_pixels)
  return _load(kind, data, max_pixels, longer_side)


def _open_png(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
  """Loads a PNG. What it has beside its pixels is used if it can be, and costs nothing if not."""
  bounds.check_png(data, max_pixels)
  *attempts, last = png_chunks.ATTEMPTS
  for optional in attempts:
    with contextlib.suppress(ValueError):
      return _load('PNG', png_chunks.needed(data, optional), max_pixels).image
  return _load('PNG', png_chunks.needed(data, last), max_pixels).image


def _load(kind: str, data: bytes, max_pixels: int, longer_side: int | None = None) -> Opened:
  try:
    image = PLUGINS[kind](io.BytesIO(data))
  except MemoryError as error:
    raise MemoryError(NO_MEMORY) from error
  except Exception as error:
    if str(error) == UNKNOWN_PIXELS:
      raise ValueError(f'{kind} with such pixels is not read; {formats.CONVERT}') from error
    raise ValueError(f'the {kind} header is damaged or cut short') from error
  bounds.check_size(*image.size, max_pixels)
  if kind == 'PNM':
    bounds.check_pnm(image)
  if kind == 'TIFF':
    bounds.check_planes(image)
  width = image.width
  if longer_side:
    _reduce(image, longer_side)
  try:
    image.load()
  except MemoryError as error:
    raise MemoryError(NO_MEMORY) from error
  except Exception as error:
    raise ValueError(f'the {kind} data is damaged or cut short: {first_line(error)}') from error
  return Opened(image, round(width / image.width))


def _reduce(image: ImageFile.ImageFile, longer_side: int) -> None:
  """Has a JPEG decoded at the smallest scale that leaves its longer side so many pixels."""
  fraction = longer_side / max(image.size)
  image.draft(None, (round(image.width * fraction) or 1, round(image.height * fraction) or 1))


def first_line(error: Exception) -> str:
  """Returns the first line of an error's message."""
  return (str(error).splitlines() or [''])[0]
