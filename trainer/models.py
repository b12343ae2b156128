"""The networks. Each takes uint8 pixels and scales them itself, so what trains and what scores cannot drift apart."""

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from trainer import noise

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


class Dropout(keras.layers.Dropout):
  """Keras's Dropout, whose mask depends on (seed, step, layer, row of the global batch) alone.

  A random byte decides each value: it is dropped if the byte is below a threshold, which for each row is one of the two
  integers around 256 * rate, drawn from 16 more bits so that the rate is met to within 2^-24.
  """

  def __init__(self, rate: float, stream: int, **kwargs):
    super().__init__(rate, **kwargs)
    self.stream = stream

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    if not training:
      return inputs
    rows, per_row = tf.shape(inputs)[0], math.prod(inputs.shape[1:])
    words = noise.bits(self.stream, rows, math.ceil(per_row / 2) + 1)
    octets = tf.reshape(tf.bitcast(words, tf.uint8), [rows, -1])[:, :per_row]
    low = math.floor(self.rate * 2**8)
    above = round(
      (self.rate * 2**8 - low) * 2**16
    )  # of 65,536 rows, how many have the larger threshold
    thresholds = low + tf.cast(words[:, -1:] < above, tf.uint8)  # (N, 1)
    kept = tf.cast(tf.reshape(octets >= thresholds, tf.shape(inputs)), inputs.dtype)
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
      tf.matmul(
        tf.reshape(inputs[:, i : i + rows, j : j + columns], [-1, channels_in]),
        errors,
        transpose_a=True,
      )
      for i in range(height)
      for j in range(width)
    ]  # each (I, O)
    to_inputs = tf.nn.conv2d_transpose(
      upstream, kernel, tf.shape(inputs), strides=1, padding='VALID'
    )
    return to_inputs, tf.reshape(tf.stack(taps), kernel.shape)

  return outputs, gradient


class PooledConv2D(keras.layers.Conv2D):
  """Keras's Conv2D with its bias and relu, and a 2x2 max pool behind it, as one layer.

  In training the pool comes first. Adding a bias and the relu keep the order of their inputs, so the result is the same
  to the bit; but the two, and their gradients, then work on a quarter of the values, and oneDNN computes a kernel
  gradient in less time if it need not sum the bias's beside it (conv 1 in half the time, measured on AVX2).
  """

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding='VALID')
    if training:
      return tf.nn.relu(tf.nn.bias_add(_max_pool(outputs), bias))
    return _max_pool(tf.nn.relu(tf.nn.bias_add(outputs, bias)))

  def compute_output_shape(self, input_shape: tuple) -> tuple:
    batch, rows, columns, filters = super().compute_output_shape(input_shape)
    return (batch, rows // 2, columns // 2, filters)


def _max_pool(inputs: tf.Tensor) -> tf.Tensor:
  return tf.nn.max_pool2d(inputs, ksize=2, strides=2, padding='VALID')


def seed(dtype: str = 'float32') -> keras.Model:
  """The notebook's CNN: 241,546 parameters, in the order of its layers.

  Its planes are 28, 26, 13, 11, 5 and 3 wide. The second pool leaves out the last of 11 columns, which alone sees the
  last two columns of pixels, and so it is with the rows: those pixels never count. Cropping them first makes the planes
  26, 24, 12, 10, 5 and 3 wide: the same function of the same weights, for an eighth less work.

  Args:
    dtype: a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.

  Returns:
    A model from pixels, uint8 (N, 28, 28, 1), to probabilities, float32 (N, 10).
  """
  return keras.Sequential(
    [
      keras.layers.Input(IMAGE_SHAPE, dtype='uint8', name='pixels'),
      keras.layers.Cropping2D(((0, 2), (0, 2)), dtype='uint8'),
      keras.layers.Rescaling(1 / 255, dtype=dtype),
      PooledConv2D(32, 3, kernel_initializer='he_normal', dtype=dtype),
      Dropout(0.2, stream=0, dtype=dtype),
      PooledConv2D(64, 3, dtype=dtype),
      Dropout(0.2, stream=1, dtype=dtype),
      Conv2D(128, 3, activation='relu', dtype=dtype),
      Dropout(0.5, stream=2, dtype=dtype),
      keras.layers.Flatten(dtype=dtype),
      keras.layers.Dense(128, activation='relu', dtype=dtype),
      keras.layers.Dense(CLASSES, activation='softmax', dtype='float32'),
    ],
    name='seed',
  )


class ScaledConv2D(keras.layers.Layer):
  """A 3x3 convolution whose kernel has mean 0 and variance 1 / fan-in for each output channel, times a learned gain.

  With `scaled_relu` behind it the variance of what passes stays about 1, so the network needs no normalisation by
  batch statistics (scaled weight standardisation: Brock et al., arXiv 2101.08692). So replicas exchange nothing but
  gradients, their number does not change the result, and a step is shorter.
  """

  def __init__(self, filters: int, **kwargs):
    super().__init__(**kwargs)
    self.filters = filters

  def build(self, input_shape: tuple) -> None:
    shape = (3, 3, input_shape[-1], self.filters)
    self.kernel = self.add_weight(name='kernel', shape=shape, initializer='he_normal')
    self.gain = self.add_weight(name='gain', shape=(self.filters,), initializer='ones')
    self.bias = self.add_weight(name='bias', shape=(self.filters,), initializer='zeros')

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    kernel, gain = (
      tf.cast(tf.convert_to_tensor(weight), tf.float32) for weight in (self.kernel, self.gain)
    )
    mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
    kernel = (kernel - mean) * tf.math.rsqrt(variance * math.prod(kernel.shape[:3]) + 1e-4) * gain
    outputs = tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), 1, 'SAME')
    return outputs + tf.cast(tf.convert_to_tensor(self.bias), inputs.dtype)

  def compute_output_shape(self, input_shape: tuple) -> tuple:
    return (*input_shape[:-1], self.filters)


