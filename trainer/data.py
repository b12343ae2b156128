"""Labelled images, the validation split, and the batch of any global step."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from trainer import stored

Pixels = np.ndarray | stored.Images
BLOCK_ROWS = 4096  # images to go through at a time at most
PIXELS_AT_A_TIME = 2**22  # of all of them; 32 channels of float32 for each are half a GiB


@dataclasses.dataclass(frozen=True)
class Examples:
  """Labelled images: pixels uint8 (N, height, width, channels), labels int64 (N,) from 0."""

  pixels: Pixels
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, rows: np.ndarray) -> 'Examples':
    """Returns the examples with these indices, in their order."""
    if isinstance(self.pixels, stored.Images):
      return Examples(self.pixels.only(rows), self.labels[rows])
    return Examples(self.pixels[rows], self.labels[rows])

  def blocks(self) -> Iterator[np.ndarray]:
    """Yields the pixels in their order, many images at a time."""
    return blocks(self.pixels, BLOCK_ROWS)


def blocks(pixels: Pixels, most: int) -> Iterator[np.ndarray]:
  """Yields images in their order, `rows_at_a_time` of them at a time."""
  rows = rows_at_a_time(most, pixels.shape[1:])
  for first in range(0, len(pixels), rows):
    yield pixels[first : first + rows]


def rows_at_a_time(most: int, image_shape: Sequence[int]) -> int:
  """Returns how many images to go through at a time: `most`, or fewer if they are large.

  Args:
    most: of small images, such as Fashion-MNIST's.
    image_shape: (height, width, channels).
  """
  height, width, _ = image_shape
  return max(min(most, PIXELS_AT_A_TIME // (height * width)), 1)


def split_validation(
  train: Examples, validation_examples: int, seed: int
) -> tuple[Examples, Examples]:
  """Returns (training, validation): disjoint, together all of `train`, the same for equal seeds."""
  order = np.random.Generator(np.random.Philox(seed)).permutation(len(train))
  return train.take(order[validation_examples:]), train.take(order[:validation_examples])


def batches(
  train: Examples,
  seed: int,
  global_batch_size: int,
  replicas: int,
  local: range | None = None,
  first_step: int = 0,
) -> tf.data.Dataset:
  """Returns an infinite dataset of training batches, starting with those of `first_step`.

  Consecutive elements are the `local` replicas' parts of one global batch. Global step k has rows
  [k % steps_per_epoch * B, ... + B) of the permutation keyed by (seed, k // steps_per_epoch):
  nothing needs saving, and any step can come first. The permutation is a block cipher on the row
  number (tf.random.experimental.index_shuffle), so a step computes only its own rows.

  Yields:
    pixels uint8 (b, height, width, channels) and labels int64 (b,), b = global_batch_size /
    replicas; step and first_row int64 (), the global step and the element's first row in the global
    batch.
  """
  look_up, labels = _look_up(train.pixels, global_batch_size // replicas), tf.constant(train.labels)
  steps_per_epoch, per_replica = len(train) // global_batch_size, global_batch_size // replicas
  local, last_index = local or range(replicas), tf.constant(len(train) - 1, tf.int64)

  def element(position: tf.Tensor) -> dict[str, tf.Tensor]:
    step, first_row = position // len(local), (local.start + position % len(local)) * per_replica
    first_rank = step % steps_per_epoch * global_batch_size + first_row
    ranks = first_rank + tf.range(per_replica, dtype=tf.int64)
    key = tf.stack([tf.constant(seed, tf.int64), step // steps_per_epoch])
    rows = tf.random.experimental.index_shuffle(ranks, key, last_index)
    images, classes = look_up(rows), tf.gather(labels, rows)
    return {'pixels': images, 'labels': classes, 'step': step, 'first_row': first_row}

  positions = tf.data.Dataset.range(first_step * len(local), tf.int64.max)
  infinite = tf.data.experimental.assert_cardinality(tf.data.experimental.INFINITE_CARDINALITY)
  elements = positions.apply(infinite).map(element).prefetch(2 * len(local))
  return elements.with_options(without_autotune())


def _look_up(pixels: Pixels, count: int) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns a function from the numbers of `count` images to their pixels."""
  if isinstance(pixels, np.ndarray):
    in_memory = tf.constant(pixels)
    return lambda rows: tf.gather(in_memory, rows)

  def read(rows: tf.Tensor) -> tf.Tensor:
    images = tf.numpy_function(pixels.__getitem__, [rows], tf.uint8)
    return tf.ensure_shape(images, [count, *pixels.shape[1:]])

  return read


def without_autotune() -> tf.data.Options:
  """Returns options without tf.data's autotune.

  Its thread polls at doubling intervals, which delays the end of an epoch.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  options.deterministic = True
  return options
