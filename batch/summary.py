"""The content of summary.json: what the counts tell about the collection."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from batch import stats
from images import model_card

MAX_DENSE_CLASSES = 30  # larger confusion matrices are mostly zeros
MIN_FRACTION = 1e-4  # avoids log(0) for empty bins


def stability_index(expected: Sequence[float], counted: Sequence[float]) -> float | None:
  """Returns the population stability index: the sum of (a - e) ln(a / e) over all bins.

  By the rule of thumb of credit scoring, where it comes from (Siddiqi, "Credit Risk Scorecards",
  2006): below 0.1 no change, above 0.25 a large one.

  Args:
    expected: the fractions e; () if unknown.
    counted: counts, whose fractions are a.

  Returns:
    The index, or None if there is nothing to compare.
  """
  if len(expected) != len(counted) or not sum(counted):
    return None
  e, a = _fractions(expected), _fractions(counted)
  return float(((a - e) * np.log(a / e)).sum())


def _fractions(values: Sequence[float]) -> np.ndarray:
  return np.maximum(np.asarray(values, float) / sum(values), MIN_FRACTION)


def summarize(
  total: stats.Stats,
  card: model_card.ModelCard,
  facts: dict[str, Any],
  wall_seconds: float | None,
  scored_before: int = 0,
) -> dict[str, Any]:
  """Returns the content of summary.json.

  Args:
    total: the sum over all chunks.
    card: the model's.
    facts: the run's identity: model version, inputs, settings.
    wall_seconds: time since the job's start, including the workers' start-up; None if unknown.
    scored_before: how many of the images a run has scored that this one resumes.
  """
  correct = sum(n for (label, predicted), n in total.confusion.items() if label == predicted)
  return {
    **facts,
    **_sizes(total),
    'reject_fraction': total.images_rejected / max(total.images_seen, 1),
    'by_label': dict(zip(card.labels, total.by_label)),
    'confidence_histogram': {
      'edges': [i / stats.CONFIDENCE_BINS for i in range(stats.CONFIDENCE_BINS + 1)],
      'counts': total.confidence,
    },
    'accuracy': correct / total.images_labelled if total.images_labelled else None,
    'confusion_matrix': _confusion_matrix(total, card.labels) if total.images_labelled else None,
    'reject_reasons': total.reasons,
    'repeated_ids': total.ids.repeated(),
    'passed_over': dict(sorted(total.passed_over.items())),
    'precision': '+'.join(sorted(total.precisions)),
    'stability_index': {
      'pixels': stability_index(card.training_pixels, total.pixels),
      'classes': stability_index(card.training_classes, total.by_label),
    },
    'pixel_fractions': [count / max(sum(total.pixels), 1) for count in total.pixels],
    **_speed(total.images_scored - scored_before, wall_seconds),
    'stage_seconds': {stage: round(value, 3) for stage, value in sorted(total.seconds.items())},
  }


def _sizes(total: stats.Stats) -> dict[str, Any]:
  return {
    'images_seen': total.images_seen,
    'images_scored': total.images_scored,
    'images_rejected': total.images_rejected,
    'images_labelled': total.images_labelled,
    'images_with_foreign_label': total.images_with_foreign_label,
    'foreign_labels': total.foreign_labels,
    'images_converted': total.images_converted,
    'images_by_background': {
      ground: total.images_by_background.get(ground, 0) for ground in ('light', 'dark')
    },
    'images_rescored': total.images_rescored,
    'encoded_bytes': total.encoded_bytes,
  }


def _speed(images: int, seconds: float | None) -> dict[str, Any]:
  return {
    'wall_seconds': None if seconds is None else round(seconds, 3),
    'images_scored_by_this_run': images,
    'images_per_second': round(images / seconds, 1) if seconds else None,
  }


def _confusion_matrix(total: stats.Stats, labels: Sequence[str]) -> dict[str, Any]:
  """Returns all counts as a matrix or, if the model has many classes, the cells that are not 0."""
  matrix = {'labels': list(labels), 'rows_are': 'the label that came'}
  if len(labels) <= MAX_DENSE_CLASSES:
    return {**matrix, 'counts': dense_confusion(total, len(labels))}
  cells = [[label, predicted, n] for (label, predicted), n in sorted(total.confusion.items())]
  return {**matrix, 'cells_are': 'row, column, count', 'cells': cells}


def dense_confusion(total: stats.Stats, num_classes: int) -> list[list[int]]:
  """Returns the confusion matrix: a row per label, a column per predicted class."""
  classes = range(num_classes)
  return [[total.confusion.get((row, column), 0) for column in classes] for row in classes]


def to_json(value: Any) -> str:
  """Returns indented JSON with a final line break."""
  return json.dumps(value, indent=2, ensure_ascii=False) + '\n'
