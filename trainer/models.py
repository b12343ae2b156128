"""The networks.

Each takes uint8 pixels and scales them itself, so training and scoring cannot differ in that. How
they are best trained is in config.NETWORKS.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from absl import app

from images import ImageShape
from trainer import layers
from trainer.config import NETWORKS

SEED_SIDE = 18  # below which the seed's pools would leave nothing
MAX_SEED_PLANE = 14  # height and width of the seed's last plane at most: of 72 pixels


class Spec(NamedTuple):
  """What a network has to fit."""

  image_shape: ImageShape
  num_classes: int


def build(model: str, spec: Spec, dtype: str = 'float32') -> keras.Model:
  """Returns the network called `model` with random initial weights.

  Args:
    model: a name in config.NETWORKS.
    spec: its images and classes.
    dtype: a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.

  Returns:
    A model from pixels, uint8 (N, height, width, channels), to probabilities, float32 (N, classes).
  """
  return BUILDERS[model](spec, dtype)


def check_image_shape(model: str, image_shape: ImageShape) -> None:
  """Raises app.UsageError if the images are too small for the network."""
  height, width, _ = image_shape
  least = NETWORKS[model].min_side
  if min(height, width) < least:
    others = sorted(name for name in NETWORKS if NETWORKS[name].min_side <= min(height, width))
    remedy = ' or '.join([*(f'--model={name}' for name in others[:1]), f'--image_size={least}'])
    raise app.UsageError(
      f'--model={model}: takes images of {least}x{least} pixels or more, and these have '
      f'{height}x{width}; pass {remedy}'
    )


def seed(spec: Spec, dtype: str = 'float32') -> keras.Model:
  """Returns the notebook's CNN, in the order of its layers.

  It has 241,546 parameters for Fashion-MNIST, and its planes are 28, 26, 13, 11, 5 and 3 wide. The
  second pool leaves out the last of 11 columns, the only one that sees the last two columns of
  pixels; likewise for the rows: those pixels never count. Cropping them first makes the planes 26,
  24, 12, 10, 5 and 3 wide: the same function of the same weights, with an eighth less work.

  Images below SEED_SIDE get zeros at the right and the bottom, and the last planes of large ones
  are averaged, or the layer after them would have most of the weights. Args and result as `build`.
  """
  short, unseen, averaged = zip(*map(seed_axis, spec.image_shape[:2]))
  return keras.Sequential(
    [
      keras.layers.Input(spec.image_shape, dtype='uint8', name='pixels'),
      *([keras.layers.ZeroPadding2D(after(short), dtype='uint8')] if any(short) else []),
      keras.layers.Rescaling(1 / 255, dtype=dtype),
      # Not before the scale: right before a convolution, TFLite's converter multiplies the scale
      # into the kernel, whose rounding alone moves probabilities by 1e-6.
      keras.layers.Cropping2D(after(unseen), dtype=dtype),
      layers.PooledConv2D(32, 3, kernel_initializer='he_normal', dtype=dtype),
      layers.Dropout(0.2, stream=0, dtype=dtype),
      layers.PooledConv2D(64, 3, dtype=dtype),
      layers.Dropout(0.2, stream=1, dtype=dtype),
      layers.Conv2D(128, 3, activation='relu', dtype=dtype),
      layers.Dropout(0.5, stream=2, dtype=dtype),
      *([keras.layers.AveragePooling2D(averaged, dtype=dtype)] if max(averaged) > 1 else []),
      keras.layers.Flatten(dtype=dtype),
      keras.layers.Dense(128, activation='relu', dtype=dtype),
      keras.layers.Dense(spec.num_classes, activation='softmax', dtype='float32'),
    ],
    name='seed',
  )


class SeedAxis(NamedTuple):
  """What the seed does along an axis of the images.

  Attributes:
    short: rows or columns of zeros to add.
    unseen: the last rows or columns, which its pools leave out.
    averaged: how many of the last plane's rows or columns become one.
  """

  short: int
  unseen: int
  averaged: int


def seed_axis(side: int) -> SeedAxis:
  """Returns what the seed does along an axis of `side` pixels."""
  short = max(SEED_SIDE - side, 0)
  after_pools = ((side + short - 2) // 2 - 2) // 2
  seen = (after_pools * 2 + 2) * 2 + 2
  return SeedAxis(short, side + short - seen, math.ceil((after_pools - 2) / MAX_SEED_PLANE))


def after(rows_and_columns: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
  """Returns Keras's padding or cropping of so many of the last rows and columns."""
  rows, columns = rows_and_columns
  return (0, rows), (0, columns)


def best(spec: Spec, dtype: str = 'float32') -> keras.Model:
  """Returns a residual network without normalisation on planes of full, half and quarter size.

  It has 472,876 parameters for Fashion-MNIST. Args and result as `build`.
  """
  pixels = keras.layers.Input(spec.image_shape, dtype='uint8', name='pixels')
  # Fashion-MNIST's standard deviation and mean are 90 and 73.
  x = keras.layers.Rescaling(1 / 90, offset=-0.81, dtype=dtype)(pixels)
  x = _conv_relu(x, 32, dtype)
  x = _conv_relu(x, 32, dtype)
  for filters in (64, 128):
    x = keras.layers.MaxPooling2D(2, dtype=dtype)(x)
    x = _conv_relu(x, filters, dtype)
    branch = layers.ScaledConv2D(filters, dtype=dtype)(_conv_relu(x, filters, dtype))
    x = _relu(layers.AddScaled(dtype=dtype)([x, branch]), dtype)
  x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
  x = layers.Dropout(0.2, stream=0, dtype=dtype)(x)
  dense = keras.layers.Dense(spec.num_classes, activation='softmax', dtype='float32')
  return keras.Model(pixels, dense(x), name='best')


def _conv_relu(inputs: keras.KerasTensor, filters: int, dtype: str) -> keras.KerasTensor:
  return _relu(layers.ScaledConv2D(filters, dtype=dtype)(inputs), dtype)


def _relu(inputs: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
  return keras.layers.Activation(layers.scaled_relu, dtype=dtype)(inputs)


BUILDERS: dict[str, Callable[[Spec, str], keras.Model]] = {'seed': seed, 'best': best}
