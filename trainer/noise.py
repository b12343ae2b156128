"""Random bits addressed by (seed, global step, row of the global batch).

Dropout and augmentation draw from one counter-based generator (Philox 4x32-10, Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011). The counter of a draw is its address, so a step repeated after a crash, or
split over another number of replicas, sees the same bits for the same image, and there is no generator state to save.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import tensorflow as tf

PHILOX = 1
WORDS_PER_BLOCK = 4  # Philox 4x32 turns one counter value into four uint32
STREAMS_PER_STEP = (
  256  # independent draws that one step may make: one for each dropout layer and augmentation
)


@dataclasses.dataclass(frozen=True)
class Address:
  """Where in the run a replica's rows are: scalar int64 tensors, and the run's seed."""

  seed: int
  step: tf.Tensor
  first_row: tf.Tensor


_tracing = threading.local()  # a strategy traces each replica in a thread of its own


@contextlib.contextmanager
def at(address: Address) -> Iterator[None]:
  """Layers called inside draw their bits at this address."""
  outer = getattr(_tracing, 'address', None)
  _tracing.address = address
  try:
    yield
  finally:
    _tracing.address = outer


def bits(stream: int, rows: tf.Tensor, per_row: int) -> tf.Tensor:
  """Uniform random bits, uint16 (rows, per_row), for the rows at the current address.

  Row i of the result depends on (seed, step, stream, first_row + i) alone.

  Args:
    stream: which of the step's independent draws this is, 0 to 255.
    rows: how many rows, a scalar integer.
    per_row: how many values for each row.

  Raises:
    RuntimeError: outside `at`.
  """
  address = getattr(_tracing, 'address', None)
  if address is None:
    raise RuntimeError(
      'random bits were asked for outside noise.at(address): call the model within it to train'
    )
  blocks = -(-per_row // (2 * WORDS_PER_BLOCK))
  low = tf.cast(address.first_row * blocks, tf.uint64)
  high = tf.cast(address.step * STREAMS_PER_STEP + stream, tf.uint64)
  words = tf.raw_ops.StatelessRandomUniformFullIntV2(
    shape=tf.stack([rows * blocks * WORDS_PER_BLOCK]),
    key=tf.constant([address.seed], tf.uint64),
    counter=tf.stack([low, high]),
    alg=PHILOX,
    dtype=tf.uint32,
  )
  return tf.reshape(tf.bitcast(words, tf.uint16), [rows, 2 * blocks * WORDS_PER_BLOCK])[:, :per_row]
