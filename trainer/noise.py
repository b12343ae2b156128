"""Random bits addressed by (seed, global step, row of the global batch).

Dropout and augmentation draw from one counter-based generator (Philox 4x32-10, Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011). The counter of a draw is its address, so a
step repeated after a crash, or split over another number of replicas, sees the same bits for the
same image, and there is no generator state to save.

    with noise.at(noise.Address(seed, step, first_row)):
      model(pixels, training=True)  # its layers call noise.bits(stream, rows, per_row)
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Iterator

import tensorflow as tf

PHILOX = 1
WORDS_PER_BLOCK = 4  # Philox 4x32 turns one counter value into four uint32
STREAMS_PER_STEP = 256  # independent draws per step: one per dropout layer and augmentation


@dataclasses.dataclass(frozen=True)
class Address:
  """The position of a replica's rows in the run: scalar int64 tensors, and the run's seed."""

  seed: int
  step: tf.Tensor
  first_row: tf.Tensor


_tracing = threading.local()  # a strategy traces each replica in a thread of its own


@contextlib.contextmanager
def at(address: Address) -> Iterator[None]:
  """Makes layers called inside draw their bits at this address."""
  outer = getattr(_tracing, 'address', None)
  _tracing.address = address
  try:
    yield
  finally:
    _tracing.address = outer


def bits(stream: int, rows: tf.Tensor, per_row: int) -> tf.Tensor:
  """Returns uniform random bits, uint16 (rows, per_row), for the rows at the current address.

  Row i of the result depends only on (seed, step, stream, first_row + i).

  Args:
    stream: which of the step's independent draws this is, 0 to 255.
    rows: number of rows, a scalar integer.
    per_row: number of values per row.

  Raises:
    RuntimeError: outside `at`.
  """
  address = getattr(_tracing, 'address', None)
  if address is None:
    raise RuntimeError(
      'random bits were requested outside noise.at(address): call the model within it to train'
    )
  blocks = math.ceil(per_row / (2 * WORDS_PER_BLOCK))
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
