"""The networks. Each takes uint8 pixels and scales them itself, so what trains and what scores cannot drift apart."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from trainer import noise

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


class Dropout(keras.layers.Dropout):
  """Keras's Dropout, whose mask depends on (seed, step, layer, row of the global batch) alone.

  Sixteen random bits decide each value, so the rate is met to within 2^-17 = 0.0000076.
  """

  def __init__(self, rate: float, stream: int, **kwargs):
    super().__init__(rate, **kwargs)
    self.stream = stream

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    if not training:
      return inputs
    per_row = math.prod(inputs.shape[1:])
    bits = tf.reshape(noise.bits(self.stream, tf.shape(inputs)[0], per_row), tf.shape(inputs))
    kept = tf.cast(bits >= round(self.rate * 2**16), inputs.dtype)
    return inputs * (kept * tf.cast(1 / (1 - self.rate), inputs.dtype))

  def get_config(self) -> dict:
    return {**super().get_config(), 'stream': self.stream}


def seed(dtype: str = 'float32') -> keras.Model:
  """The notebook's CNN, layer for layer: 241,546 parameters.

  Args:
    dtype: a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.

  Returns:
    A model from pixels, uint8 (N, 28, 28, 1), to probabilities, float32 (N, 10).
  """
  conv = lambda filters, **kwargs: keras.layers.Conv2D(filters, 3, activation='relu', dtype=dtype, **kwargs)
  pool = lambda: keras.layers.MaxPooling2D(2, dtype=dtype)
  return keras.Sequential(
    [
      keras.layers.Input(IMAGE_SHAPE, dtype='uint8', name='pixels'),
      keras.layers.Rescaling(1 / 255, dtype=dtype),
      conv(32, kernel_initializer='he_normal'),
      pool(),
      Dropout(0.2, stream=0, dtype=dtype),
      conv(64),
      pool(),
      Dropout(0.2, stream=1, dtype=dtype),
      conv(128),
      Dropout(0.5, stream=2, dtype=dtype),
      keras.layers.Flatten(dtype=dtype),
      keras.layers.Dense(128, activation='relu', dtype=dtype),
      keras.layers.Dense(CLASSES, activation='softmax', dtype='float32'),
    ],
    name='seed',
  )


MODELS: dict[str, Callable[[str], keras.Model]] = {'seed': seed}
