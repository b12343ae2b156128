"""Training-time augmentation.

Each image's randomness depends only on (seed, step, row), not on the device. All functions take
pixels, uint8 (b, height, width, channels), and return the same; call them within `noise.at`.
"""

import math

import tensorflow as tf

from trainer import noise

# Streams of noise; the networks' dropout layers count up from 0.
FLIP, SHIFT, ERASE, FILL = 255, 254, 253, 252
# Erased area and aspect as in the paper, except that the maximum area is 0.33 instead of 0.4.
MIN_AREA, MAX_AREA, MAX_ASPECT = 0.02, 0.33, 1 / 0.3


def flip(pixels: tf.Tensor) -> tf.Tensor:
  """Mirrors each image left to right with probability a half."""
  heads = noise.bits(FLIP, tf.shape(pixels)[0], 1)[:, 0] < 2**15
  lines = tf.reshape(pixels, [-1, *_line_shape(pixels)])
  mirrored = tf.reshape(tf.reverse(lines, [1]), tf.shape(pixels))
  # Picks whole images; tf.where would broadcast to each pixel.
  return tf.compat.v1.where(heads, mirrored, pixels)


def _line_shape(pixels: tf.Tensor) -> list[int]:
  """Returns the shape of a line of pixels: without channels if there is one, which is faster."""
  _, _, columns, channels = pixels.shape
  return [columns] if channels == 1 else [columns, channels]


def shift(pixels: tf.Tensor, distance: int) -> tf.Tensor:
  """Moves each image by up to `distance` pixels along each axis; zeros come in at the edges."""
  drawn = noise.bits(SHIFT, tf.shape(pixels)[0], 2)
  # (b, 2): the row and column of the padded image to begin at
  first = tf.cast(drawn, tf.int32) % (2 * distance + 1)
  edges = [distance, distance]
  moved = tf.pad(pixels, [[0, 0], edges, edges, [0, 0]])
  for axis, length in enumerate(pixels.shape[1:3]):  # rows, then columns, transposed
    moved = tf.gather(moved, first[:, axis : axis + 1] + tf.range(length), batch_dims=1)
    moved = tf.transpose(moved, [0, 2, 1, 3])
  return moved


def erase(pixels: tf.Tensor, probability: float) -> tf.Tensor:
  """Fills a random rectangle of an image with random pixels (Zhong et al., arXiv 1708.04896)."""
  rows, columns, channels = pixels.shape[1:]
  images = tf.shape(pixels)[0]
  uniform = tf.cast(noise.bits(ERASE, images, 5), tf.float32) / 2**16  # in [0, 1)
  share, slant, down, right, chance = tf.unstack(uniform, axis=1)
  area = (MIN_AREA + share * (MAX_AREA - MIN_AREA)) * (rows * columns)
  aspect = tf.exp((slant * 2 - 1) * math.log(MAX_ASPECT))
  height = tf.minimum(tf.sqrt(area * aspect), rows)
  width = tf.minimum(tf.sqrt(area / aspect), columns)
  in_rows = _between(rows, down * (rows - height), height) & (chance < probability)[:, None]
  in_columns = _between(columns, right * (columns - width), width)
  erased = in_rows[:, :, None] & in_columns[:, None]
  values = rows * columns * channels
  octets = tf.bitcast(noise.bits(FILL, images, math.ceil(values / 2)), tf.uint8)
  fill = tf.reshape(tf.reshape(octets, [images, -1])[:, :values], tf.shape(pixels))
  return tf.where(erased[..., None], fill, pixels)


def _between(length: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
  """Returns which of the places 0 to `length` are in [start, start + extent): bool (b, length)."""
  places = tf.range(length, dtype=tf.float32)
  return (places >= start[:, None]) & (places < (start + extent)[:, None])
