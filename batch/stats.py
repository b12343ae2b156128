"""What is counted per chunk, how the counts add up, and their JSON."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import apache_beam as beam
import cv2
import numpy as np

from batch import chunk, labels, pictures, repeats
from images import model_card

CONFIDENCE_BINS = 20
MAX_REASONS = 20
MAX_EXACT_FLOAT32 = 2**24

Key = TypeVar('Key', bound=Hashable)
Number = TypeVar('Number', int, float)


@dataclasses.dataclass(frozen=True)
class Stats:
  """What one or more chunks add to the summary; `a + b` are those of both.

  Attributes:
    images_with_foreign_label: images whose label is not one of the model's.
    images_converted: images that were converted as photos.
    images_by_background: those of them whose ground was looked at, by what it is.
    images_rescored: close calls in bfloat16 that were rescored in float32.
    encoded_bytes: size of the images as read.
    by_label: images by predicted class.
    confidence: images by the probability of their predicted class, in CONFIDENCE_BINS equal bins.
    pixels: pixel values by brightness, in model_card.PIXEL_BINS equal bins.
    confusion: images by (label, predicted class); no zeros.
    reasons: rejects by stage and reason, numbers replaced by N; the MAX_REASONS most frequent.
    passed_over: what was left out because it is no image, by kind.
    foreign_labels: images by those labels that are not the model's; the most frequent.
    ids: a sample of all ids, which tells how many are repeated.
    precisions: the precisions that workers used.
    seconds: time by stage, summed over all processes.
    least_confident, mistakes: pictures for the report.
  """

  images_seen: int
  images_scored: int
  images_rejected: int
  images_labelled: int
  images_with_foreign_label: int
  images_converted: int
  images_by_background: dict[str, int]
  images_rescored: int
  encoded_bytes: int
  by_label: list[int]
  confidence: list[int]
  pixels: list[int]
  confusion: dict[tuple[int, int], int]
  reasons: dict[str, int]
  passed_over: dict[str, int]
  foreign_labels: dict[str, int]
  ids: repeats.IdSample
  precisions: frozenset[str]
  seconds: dict[str, float]
  least_confident: list[pictures.Picture]
  mistakes: list[pictures.Picture]

  @classmethod
  def zero(cls, num_classes: int) -> Self:
    """Returns the stats of no images."""
    return cls(
      images_seen=0,
      images_scored=0,
      images_rejected=0,
      images_labelled=0,
      images_with_foreign_label=0,
      images_converted=0,
      images_by_background={},
      images_rescored=0,
      encoded_bytes=0,
      by_label=[0] * num_classes,
      confidence=[0] * CONFIDENCE_BINS,
      pixels=[0] * model_card.PIXEL_BINS,
      confusion={},
      reasons={},
      passed_over={},
      foreign_labels={},
      ids=repeats.IdSample.of(),
      precisions=frozenset(),
      seconds={},
      least_confident=[],
      mistakes=[],
    )

  def __add__(self, other: 'Stats') -> 'Stats':
    return Stats(
      images_seen=self.images_seen + other.images_seen,
      images_scored=self.images_scored + other.images_scored,
      images_rejected=self.images_rejected + other.images_rejected,
      images_labelled=self.images_labelled + other.images_labelled,
      images_with_foreign_label=self.images_with_foreign_label + other.images_with_foreign_label,
      images_converted=self.images_converted + other.images_converted,
      images_by_background=_add_by_key(self.images_by_background, other.images_by_background),
      images_rescored=self.images_rescored + other.images_rescored,
      encoded_bytes=self.encoded_bytes + other.encoded_bytes,
      by_label=np.add(self.by_label, other.by_label).tolist(),
      confidence=np.add(self.confidence, other.confidence).tolist(),
      pixels=np.add(self.pixels, other.pixels).tolist(),
      confusion=_add_by_key(self.confusion, other.confusion),
      reasons=labels.most_frequent(_add_by_key(self.reasons, other.reasons), MAX_REASONS),
      passed_over=_add_by_key(self.passed_over, other.passed_over),
      foreign_labels=labels.most_frequent(_add_by_key(self.foreign_labels, other.foreign_labels)),
      ids=self.ids + other.ids,
      precisions=self.precisions | other.precisions,
      seconds=_add_by_key(self.seconds, other.seconds),
      least_confident=pictures.merge(self.least_confident, other.least_confident),
      mistakes=pictures.merge(self.mistakes, other.mistakes),
    )

  def to_json(self) -> dict[str, Any]:
    """Returns the stats as JSON values: `confusion` as rows of (label, predicted class, count)."""
    return {
      **dataclasses.asdict(self),
      'confusion': [[*cell, count] for cell, count in sorted(self.confusion.items())],
      'ids': self.ids.to_json(),
      'precisions': sorted(self.precisions),
    }

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> Self:
    """Returns the stats that `to_json` gave."""
    return cls(
      **{
        **values,
        'confusion': {(label, predicted): n for label, predicted, n in values['confusion']},
        'ids': repeats.IdSample.from_json(values['ids']),
        'precisions': frozenset(values['precisions']),
        'least_confident': [pictures.Picture(**each) for each in values['least_confident']],
        'mistakes': [pictures.Picture(**each) for each in values['mistakes']],
      }
    )


class StatsCombineFn(beam.CombineFn):
  """Adds up Stats, so that each worker sums its own chunks first."""

  def __init__(self, num_classes: int):
    super().__init__()
    self._num_classes = num_classes

  def create_accumulator(self) -> Stats:
    """Returns the stats of no images."""
    return Stats.zero(self._num_classes)

  def add_input(self, total: Stats, part: Stats) -> Stats:
    """Adds a chunk's stats."""
    return total + part

  def merge_accumulators(self, totals: Iterable[Stats]) -> Stats:
    """Adds the workers' sums."""
    return sum(totals, self.create_accumulator())

  def extract_output(self, total: Stats) -> Stats:
    """Returns the sum."""
    return total


