"""Evaluation: a model's probabilities over all replicas, and the figures made from them."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer import data
from trainer.slices import slices

MAX_ROWS_PER_REPLICA = 512  # images at a time
MIN_PROBABILITY = 1e-7  # keeps the logarithm finite


class Predictor:
  """A model whose probabilities the replicas of a strategy compute together."""

  def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model):
    self.strategy, self.model = strategy, model
    self.rows = data.rows_at_a_time(MAX_ROWS_PER_REPLICA, model.input_shape[1:])  # of a replica

  def predict(self, pixels: data.Pixels) -> Iterator[np.ndarray]:
    """Yields probabilities, float32 (n, classes), of some images, and then of those after them.

    Args:
      pixels: uint8 (N, height, width, channels).
    """
    rows_per_call = self.strategy.num_replicas_in_sync * self.rows
    for first in range(0, len(pixels), rows_per_call):
      chunk = pixels[first : first + rows_per_call]
      yield self._forward(self._distribute(chunk)).numpy()[: len(chunk)]

  def _distribute(self, chunk: np.ndarray) -> tf.distribute.DistributedValues:
    """Returns each replica's rows of the chunk, which zeros fill up."""
    replicas = self.strategy.num_replicas_in_sync
    padded = np.zeros((replicas * self.rows, *chunk.shape[1:]), chunk.dtype)
    padded[: len(chunk)] = chunk
    parts = np.split(padded, replicas)

    def part_of(context: tf.distribute.ReplicaContext) -> tf.Tensor:
      return tf.constant(parts[context.replica_id_in_sync_group])

    return self.strategy.experimental_distribute_values_from_function(part_of)

  @tf.function
  def _forward(self, rows: tf.distribute.DistributedValues) -> tf.Tensor:
    return self.strategy.gather(self.strategy.run(self._replica_forward, [rows]), axis=0)

  def _replica_forward(self, rows: tf.Tensor) -> tf.Tensor:
    parts = slices(range(self.rows), self.rows)
    answers = [self.model(rows[part.start : part.stop], training=False) for part in parts]
    return tf.concat(answers, axis=0)


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Returns the mean cross-entropy in nats of probabilities (N, classes) and labels (N,)."""
  of_labels = probabilities[np.arange(len(labels)), labels]
  return float(-np.log(np.maximum(of_labels, MIN_PROBABILITY)).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Returns the fraction of labels (N,) that have the largest of the probabilities (N, classes)."""
  return float((probabilities.argmax(axis=1) == labels).mean())
