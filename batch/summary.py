"""What a chunk counted, how counts add up, and what they say about the collection."""

import base64
import dataclasses
import heapq
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import cv2
import numpy as np

from batch import chunk
from images import model_card

CONFIDENCE_BINS = 20
PICTURES = 12  # of each kind that the report shows
REASONS = 20  # of those for rejecting that the summary lists
PSI_FLOOR = 1e-4  # a range that one side lacks would make the index infinite

Stats = dict[str, Any]


def of_chunk(scored: chunk.Scored) -> Stats:
  """What one chunk adds to the summary. All of it JSON, and all but `seconds` the same on every run."""
  decoded, probabilities = scored.chunk, scored.probabilities
  labels = decoded.labels
  predicted = probabilities.argmax(axis=1)
  confidence = probabilities.max(axis=1, initial=0)
  classes = probabilities.shape[1]
  known = labels >= 0
  confusion = np.bincount(labels[known] * classes + predicted[known], minlength=classes**2).reshape(
    classes, classes
  )
  reasons: dict[str, int] = {}
  for reject in decoded.rejects:
    kind = (
      f'{reject.stage}: {re.sub(r"[0-9]+(x[0-9]+)?", "N", reject.reason.split(": it begins")[0])}'
    )
    reasons[kind] = reasons.get(kind, 0) + 1
  return {
    'images_seen': len(decoded) + len(decoded.rejects),
    'images_scored': len(decoded),
    'images_rejected': len(decoded.rejects),
    'images_labelled': int(known.sum()),
    'images_with_foreign_label': int((labels == chunk.UNKNOWN_LABEL).sum()),
    'images_converted': decoded.converted,
    'images_rescored': scored.rescored,
    'encoded_bytes': decoded.encoded_bytes,
    'by_label': np.bincount(predicted, minlength=classes).tolist(),
    'confidence': np.histogram(confidence, CONFIDENCE_BINS, (0, 1))[0].tolist(),
    'pixels': _pixel_histogram(decoded.pixels),
    'confusion': confusion.tolist(),
    'reasons': dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS]),
    'precisions': [scored.precision],
    'seconds': scored.seconds,
    'least_confident': _pictures(scored, predicted, confidence, np.arange(len(decoded)), -1),
    'mistakes': _pictures(
      scored, predicted, confidence, np.flatnonzero(known & (labels != predicted)), 1
    ),
  }


def _pixel_histogram(pixels: np.ndarray) -> list[int]:
  """Pixels by brightness. OpenCV counts five times as fast as numpy, and returns float32, exact to 2^24 a range."""
  total = np.zeros(model_card.PIXEL_BINS, np.int64)
  for first in range(0, len(pixels), 8192):
    flat = pixels[first : first + 8192].reshape(1, -1)
    total += (
      cv2.calcHist([flat], [0], None, [model_card.PIXEL_BINS], [0, 256]).ravel().astype(np.int64)
    )
  return total.tolist()


def _pictures(
  scored: chunk.Scored, predicted: np.ndarray, confidence: np.ndarray, rows: np.ndarray, sign: int
) -> list[dict]:
  """The PICTURES of `rows` with the largest confidence x sign, ties in their order, each with its image as PNG."""
  chosen = rows[np.argsort(-sign * confidence[rows], kind='stable')[:PICTURES]]
  decoded = scored.chunk
  png = lambda row: base64.b64encode(
    cv2.imencode('.png', decoded.pixels[row])[1].tobytes()
  ).decode()
  return [
    {
      'rank': sign * float(confidence[row]),
      'id': decoded.ids[row],
      'confidence': float(confidence[row]),
      'predicted': int(predicted[row]),
      'label': int(decoded.labels[row]),
      'png': png(row),
    }
    for row in chosen
  ]


def add(parts: Iterable[Stats]) -> Stats:
  """The sum of what chunks counted; {} of none."""
  total: Stats = {}
  for part in parts:
    total = (
      {key: _add(key, total[key], part[key]) for key in part} if total and part else total or part
    )
  return total


