"""How many images have an id that another image has, in bounded memory.

Of the ids' hashes the smallest MAX_IDS are kept, each with the number of its images. Up to as many
different ids the count is exact; beyond, it is an estimate from this sample, in which each id is as
likely as any other (Bar-Yossef et al., "Counting Distinct Elements in a Data Stream", 2002).
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

MAX_IDS = 1 << 16
LONG_BYTES = 256  # a longer id is shortened first, or it would widen the table of all the others
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing
SHIFT = np.uint64(29)
ALL = 1 << 64


class IdSample:
  """The ids of some images: those whose hashes are the smallest; `a + b` are those of both."""

  def __init__(self, hashes: np.ndarray, counts: np.ndarray, limit: int = ALL):
    """Keeps what is given.

    Args:
      hashes: uint64 (N,), below `limit`; a hash may occur more than once.
      counts: int64 (N,), of the images with that hash.
      limit: no hash from here on was kept.
    """
    self._hashes, self._counts, self._limit = hashes, counts, limit

  @classmethod
  def of(cls, ids: Sequence[str] = ()) -> Self:
    """Returns the sample of some ids."""
    return cls(_hashes(ids), np.ones(len(ids), np.int64))

  def __add__(self, other: Self) -> Self:
    limit = min(self._limit, other._limit)
    both = type(self)(
      np.concatenate([self._hashes, other._hashes]),
      np.concatenate([self._counts, other._counts]),
      limit,
    )
    # Sorting now and then is cheaper than for every chunk.
    return both._compact() if len(both._hashes) > 2 * MAX_IDS else both

  def __eq__(self, other: object) -> bool:
    return isinstance(other, IdSample) and self.to_json() == other.to_json()

  def __hash__(self) -> int:
    return hash(self._limit)

  def _compact(self) -> Self:
    """Returns the same with each hash once, and no more than MAX_IDS of them."""
    hashes, places = np.unique(self._hashes, return_inverse=True)
    counts = np.bincount(places, self._counts, len(hashes)).astype(np.int64)
    limit = min(self._limit, int(hashes[MAX_IDS]) if len(hashes) > MAX_IDS else ALL)
    kept = int(np.searchsorted(hashes, limit)) if limit < ALL else len(hashes)
    return type(self)(hashes[:kept], counts[:kept], limit)

  def repeated(self) -> int:
    """Returns the number of images whose id an earlier one has, an estimate if there are many."""
    sample = self._compact()
    return round(int((sample._counts - 1).sum()) * ALL / sample._limit)

  def to_json(self) -> dict[str, Any]:
    """Returns the sample as JSON values."""
    sample = self._compact()
    repeats = np.flatnonzero(sample._counts > 1)
    return {
      'hashes': base64.b64encode(sample._hashes.astype('<u8').tobytes()).decode(),
      'counts': [[int(place), int(sample._counts[place])] for place in repeats],
      'limit': sample._limit,
    }

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> Self:
    """Returns the sample that `to_json` gave."""
    hashes = np.frombuffer(base64.b64decode(values['hashes']), '<u8')
    counts = np.ones(len(hashes), np.int64)
    for place, count in values['counts']:
      counts[place] = count
    return cls(hashes, counts, values['limit'])


def _hashes(ids: Sequence[str]) -> np.ndarray:
  """Returns a hash of each id, uint64 (N,), the same in every process."""
  if not ids:
    return np.zeros(0, np.uint64)
  encoded = [name.encode('utf-8', 'surrogatepass') for name in ids]
  if max(map(len, encoded)) > LONG_BYTES:
    encoded = [_short(name) for name in encoded]
  width = -(-max(map(len, encoded)) // 8) * 8 or 8
  words = np.array(encoded, f'S{width}').view('<u8').reshape(len(encoded), width // 8)
  hashes = np.full(len(encoded), FACTOR)
  for column in words.T:
    mixed = (hashes ^ column) * FACTOR
    mixed ^= mixed >> SHIFT
    # The words after an id's end are zero; how many there are depends on the other ids.
    hashes = np.where(column == 0, hashes, mixed * FACTOR)
  return hashes ^ (hashes >> SHIFT)


def _short(encoded: bytes) -> bytes:
  return encoded if len(encoded) <= LONG_BYTES else hashlib.blake2b(encoded).digest()
