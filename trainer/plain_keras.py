"""The trained network in Keras's own layers: a model.keras that opens without this project."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from storage import files
from trainer import layers as own_layers
from trainer import models, workdir
from trainer.models import Spec

FILE = os.path.join('keras', 'model.keras')  # in a workdir; export/ may contain only versions

layers = keras.layers


def build(model: str, spec: Spec, weights: Sequence[np.ndarray]) -> keras.Model:
  """Returns the network called `model` in float32, in plain Keras layers, ready to be fine-tuned.

  Args:
    model: a name in config.NETWORKS.
    spec: its images and classes.
    weights: what get_weights() of that network returns.

  Returns:
    A model from pixels, uint8 (N, height, width, channels), to probabilities, float32 (N, classes),
    the same to rounding. It has the network's dropout, whose masks are Keras's own.
  """
  return BUILDERS[model](spec, weights)


def save(network: keras.Model, directory: str) -> None:
  """Writes keras/model.keras in the workdir `directory`, local or gs://, whole or not at all."""
  with tempfile.TemporaryDirectory() as scratch:
    path = os.path.join(scratch, os.path.basename(FILE))  # Keras looks at the suffix
    network.save(path)
    workdir.write(os.path.join(directory, FILE), files.read(path))


def _seed(spec: Spec, weights: Sequence[np.ndarray]) -> keras.Model:
  """Returns the notebook's CNN, layer for layer, with these weights."""
  short, _, averaged = zip(*map(models.seed_axis, spec.image_shape[:2]))
  pad = layers.ZeroPadding2D(models.after(short), dtype='uint8', name='pad')
  network = keras.Sequential(
    [
      layers.Input(spec.image_shape, dtype='uint8', name='pixels'),
      *([pad] if any(short) else []),
      layers.Rescaling(1 / 255, name='scale'),
      layers.Conv2D(32, 3, activation='relu', name='conv_1'),
      layers.MaxPooling2D(2, name='pool_1'),
      layers.Dropout(0.2, name='dropout_1'),
      layers.Conv2D(64, 3, activation='relu', name='conv_2'),
      layers.MaxPooling2D(2, name='pool_2'),
      layers.Dropout(0.2, name='dropout_2'),
      layers.Conv2D(128, 3, activation='relu', name='conv_3'),
      layers.Dropout(0.5, name='dropout_3'),
      *([layers.AveragePooling2D(averaged, name='mean')] if max(averaged) > 1 else []),
      layers.Flatten(name='flatten'),
      layers.Dense(128, activation='relu', name='hidden'),
      layers.Dense(spec.num_classes, activation='softmax', name='probabilities'),
    ],
    name='seed',
  )
  network.set_weights(weights)
  return network


def _best(spec: Spec, weights: Sequence[np.ndarray]) -> keras.Model:
  """Returns the residual network with its standardised kernels and its gains as plain kernels."""
  arrays = iter(weights)  # in the order in which pixels pass them
  pixels = layers.Input(spec.image_shape, dtype='uint8', name='pixels')
  x = layers.Rescaling(1 / 90, offset=-0.81, name='scale')(pixels)
  x = _scaled_relu(_conv(_folded(arrays), 'conv_1', x), 'conv_1')
  x = _scaled_relu(_conv(_folded(arrays), 'conv_2', x), 'conv_2')
  for block in ('block_1', 'block_2'):
    x = layers.MaxPooling2D(2, name=f'{block}_pool')(x)
    x = _scaled_relu(_conv(_folded(arrays), f'{block}_conv_1', x), f'{block}_conv_1')
    branch = _scaled_relu(_conv(_folded(arrays), f'{block}_conv_2', x), f'{block}_conv_2')
    last, gain = _folded(arrays), next(arrays)
    branch = _conv([array * gain for array in last], f'{block}_conv_3', branch)
    x = _scaled_relu(layers.Add(name=f'{block}_add')([x, branch]), block)
  x = layers.GlobalAveragePooling2D(name='mean')(x)
  x = layers.Dropout(0.2, name='dropout')(x)
  dense = layers.Dense(spec.num_classes, activation='softmax', name='probabilities')
  network = keras.Model(pixels, dense(x), name='best')
  dense.set_weights(list(arrays))
  return network


def _folded(arrays: Iterator[np.ndarray]) -> list[np.ndarray]:
  """Returns the next ScaledConv2D's kernel as it is applied, (3, 3, I, O), and its bias, (O,).

  It computes as that layer does, operation for operation, so that both round alike.
  """
  kernel, gain, bias = (tf.constant(next(arrays)) for _ in range(3))
  mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
  fan_in = math.prod(kernel.shape[:3])
  kernel = (kernel - mean) * tf.math.rsqrt(variance * fan_in + 1e-4) * gain
  return [kernel.numpy(), bias.numpy()]


def _conv(weights: Sequence[np.ndarray], name: str, inputs: keras.KerasTensor) -> keras.KerasTensor:
  """Returns a 3x3 convolution of `inputs` with this kernel and bias."""
  layer = layers.Conv2D(weights[0].shape[-1], 3, padding='same', name=name)
  outputs = layer(inputs)
  layer.set_weights(weights)
  return outputs


def _scaled_relu(inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
  """Returns layers.scaled_relu as two Keras layers."""
  scale = float(own_layers.scaled_relu(np.float32(1)))
  return layers.Rescaling(scale, name=f'{name}_scale')(layers.ReLU(name=f'{name}_relu')(inputs))


BUILDERS: dict[str, Callable[[Spec, Sequence[np.ndarray]], keras.Model]] = {
  'seed': _seed,
  'best': _best,
}
