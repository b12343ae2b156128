"""How many ids occur more than once, in a memory that does not grow with the collection."""

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

MAX_IDS = 1 << 18  # whose hashes take 2 MiB
HASH = np.dtype('<u8')
MAX_CHARACTERS = 256  # of an id; of a longer one, its digest is hashed


def _mixed(values: np.ndarray) -> np.ndarray:
  """Returns uint64 whose bits all depend on all bits of the values: MurmurHash3's finalizer."""
  for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
    values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
  return values ^ (values >> np.uint64(33))


FACTORS = _mixed(np.arange(1, MAX_CHARACTERS + 1, dtype=HASH)) | np.uint64(1)


def _hash(ids: Sequence[str]) -> np.ndarray:
  """Returns uint64 (N,): each id's characters times FACTORS, summed. A digest each takes longer."""
  if not ids:
    return np.empty(0, HASH)
  if max(map(len, ids)) > MAX_CHARACTERS:
    ids = [_shortened(each) for each in ids]
  codes = np.array(ids)
  codes = codes.view(np.uint32).reshape(len(ids), -1)
  return _mixed((codes * FACTORS[: codes.shape[1]]).sum(axis=1, dtype=HASH)).astype(HASH)


def _shortened(name: str) -> str:
  if len(name) <= MAX_CHARACTERS:
    return name
  return hashlib.blake2b(name.encode('utf-8', 'surrogatepass')).hexdigest()


@dataclasses.dataclass(frozen=True)
class Ids:
  """The hashes of ids: of all of them up to MAX_IDS, beyond of a half, a quarter ... of them.

  An id is in the sample if its hash is a multiple of 2^level, so its repetitions are in it too.

  Attributes:
    hashes: 8 bytes an id.
    level: how often the sample was halved.
    counted: repetitions that are no longer among the hashes.
  """

  hashes: bytes = b''
  level: int = 0
  counted: int = 0

  @classmethod
  def of(cls, ids: Sequence[str]) -> Self:
    """Returns the hashes of ids."""
    return cls(_hash(ids).tobytes())

  def __add__(self, other: 'Ids') -> 'Ids':
    level = max(self.level, other.level)
    a, b = self._at(level), other._at(level)
    both = Ids(a.hashes + b.hashes, level, a.counted + b.counted)
    if len(both.hashes) > MAX_IDS * HASH.itemsize:
      both = both._without_repetitions()
    while len(both.hashes) > MAX_IDS * HASH.itemsize:
      both = both._at(both.level + 1)
    return both

  def repeated(self) -> int:
    """Returns how many ids repeat another: exactly up to MAX_IDS different ones, else about."""
    return self._without_repetitions().counted

  def _without_repetitions(self) -> 'Ids':
    hashes = np.frombuffer(self.hashes, HASH)
    different = np.unique(hashes)
    more = (len(hashes) - len(different)) << self.level
    return Ids(different.tobytes(), self.level, self.counted + more)

  def _at(self, level: int) -> 'Ids':
    """Returns the sample halved until it has a level."""
    if level == self.level:
      return self
    ids = self._without_repetitions()
    hashes = np.frombuffer(ids.hashes, HASH)
    return Ids(hashes[hashes % np.uint64(1 << level) == 0].tobytes(), level, ids.counted)

  def to_json(self) -> dict[str, Any]:
    """Returns JSON values."""
    return {**dataclasses.asdict(self), 'hashes': base64.b64encode(self.hashes).decode()}

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> Self:
    """Returns the ids that `to_json` gave."""
    return cls(**{**values, 'hashes': base64.b64decode(values['hashes'])})
