"""What training does to its images: each is its own draw of (seed, step, row), on whatever device it happens.

All functions take pixels, uint8 (b, 28, 28, 1), and return the same; they have to be called inside `noise.at`.
"""

import math

import tensorflow as tf

from trainer import noise

FLIP, SHIFT, ERASE, FILL = (
  255,
  254,
  253,
  252,
)  # streams of noise; the networks' dropout layers count up from 0
LEAST_AREA, MOST_AREA, MOST_ASPECT = (
  0.02,
  0.33,
  1 / 0.3,
)  # of an erased rectangle: the paper's, but for 0.4


def flip(pixels: tf.Tensor) -> tf.Tensor:
  """Mirrors each image left to right with probability a half."""
  heads = noise.bits(FLIP, tf.shape(pixels)[0], 1)[:, 0] < 2**15
  columns = pixels.shape[2]
  mirrored = tf.reshape(tf.reverse(tf.reshape(pixels, [-1, columns]), [1]), tf.shape(pixels))
  return tf.compat.v1.where(
    heads, mirrored, pixels
  )  # picks whole images, where tf.where would broadcast to each pixel


def shift(pixels: tf.Tensor, most: int) -> tf.Tensor:
  """Moves each image by up to `most` pixels along each axis; background comes in at the edges."""
  drawn = noise.bits(SHIFT, tf.shape(pixels)[0], 2)
  first = tf.cast(drawn, tf.int32) % (
    2 * most + 1
  )  # (b, 2): the row and column of the padded image to begin at
  moved = tf.pad(pixels[..., 0], [[0, 0], [most, most], [most, most]])
  for axis, length in enumerate(pixels.shape[1:3]):  # rows, and once transposed columns
    moved = tf.gather(moved, first[:, axis : axis + 1] + tf.range(length), batch_dims=1)
    moved = tf.transpose(moved, [0, 2, 1])
  return moved[..., None]


def erase(pixels: tf.Tensor, probability: float) -> tf.Tensor:
  """Fills a random rectangle of an image with random pixels (Zhong et al., arXiv 1708.04896)."""
  rows, columns = pixels.shape[1:3]
  drawn = (
    tf.cast(noise.bits(ERASE, tf.shape(pixels)[0], 5), tf.float32) / 2**16
  )  # uniform in [0, 1)
  share, slant, down, right, whether = tf.unstack(drawn, axis=1)
  area = (LEAST_AREA + share * (MOST_AREA - LEAST_AREA)) * (rows * columns)
  aspect = tf.exp((slant * 2 - 1) * math.log(MOST_ASPECT))
  height, width = (
    tf.minimum(tf.sqrt(area * aspect), rows),
    tf.minimum(tf.sqrt(area / aspect), columns),
  )
  inside = lambda length, extent, place: _between(
    length, place * (length - extent), extent
  )  # (b, length)
  in_rows = inside(rows, height, down) & (whether < probability)[:, None]
  erased = in_rows[:, :, None] & inside(columns, width, right)[:, None]
  fill = tf.bitcast(noise.bits(FILL, tf.shape(pixels)[0], rows * columns // 2), tf.uint8)
  return tf.where(erased[..., None], tf.reshape(fill, tf.shape(pixels)), pixels)


def _between(length: int, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
  """Which of the places 0 to `length` lie in [start, start + extent): bool (b, length)."""
  places = tf.range(length, dtype=tf.float32)
  return (places >= start[:, None]) & (places < (start + extent)[:, None])
