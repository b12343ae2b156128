"""Pictures of every mode as 8-bit RGB, and what is transparent laid on a ground."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

from images import orientation

TOLERANCE = 0.05 * 255  # colours this close are taken for one
ALPHA_MODES = ('RGBA', 'LA', 'PA', 'RGBa', 'La')
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags, and a value of the second
PREMULTIPLIED = {'RGBa': 'RGBA', 'La': 'LA'}


def normalize(image: Image.Image) -> Image.Image:
  """Returns the picture upright, in 8 bits: RGBA if it is transparent anywhere, else L or RGB.

  Raises:
    ValueError: nothing of it is visible.
  """
  tags = getattr(image, 'tag_v2', {})  # of a TIFF
  image = orientation.upright(image)
  if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
    image = _to_8_bits(image, tags)
  if image.mode == 'LAB':
    image = _from_lab(image)
  if image.mode not in ALPHA_MODES and 'transparency' not in image.info:
    return image if image.mode in ('L', 'RGB') else image.convert('RGB')
  rgba = image.convert(PREMULTIPLIED.get(image.mode, 'RGBA')).convert('RGBA')
  alpha = np.asarray(rgba)[..., 3]
  if not alpha.any():
    raise ValueError('the picture is wholly transparent')
  return rgba if alpha.min() < 255 else rgba.convert('RGB')


def lay_on(image: Image.Image, ground: int) -> np.ndarray:
  """Returns a normalized picture, its transparent parts on a grey ground: uint8 (h, w, 3)."""
  if image.mode == 'RGBA':
    plain = Image.new('RGBA', image.size, (ground, ground, ground, 255))
    image = Image.alpha_composite(plain, image)
  return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


def contrast(image: Image.Image, ground: int) -> float:
  """Returns how far, on average, what is visible of an RGBA picture is from a grey ground."""
  pixels = np.asarray(image)
  alpha = pixels[..., 3].astype(np.float32)
  grey = cv2.cvtColor(pixels, cv2.COLOR_RGBA2GRAY)
  return float((cv2.absdiff(grey, np.full_like(grey, ground)) * alpha).sum() / alpha.sum())


def without_colour(rgb: np.ndarray) -> np.ndarray | None:
  """Returns the brightness, uint8 (h, w), or None if the picture has colours.

  Lossy formats give grey pixels a tint; so much is not taken for colour.
  """
  red, green, blue = cv2.split(rgb)
  brightest, darkest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
  tint = (brightest - darkest).max()
  if not tint:
    return red
  return None if tint > TOLERANCE else cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _to_8_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
  """Returns a grey picture of 16 or 32 bits, or of floats, in 8 bits.

  Of numbers that may have any range, their largest says which they have: up to 1, 255 or 65535.
  TIFF says of how many bits whole numbers are, 12 for example, and whether 0 is white.
  """
  values = np.nan_to_num(np.asarray(image, np.float32), posinf=65535.0).clip(min=0)
  most = values.max(initial=0)
  scale = 1 / 257
  if tags.get(BITS) == (12,):
    scale = 255 / 4095
  if image.mode == 'F' and most <= 1:
    scale = 255.0
  elif image.mode in ('I', 'F') and most <= 255:
    scale = 1.0
  elif most > 65535:
    scale = 255 / most
  scaled = np.clip(values * scale + 0.5, 0, 255).astype(np.uint8)
  bytes_ = Image.fromarray(255 - scaled if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else scaled)
  clear = image.info.get('transparency')
  if isinstance(clear, int):
    bytes_.putalpha(Image.fromarray(((values != clear) * 255).astype(np.uint8)))
  return bytes_


def _from_lab(image: Image.Image) -> Image.Image:
  lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
  converted = ImageCms.profileToProfile(image, lab, srgb, outputMode='RGB')
  if converted is None:
    raise ValueError('its Lab colours cannot be converted')
  return converted
