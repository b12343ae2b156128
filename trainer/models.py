"""The networks.

Each takes uint8 pixels and scales them itself, so training and scoring cannot differ in that. How
they are best trained is in config.NETWORKS.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
from absl import app

from images import ImageShape
from trainer import layers
from trainer.config import NETWORKS


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
    remedy = f'pass --model={others[0]}' if others else 'enlarge them'
    raise app.UsageError(
      f'--model={model}: takes images of {least}x{least} pixels or more, and these have '
      f'{height}x{width}; {remedy}'
    )


def seed(spec: Spec, dtype: str = 'float32') -> keras.Model:
  """Returns the notebook's CNN, in the order of its layers.

  It has 241,546 parameters for Fashion-MNIST, and its planes are 28, 26, 13, 11, 5 and 3 wide. The
  second pool leaves out the last of 11 columns, the only one that sees the last two columns of
  pixels; likewise for the rows: those pixels never count. Cropping them first makes the planes 26,
  24, 12, 10, 5 and 3 wide: the same function of the same weights, with an eighth less work.

  Args and result as `build`.
  """
  height, width, _ = spec.image_shape
  unseen = ((0, _unseen_pixels(height)), (0, _unseen_pixels(width)))
  return keras.Sequential(
    [
      keras.layers.Input(spec.image_shape, dtype='uint8', name='pixels'),
      keras.layers.Cropping2D(unseen, dtype='uint8'),
      keras.layers.Rescaling(1 / 255, dtype=dtype),
      layers.PooledConv2D(32, 3, kernel_initializer='he_normal', dtype=dtype),
      layers.Dropout(0.2, stream=0, dtype=dtype),
      layers.PooledConv2D(64, 3, dtype=dtype),
      layers.Dropout(0.2, stream=1, dtype=dtype),
      layers.Conv2D(128, 3, activation='relu', dtype=dtype),
      layers.Dropout(0.5, stream=2, dtype=dtype),
      keras.layers.Flatten(dtype=dtype),
      keras.layers.Dense(128, activation='relu', dtype=dtype),
      keras.layers.Dense(spec.num_classes, activation='softmax', dtype='float32'),
    ],
    name='seed',
  )


def _unseen_pixels(side: int) -> int:
  """Returns how many of the last rows or columns of `side` pixels the seed's pools leave out."""
  after_pools = ((side - 2) // 2 - 2) // 2
  return side - ((after_pools * 2 + 2) * 2 + 2)


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
