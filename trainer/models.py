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


class Conv2D(keras.layers.Conv2D):
  """Keras's Conv2D, whose kernel gradient is a matrix product for each tap where a CPU trains.

  For the small planes deep in a network oneDNN's own kernel gradient is the slowest part of a step: on 3x3 outputs of
  64 to 128 channels in bfloat16 these products take a quarter of its time (benchmarks/train.py has the whole step).
  """

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    if tf.config.list_physical_devices('GPU'):
      return super().convolution_op(inputs, kernel)
    return _conv2d_valid(inputs, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _conv2d_valid(inputs: tf.Tensor, kernel: tf.Tensor):
  """inputs (N, H, W, I), kernel (kh, kw, I, O) -> (N, H - kh + 1, W - kw + 1, O)."""
  outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding='VALID')

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width, channels_in, channels_out = kernel.shape
    _, rows, columns, _ = outputs.shape
    errors = tf.reshape(upstream, [-1, channels_out])  # (N * rows * columns, O)
    taps = [
      tf.matmul(tf.reshape(inputs[:, i : i + rows, j : j + columns], [-1, channels_in]), errors, transpose_a=True)
      for i in range(height)
      for j in range(width)
    ]  # each (I, O)
    to_inputs = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), strides=1, padding='VALID')
    return to_inputs, tf.reshape(tf.stack(taps), kernel.shape)

  return outputs, gradient


def seed(dtype: str = 'float32') -> keras.Model:
  """The notebook's CNN, layer for layer: 241,546 parameters.

  Its planes are 28, 26, 13, 11, 5 and 3 wide. The second pool leaves out the last of 11 columns, which alone sees the
  last two columns of pixels, and so it is with the rows: those pixels never count. Cropping them first makes the planes
  26, 24, 12, 10, 5 and 3 wide: the same function of the same weights, for an eighth less work.

  Args:
    dtype: a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.

  Returns:
    A model from pixels, uint8 (N, 28, 28, 1), to probabilities, float32 (N, 10).
  """
  conv = lambda filters, layer=keras.layers.Conv2D, **kwargs: layer(
    filters, 3, activation='relu', dtype=dtype, **kwargs
  )
  pool = lambda: keras.layers.MaxPooling2D(2, dtype=dtype)
  return keras.Sequential(
    [
      keras.layers.Input(IMAGE_SHAPE, dtype='uint8', name='pixels'),
      keras.layers.Cropping2D(((0, 2), (0, 2)), dtype='uint8'),
      keras.layers.Rescaling(1 / 255, dtype=dtype),
      conv(32, kernel_initializer='he_normal'),
      pool(),
      Dropout(0.2, stream=0, dtype=dtype),
      conv(64),
      pool(),
      Dropout(0.2, stream=1, dtype=dtype),
      conv(128, Conv2D),
      Dropout(0.5, stream=2, dtype=dtype),
      keras.layers.Flatten(dtype=dtype),
      keras.layers.Dense(128, activation='relu', dtype=dtype),
      keras.layers.Dense(CLASSES, activation='softmax', dtype='float32'),
    ],
    name='seed',
  )


MODELS: dict[str, Callable[[str], keras.Model]] = {'seed': seed}
