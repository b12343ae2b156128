"""What splits are called; and which pictures are held out.

They are the same ones wherever and in whatever order the pictures are.
Of each class those with the smallest checksums are held out, so a set that grows keeps nearly all
of its pictures where they were. Copies of one picture stay together.
"""

import collections
from collections.abc import Sequence

import numpy as np

SPLIT_NAMES = {  # in lower case, by people who split their pictures
  'train': 'train',
  'training': 'train',
  'validation': 'validation',
  'valid': 'validation',
  'val': 'validation',
  'test': 'test',
  'testing': 'test',
}
FRACTION = 0.1  # for the test, and of the rest for the validation, unless the source has them
LEAST_TO_SPLIT = 3  # different pictures of a class of which one is held out however few they are


def hold_out(labels: np.ndarray, digests: Sequence[str], fraction: float) -> np.ndarray:
  """Returns which examples to hold out, bool (N,): about this fraction of each class.

  Args:
    labels: int64 (N,).
    digests: N checksums, equal for copies of one picture.
    fraction: below 1; a class of fewer than LEAST_TO_SPLIT different pictures keeps them all.
  """
  copies: dict[str, list[int]] = collections.defaultdict(list)
  for row, digest in enumerate(digests):
    copies[digest].append(row)
  by_class: dict[int, list[str]] = collections.defaultdict(list)
  for digest in sorted(copies):  # copies whose labels differ count as the first class among these
    by_class[min(labels[row] for row in copies[digest])].append(digest)
  held_out = np.zeros(len(labels), bool)
  for different in by_class.values():
    for digest in different[: _count([len(copies[digest]) for digest in different], fraction)]:
      held_out[copies[digest]] = True
  return held_out


def _count(copies: Sequence[int], fraction: float) -> int:
  """Returns how many different pictures of a class to hold out, given the copies of each."""
  if len(copies) < LEAST_TO_SPLIT:
    return 0
  totals = np.cumsum(copies)
  nearest = int(np.abs(totals - totals[-1] * fraction).argmin()) + 1
  return min(nearest, len(copies) - 2)  # one may be held out for the test and one for validation
