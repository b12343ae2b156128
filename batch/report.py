"""One self-contained page about a scored collection."""

import pathlib
from collections.abc import Sequence
from typing import Any

import pages
from batch import stats, summary
from images import model_card

TEMPLATE = pathlib.Path(__file__).with_name('report.html')
PSI_MODERATE, PSI_LARGE = 0.1, 0.25  # the usual thresholds of the population stability index
MAX_ROWS = 30  # of a table of classes or confusions


def page(finished: dict[str, Any], total: stats.Stats, card: model_card.ModelCard) -> str:
  """Returns HTML with everything in it: figures are inline SVG, pictures data URIs.

  Args:
    finished: the content of summary.json.
    total: the sum over all chunks, with the pictures.
    card: the model's.
  """
  is_small = len(card.labels) <= summary.MAX_DENSE_CLASSES
  height, width, channels = card.image_shape
  return pages.render(
    TEMPLATE,
    s=finished,
    labels=card.labels,
    image_kind=f'{height}x{width} {"RGB" if channels == 3 else "grey"}',
    classes=_classes(card.labels, total.by_label, card.training_classes),
    confidence=_heights(total.confidence),
    pixels=_pairs(total.pixels, card.training_pixels),
    confusion=summary.dense_confusion(total, len(card.labels)) if is_small else None,
    confusions=None if is_small else _top_confusions(total, card.labels),
    least=total.least_confident,
    mistakes=total.mistakes,
    drift={name: _verdict(value) for name, value in finished['stability_index'].items()},
  )


def _classes(
  labels: Sequence[str], counts: Sequence[int], trained: Sequence[float]
) -> list[dict[str, Any]]:
  """Returns a row per class, or per class with the most images if there are many.

  A row has the class's share of the collection and, if known, of the training set, in per cent.
  """
  most, whole = max([*counts, 1]), max(sum(counts), 1)
  expected: list[float | None] = list(trained) or [None] * len(labels)
  rows = [
    {
      'label': label,
      'count': count,
      'share': 100 * count / whole,
      'width': 100 * count / most,
      'trained': None if part is None else min(100 * part * whole / most, 100),
    }
    for label, count, part in zip(labels, counts, expected)
  ]
  return rows if len(rows) <= MAX_ROWS else sorted(rows, key=_by_count)[:MAX_ROWS]


def _by_count(row: dict[str, Any]) -> int:
  return -row['count']


def _heights(counts: Sequence[int]) -> list[float]:
  """Returns heights from 0 to 100."""
  most = max([*counts, 1])
  return [100 * count / most for count in counts]


def _pairs(counts: Sequence[int], trained: Sequence[float]) -> list[tuple[float, float | None]]:
  """Returns heights from 0 to 100 of this collection and, if known, the training set.

  The largest bin except the first sets the scale of both. The first is the background, half of all
  pixels: it would flatten the others, so it is cut off at the top.
  """
  whole = max(sum(counts), 1)
  here = [count / whole for count in counts]
  there = list(trained) or [0.0] * len(here)
  scale = 100 / max([*here[1:], *there[1:], 1e-9])
  return [
    (min(a * scale, 100), min(b * scale, 100) if trained else None) for a, b in zip(here, there)
  ]


def _top_confusions(total: stats.Stats, labels: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the most frequent pairs of a label and another predicted class."""
  pairs = [(n, pair) for pair, n in sorted(total.confusion.items()) if pair[0] != pair[1]]
  return [
    {'label': labels[label], 'predicted': labels[predicted], 'images': n}
    for n, (label, predicted) in sorted(pairs, key=lambda pair: -pair[0])[:MAX_ROWS]
  ]


def _verdict(value: float | None) -> dict[str, str]:
  if value is None:
    return {
      'text': 'unknown: the model card does not contain the distribution of the training set',
      'kind': 'none',
    }
  if value < PSI_MODERATE:
    return {'text': f'{value:.3f}: like the training set', 'kind': 'good'}
  very, kind = ('', 'fair') if value < PSI_LARGE else ('very ', 'bad')
  return {
    'text': f'{value:.3f}: {very}different from the training set; trust the predictions less',
    'kind': kind,
  }
