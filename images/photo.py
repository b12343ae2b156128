"""The conversions that make any picture one that a network takes, by the name on its model card.

`fashion_mnist` is that of the dataset's paper (arXiv 1708.07747, section 2); `fit` is for others.
"""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from images import ImageShape, colours

# "within 5 % of the maximum possible intensity" of the corner's colour is background
BACKGROUND_TOLERANCE = colours.TOLERANCE
BACKGROUNDS = ('auto', 'light', 'dark')
DARK, MIDDLE, WHITE = 64, 128, 255
FAINT = 25  # contrast below which nothing is seen; the faintest of Fashion-MNIST's items has 26


class Converted(NamedTuple):
  """A picture as a network takes it.

  Attributes:
    pixels: uint8 (height, width, channels).
    seen_on: whether the picture's ground is `light` or `dark`; '' if that makes no difference.
    detail: how many pixels the longer side of what is shown had before it was made to fit.
  """

  pixels: np.ndarray
  seen_on: str
  detail: int


def convert_fashion_mnist(
  image: Image.Image, shape: ImageShape, background: int, seen_on: str = 'auto'
) -> Converted:
  """Converts a picture of one item on a plain ground: cropped, fitted, centred, grey.

  It is negated unless its ground is already like the network's.

  The paper shrinks by leaving out rows and columns and then sharpens. Here each pixel is the mean
  of the area it covers, as large photos would otherwise alias, and nothing is sharpened. Of 1,500
  test images enlarged into JPEGs, 95.7 % came back in their own class this way, 95.2 % by the
  paper's.

  Args:
    image: a picture of any size, from colours.normalize.
    shape: (height, width, 1) of the result.
    background: 0 or another dark grey for networks that expect light items on a dark ground; above
      127 for those that expect the opposite.
    seen_on: one of BACKGROUNDS; `auto` judges the picture's ground by its border.

  Raises:
    ValueError: it shows one colour only.
  """
  rgb = colours.lay_on(image, _ground_below(image, seen_on, WHITE))
  ground = _ground_colour(rgb)
  item = _crop_background(rgb, ground)
  if seen_on == 'auto':
    seen_on = _judge(ground, item)
  grey = cv2.cvtColor(_centre(item, shape, ground), cv2.COLOR_RGB2GRAY)[..., None]
  is_as_expected = (seen_on == 'dark') == (background < MIDDLE)
  return Converted(grey if is_as_expected else 255 - grey, seen_on, max(item.shape))


def convert_fit(
  image: Image.Image, shape: ImageShape, background: int, seen_on: str = 'auto'
) -> Converted:
  """Converts a picture by resizing it to fit, its aspect ratio kept, in the middle of `background`.

  Returns:
    RGB if `shape` has three channels, else grey.
  """
  rgb = colours.lay_on(image, _ground_below(image, seen_on, background))
  canvas = _centre(rgb, shape, np.full(3, background, np.uint8))
  if shape[2] == 1:
    canvas = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[..., None]
  return Converted(canvas, '', max(rgb.shape))


CONVERSIONS = {'fashion_mnist': convert_fashion_mnist, 'fit': convert_fit}


def as_drawn(
  image: Image.Image, shape: ImageShape, background: int, seen_on: str = 'auto'
) -> np.ndarray | None:
  """Returns the pixels of a picture that is already as a network takes it, or None.

  A coloured one is not grey; a grey one is RGB too. A cut-out is laid on the network's background,
  and is None if it would not be seen there or if `seen_on` names the opposite.

  Args:
    image: from colours.normalize.
    shape: (height, width, channels) of the result.
    background: brightness of the network's background.
    seen_on: one of BACKGROUNDS.
  """
  height, width, channels = shape
  if image.size != (width, height):
    return None
  if image.mode == 'RGBA' and _ground_below(image, seen_on, background, FAINT / 2) != background:
    return None
  if image.mode == 'L' and channels == 1:
    return np.asarray(image)[..., None]
  rgb = colours.lay_on(image, background)
  if channels == 3:
    return rgb
  grey = colours.without_colour(rgb)
  return None if grey is None else grey[..., None]


def _ground_below(image: Image.Image, seen_on: str, preferred: int, faint: float = FAINT) -> int:
  """Returns the brightness to lay a cut-out on: `preferred` unless the cut-out vanishes there."""
  is_preferred_light = preferred >= MIDDLE
  opposite = 0 if is_preferred_light else WHITE
  if seen_on != 'auto':
    return preferred if (seen_on == 'light') == is_preferred_light else opposite
  if image.mode == 'RGBA' and colours.contrast(image, preferred) < faint:
    return opposite
  return preferred


def _ground_colour(rgb: np.ndarray) -> np.ndarray:
  """Returns the top left corner's colour or, if no other corner is like it, the border's median."""
  corner, others = rgb[0, 0], rgb[[0, -1, -1], [-1, 0, -1]]
  if _is_near(others, corner).any():
    return corner
  border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
  median = np.median(border, axis=0).astype(np.uint8)
  return corner if _is_near(median[None], corner).any() else median


def _is_near(colour: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Returns which rows of `colour` are within the tolerance of another, bool (N,)."""
  return (np.abs(colour.astype(np.int16) - other) <= BACKGROUND_TOLERANCE).all(axis=1)


def _judge(ground: np.ndarray, item: np.ndarray) -> str:
  """Returns whether a ground is light or dark; a dark grey one is light beneath a darker item."""
  brightness = _brightness(ground[None, None])
  if DARK <= brightness < MIDDLE:
    return 'light' if brightness > _brightness(item) else 'dark'
  return 'light' if brightness >= MIDDLE else 'dark'


def _brightness(rgb: np.ndarray) -> float:
  return float(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).mean())


def _crop_background(rgb: np.ndarray, ground: np.ndarray) -> np.ndarray:
  """Crops borders close to the colour of the ground."""
  limits = ground - BACKGROUND_TOLERANCE, ground + BACKGROUND_TOLERANCE
  darkest, brightest = np.ceil(limits[0]).clip(0), np.floor(limits[1]).clip(max=255)
  left, top, width, height = cv2.boundingRect(cv2.bitwise_not(cv2.inRange(rgb, darkest, brightest)))
  if not width:
    raise ValueError('the picture shows one colour only')
  return rgb[top : top + height, left : left + width]


def _centre(rgb: np.ndarray, shape: ImageShape, ground: np.ndarray) -> np.ndarray:
  """Returns a canvas of the colour `ground`, with the picture resized to fit in its middle."""
  height, width, _ = shape
  fitted = _resize(rgb, height, width)
  canvas = np.empty((height, width, 3), np.uint8)
  canvas[:] = ground
  top, left = (height - fitted.shape[0]) // 2, (width - fitted.shape[1]) // 2
  canvas[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
  return canvas


def _resize(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes to the largest size within `height` x `width` that keeps the aspect ratio."""
  rows, columns = rgb.shape[:2]
  scale = min(height / rows, width / columns)
  size = max(round(columns * scale), 1), max(round(rows * scale), 1)
  return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
