"""The parts of a batch that one CPU thread computes by itself, and the order of their sum."""

from collections.abc import Sequence

import tensorflow as tf

SLICE_ROWS = 64
MAX_REPLICAS = 4  # that sum the same slices in the same order as one


def slices(rows: range, batch_rows: int) -> list[range]:
  """Halves a replica's rows until one thread of a CPU can compute each part.

  A GPU takes them whole.

  Kernels that share one operation among threads wait for each other, and need more memory than a
  core's caches have: slices take a fifth less time. Their results do not depend on the number of
  threads; and because two or four replicas cut their rows where one replica cuts the whole batch,
  not on the number of replicas either.

  Args:
    rows: the replica's part of the batch.
    batch_rows: the number of rows of the batch, over all replicas.
  """
  largest = min(SLICE_ROWS, -(-batch_rows // MAX_REPLICAS))
  if len(rows) <= largest or tf.config.list_physical_devices('GPU'):
    return [rows]
  middle = rows.start + len(rows) // 2
  halves = range(rows.start, middle), range(middle, rows.stop)
  return [part for half in halves for part in slices(half, batch_rows)]


def sum_pairwise(values: Sequence[tf.Tensor]) -> tf.Tensor:
  """Sums halves first, in the order in which replicas that have the halves would sum them."""
  if len(values) == 1:
    return values[0]
  middle = len(values) // 2
  # reduce_sum, because a grappler pass regroups chains of Add and AddN.
  return tf.reduce_sum(
    tf.stack([sum_pairwise(values[:middle]), sum_pairwise(values[middle:])]), axis=0
  )