def scaled_relu(inputs: tf.Tensor) -> tf.Tensor:
  """A relu that keeps the variance of what is normally distributed: sqrt(2 / (1 - 1 / pi)) = 1.7139 times it."""
  return tf.nn.relu(inputs) * tf.cast(1.7139, inputs.dtype)


class AddScaled(keras.layers.Layer):
  """shortcut + gain * branch, with a gain that is learned from 0.2 on: at first a block changes little."""

  def build(self, _) -> None:
    self.gain = self.add_weight(name='gain', shape=(), initializer=keras.initializers.Constant(0.2))

  def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    shortcut, branch = inputs
    return shortcut + branch * tf.cast(tf.convert_to_tensor(self.gain), branch.dtype)

  def compute_output_shape(self, input_shape: list) -> tuple:
    return input_shape[0]


def best(dtype: str = 'float32') -> keras.Model:
  """A residual network without normalisation on planes of 28, 14 and 7: 472,876 parameters.

  Args and result as `seed`.
  """
  layers = keras.layers
  conv = lambda filters: ScaledConv2D(filters, dtype=dtype)
  relu = lambda: layers.Activation(scaled_relu, dtype=dtype)

  pixels = layers.Input(IMAGE_SHAPE, dtype='uint8', name='pixels')
  x = layers.Rescaling(1 / 90, offset=-0.81, dtype=dtype)(
    pixels
  )  # Fashion-MNIST's deviation and mean: 90 and 73
  x = relu()(conv(32)(x))
  x = relu()(conv(32)(x))
  for filters in (64, 128):
    x = layers.MaxPooling2D(2, dtype=dtype)(x)
    x = relu()(conv(filters)(x))
    branch = conv(filters)(relu()(conv(filters)(x)))
    x = relu()(AddScaled(dtype=dtype)([x, branch]))
  x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
  x = Dropout(0.2, stream=0, dtype=dtype)(x)
  return keras.Model(
    pixels, layers.Dense(CLASSES, activation='softmax', dtype='float32')(x), name='best'
  )


@dataclasses.dataclass(frozen=True)
class Network:
  """A network and how it is best trained. All are also mirrored.

  Attributes:
    build: from a Keras dtype policy to the model.
    epochs: as many as it gains by.
    shift: by how many pixels its training images are moved, at most.
    erase: the probability that a part of one is erased.
    label_smoothing: how much of a label's probability goes to all ten classes (Szegedy et al., arXiv 1512.00567).
  """

  build: Callable[[str], keras.Model]
  epochs: int
  shift: int = 0
  erase: float = 0.0
  label_smoothing: float = 0.0


MODELS = {
  'seed': Network(seed, epochs=60),
  'best': Network(best, epochs=70, shift=2, erase=0.5, label_smoothing=0.05),
}