def chunk_stats(scored: chunk.Scored) -> Stats:
  """Returns what one chunk adds to the summary, but for `seconds`: the same on every run."""
  decoded, probabilities = scored.chunk, scored.probabilities
  came, predicted = decoded.labels, probabilities.argmax(axis=1)
  is_known = came >= 0
  confidence = probabilities.max(axis=1, initial=0)
  return Stats(
    images_seen=len(decoded) + len(decoded.rejects),
    images_scored=len(decoded),
    images_rejected=len(decoded.rejects),
    images_labelled=int(is_known.sum()),
    images_with_foreign_label=int((came == chunk.UNKNOWN_LABEL).sum()),
    images_converted=decoded.converted,
    images_by_background=decoded.by_background,
    images_rescored=scored.rescored,
    encoded_bytes=decoded.encoded_bytes,
    by_label=np.bincount(predicted, minlength=probabilities.shape[1]).tolist(),
    confidence=np.histogram(confidence, CONFIDENCE_BINS, (0, 1))[0].tolist(),
    pixels=_pixel_histogram(decoded.pixels),
    confusion=dict(collections.Counter(zip(came[is_known].tolist(), predicted[is_known].tolist()))),
    reasons=_count_reasons(decoded.rejects),
    passed_over=decoded.passed_over,
    foreign_labels=decoded.foreign_labels,
    ids=repeats.IdSample.of([*decoded.ids, *(reject.id for reject in decoded.rejects)]),
    precisions=frozenset([scored.precision]),
    seconds={},
    least_confident=pictures.least_confident(scored),
    mistakes=pictures.most_confident_mistakes(scored),
  )


def _count_reasons(rejects: Sequence[chunk.Reject]) -> dict[str, int]:
  counts: dict[str, int] = {}
  for reject in rejects:
    reason = re.sub(r'[0-9]+(x[0-9]+)?', 'N', reject.reason.split(': it begins')[0])
    kind = f'{reject.stage}: {reason}'
    counts[kind] = counts.get(kind, 0) + 1
  return labels.most_frequent(counts, MAX_REASONS)


def _add_by_key(a: Mapping[Key, Number], b: Mapping[Key, Number]) -> dict[Key, Number]:
  return {key: a.get(key, 0) + b.get(key, 0) for key in itertools.chain(a, b)}


def _pixel_histogram(pixels: np.ndarray) -> list[int]:
  """Counts pixel values by brightness, for uint8 of any shape.

  OpenCV is five times as fast as numpy, but counts in float32, which is exact up to 2^24.
  """
  values, bins = pixels.reshape(-1), model_card.PIXEL_BINS
  total = np.zeros(bins, np.int64)
  for first in range(0, len(values), MAX_EXACT_FLOAT32):
    part = values[first : first + MAX_EXACT_FLOAT32].reshape(1, -1)
    total += cv2.calcHist([part], [0], None, [bins], [0, 256]).ravel().astype(np.int64)
  return total.tolist()
