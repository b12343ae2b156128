"""Files to the pixels that a network takes, or to the reason why not."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from images import ImageShape, colours, opening, photo, png

COLOURS = {1: 'grey', 3: 'RGB'}  # by channels
# How many pixels the longer side of an item has before it is fitted, for each pixel of the network:
# at first, if the item fills the picture, and at least.
START_DETAIL, MIN_DETAIL = 8, 4


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

  Raises:
    MemoryError: there is too little memory, which is no fault of a picture.
  """
  pixels = np.zeros((len(encoded), *shape), np.uint8)
  left = range(len(encoded)) if preprocess == 'photo' else _decode_plain(encoded, pixels)
  reasons: dict[int, str] = {}
  grounds: list[str | None] = []
  for i in left:
    try:
      pixels[i], ground = decode_one(
        encoded[i], preprocess, max_pixels, shape, background, conversion, seen_on
      )
      grounds.append(ground)
    except MemoryError:
      raise
    except Exception as error:  # decoders raise what they like; only this image is rejected
      reasons[i] = _reason(error)
  converted = sum(ground is not None for ground in grounds)
  return Decoded(pixels, reasons, converted, dict(collections.Counter(filter(None, grounds))))


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
  if preprocess == 'none':
    opened = opening.open_picture(data, max_pixels).image
    return _only_as_drawn(opened, shape, background), None
  side = max(shape[:2])
  wanted = START_DETAIL * side
  while True:
    opened, reduction = opening.open_picture(data, max_pixels, wanted)
    image = colours.normalize(opened)
    if preprocess == 'auto' and reduction == 1:
      drawn = photo.as_drawn(image, shape, background, seen_on)
      if drawn is not None:
        return drawn, None
    try:
      converted = photo.CONVERSIONS[conversion](image, shape, background, seen_on)
      lacking = MIN_DETAIL * side / converted.detail
    except ValueError:  # at a reduced scale, nothing may be left of a small item
      lacking = reduction
      if reduction == 1:
        raise
    if reduction == 1 or lacking <= 1:
      return converted.pixels, converted.seen_on
    wanted = math.ceil(max(image.size) * lacking)


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
  text = opening.first_line(error)
  return text if isinstance(error, ValueError) and text else f'{type(error).__name__}: {text}'
