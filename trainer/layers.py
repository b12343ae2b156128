"""The networks' own layers."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import noise


class Dropout(keras.layers.Dropout):
  """Keras's Dropout, except that its mask depends only on (seed, step, layer, global batch row).

  A random byte decides each value: it is dropped if the byte is below a threshold, which for each
  row is one of the two integers around 256 * rate, drawn from 16 more bits so that the rate is met
  to within 2^-24.
  """

  def __init__(self, rate: float, stream: int, **kwargs: Any):
    super().__init__(rate, **kwargs)
    self.stream = stream

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Drops values of `inputs` in training; call it within noise.at then."""
    if not training:
      return inputs
    rows, per_row = tf.shape(inputs)[0], math.prod(inputs.shape[1:])
    words = noise.bits(self.stream, rows, math.ceil(per_row / 2) + 1)
    octets = tf.reshape(tf.bitcast(words, tf.uint8), [rows, -1])[:, :per_row]
    low = math.floor(self.rate * 2**8)
    # of 65,536 rows, how many have the larger threshold
    above = round((self.rate * 2**8 - low) * 2**16)
    thresholds = low + tf.cast(words[:, -1:] < above, tf.uint8)  # (N, 1)
    kept = tf.cast(tf.reshape(octets >= thresholds, tf.shape(inputs)), inputs.dtype)
    return inputs * (kept * tf.cast(1 / (1 - self.rate), inputs.dtype))

  def get_config(self) -> dict:
    """Returns Keras's configuration with the stream of noise."""
    return {**super().get_config(), 'stream': self.stream}


class Conv2D(keras.layers.Conv2D):
  """Keras's Conv2D, except that on a CPU its kernel gradient is one matrix product per tap.

  For the small planes deep in a network oneDNN's own kernel gradient is the slowest part of a step:
  on 3x3 outputs of 64 to 128 channels in bfloat16 these products take a quarter of its time
  (benchmarks/train.py times the whole step).
  """

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves without padding, in strides of 1."""
    if tf.config.list_physical_devices('GPU'):
      return super().convolution_op(inputs, kernel)
    return _conv2d_valid(inputs, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _conv2d_valid(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
  """Returns (N, H - kh + 1, W - kw + 1, O) from inputs (N, H, W, I) and kernel (kh, kw, I, O)."""
  outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding='VALID')

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width, channels_in, channels_out = kernel.shape
    _, rows, columns, _ = outputs.shape
    errors = tf.reshape(upstream, [-1, channels_out])  # (N * rows * columns, O)
    taps = []  # each (I, O)
    for i, j in itertools.product(range(height), range(width)):
      window = tf.reshape(inputs[:, i : i + rows, j : j + columns], [-1, channels_in])
      taps.append(tf.matmul(window, errors, transpose_a=True))
    to_inputs = tf.nn.conv2d_transpose(
      upstream, kernel, tf.shape(inputs), strides=1, padding='VALID'
    )
    return to_inputs, tf.reshape(tf.stack(taps), kernel.shape)

  return outputs, gradient


class PooledConv2D(keras.layers.Conv2D):
  """Keras's Conv2D with bias and relu, followed by a 2x2 max pool, as one layer.

  In training the pool comes first. Adding a bias and the relu preserve the order of their inputs,
  so the result is the same to the bit; but both, and their gradients, then work on a quarter of the
  values, and oneDNN computes a kernel gradient in less time if it need not sum the bias's with it
  (conv 1 in half the time, measured on AVX2).
  """

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns (N, rows // 2, columns // 2, filters) of the convolution's rows and columns."""
    kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
    outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding='VALID')
    if training:
      return tf.nn.relu(tf.nn.bias_add(_max_pool(outputs), bias))
    return _max_pool(tf.nn.relu(tf.nn.bias_add(outputs, bias)))

  def compute_output_shape(self, input_shape: tuple) -> tuple:
    """Returns the shape after the pool."""
    batch, rows, columns, filters = super().compute_output_shape(input_shape)
    return (batch, rows // 2, columns // 2, filters)


def _max_pool(inputs: tf.Tensor) -> tf.Tensor:
  return tf.nn.max_pool2d(inputs, ksize=2, strides=2, padding='VALID')


class ScaledConv2D(keras.layers.Layer):
  """A 3x3 convolution with a standardised kernel.

  For each output channel the kernel has mean 0 and variance 1 / fan-in, times a learned gain.
  Followed by `scaled_relu` it keeps the variance of activations near 1, so the network needs no
  normalisation by batch statistics (scaled weight standardisation: Brock et al., arXiv 2101.08692).
  So replicas exchange only gradients, their number does not change the result, and a step is
  shorter.
  """

  def __init__(self, filters: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.filters = filters

  def build(self, input_shape: tuple) -> None:
    """Creates kernel, gain and bias."""
    shape = (3, 3, input_shape[-1], self.filters)
    self.kernel = self.add_weight(name='kernel', shape=shape, initializer='he_normal')
    self.gain = self.add_weight(name='gain', shape=(self.filters,), initializer='ones')
    self.bias = self.add_weight(name='bias', shape=(self.filters,), initializer='zeros')

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    """Convolves with padding: (N, H, W, I) to (N, H, W, filters)."""
    kernel, gain = (
      tf.cast(tf.convert_to_tensor(weight), tf.float32) for weight in (self.kernel, self.gain)
    )
    mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
    kernel = (kernel - mean) * tf.math.rsqrt(variance * math.prod(kernel.shape[:3]) + 1e-4) * gain
    outputs = tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), 1, 'SAME')
    return outputs + tf.cast(tf.convert_to_tensor(self.bias), inputs.dtype)

  def compute_output_shape(self, input_shape: tuple) -> tuple:
    """Returns `input_shape` with another number of channels."""
    return (*input_shape[:-1], self.filters)


def scaled_relu(inputs: tf.Tensor) -> tf.Tensor:
  """Returns a relu that preserves the variance of normally distributed inputs.

  It is sqrt(2 / (1 - 1 / pi)) = 1.7139 times the relu.
  """
  return tf.nn.relu(inputs) * tf.cast(1.7139, inputs.dtype)


class AddScaled(keras.layers.Layer):
  """shortcut + gain * branch, with a learned gain that starts at 0.2, so that it changes little."""

  def build(self, _: list) -> None:
    """Creates the gain."""
    self.gain = self.add_weight(name='gain', shape=(), initializer=keras.initializers.Constant(0.2))

  def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Returns the sum of (shortcut, branch), which have the same shape."""
    shortcut, branch = inputs
    return shortcut + branch * tf.cast(tf.convert_to_tensor(self.gain), branch.dtype)

  def compute_output_shape(self, input_shape: list) -> tuple:
    """Returns the shortcut's shape."""
    return input_shape[0]