def _add(key: str, a: Any, b: Any) -> Any:
  if key in ('least_confident', 'mistakes'):
    return heapq.nsmallest(
      PICTURES, [*a, *b], key=lambda picture: (-picture['rank'], picture['id'])
    )
  if key == 'precisions':
    return sorted({*a, *b})
  if isinstance(a, dict):
    summed = {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}
    return (
      dict(sorted(summed.items(), key=lambda item: (-item[1], item[0]))[:REASONS])
      if key == 'reasons'
      else summed
    )
  return np.add(a, b).tolist() if isinstance(a, list) else a + b


class Add(beam.CombineFn):
  """`add` as Beam wants it, so that each worker sums its own chunks first."""

  def create_accumulator(self) -> Stats:
    return {}

  def add_input(self, total: Stats, part: Stats) -> Stats:
    return add([total, part])

  def merge_accumulators(self, totals: Iterable[Stats]) -> Stats:
    return add(totals)

  def extract_output(self, total: Stats) -> Stats:
    return total


@dataclasses.dataclass(frozen=True)
class Drawn:
  """How the training set was distributed, as the model card says: fractions, or () where it does not."""

  pixels: Sequence[float]
  classes: Sequence[float]


def stability_index(expected: Sequence[float], counted: Sequence[float]) -> float | None:
  """The population stability index, sum of (a - e) ln(a / e) over fractions e expected and a found.

  By the rule of thumb of credit scoring, where it comes from (Siddiqi, "Credit Risk Scorecards", 2006): below 0.1 no
  change, above 0.25 a large one. None where there is nothing to compare.
  """
  if len(expected) != len(counted) or not sum(counted):
    return None
  floor = lambda values: np.maximum(np.asarray(values, float) / sum(values), PSI_FLOOR)
  e, a = floor(expected), floor(counted)
  return float(((a - e) * np.log(a / e)).sum())


def finish(
  total: Stats, labels: Sequence[str], drawn: Drawn, facts: dict[str, Any], wall_seconds: float
) -> dict:
  """What summary.json holds.

  Args:
    total: the sum over all chunks.
    labels: the model's, in index order.
    drawn: the training set's distribution.
    facts: what the run was: model version, inputs, settings.
    wall_seconds: from the job's start to here, start-up of the workers included.
  """
  scored, labelled = total['images_scored'], total['images_labelled']
  right = int(np.trace(total['confusion']))
  share = lambda part, whole: part / whole if whole else None
  return {
    **facts,
    **{
      key: value
      for key, value in total.items()
      if key.startswith('images_') or key == 'encoded_bytes'
    },
    'reject_fraction': share(total['images_rejected'], total['images_seen']) or 0.0,
    'by_label': dict(zip(labels, total['by_label'])),
    'confidence_histogram': {
      'edges': [i / CONFIDENCE_BINS for i in range(CONFIDENCE_BINS + 1)],
      'counts': total['confidence'],
    },
    'accuracy': share(right, labelled),
    'confusion_matrix': {
      'labels': list(labels),
      'rows_are': 'the label that came',
      'counts': total['confusion'],
    }
    if labelled
    else None,
    'reject_reasons': total['reasons'],
    'precision': '+'.join(total['precisions']),
    'stability_index': {
      'pixels': stability_index(drawn.pixels, total['pixels']),
      'classes': stability_index(drawn.classes, total['by_label']),
    },
    'pixel_fractions': [count / max(sum(total['pixels']), 1) for count in total['pixels']],
    'wall_seconds': round(wall_seconds, 3),
    'images_per_second': round(scored / wall_seconds, 1) if wall_seconds > 0 else math.nan,
    'stage_seconds': {stage: round(value, 3) for stage, value in sorted(total['seconds'].items())},
  }


def dumps(value: Any) -> str:
  return json.dumps(value, indent=2, ensure_ascii=False) + '\n'
