"""One self-contained page about a scored collection."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from batch import summary
from images import model_card

TEMPLATE = pathlib.Path(__file__).with_name('report.html')
LITTLE, MUCH = 0.1, 0.25  # the usual thresholds of the population stability index


def page(
  finished: dict[str, Any], total: summary.Stats, card: model_card.ModelCard, facts: dict[str, Any]
) -> str:
  """HTML with everything in it: figures are inline SVG, pictures data URIs.

  Args:
    finished: what summary.json holds.
    total: what the chunks counted, with the pictures.
    card: the model's.
    facts: what the run was.
  """
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters['count'] = lambda value: f'{value:,}'
  environment.filters['percent'] = lambda value: f'{100 * value:.2f} %'
  return environment.from_string(TEMPLATE.read_text()).render(
    s=finished,
    facts=facts,
    labels=card.labels,
    classes=_bars(card.labels, total['by_label'], card.training_classes),
    confidence=_heights(total['confidence']),
    pixels=_pairs(total['pixels'], card.training_pixels),
    confusion=_confusion(total['confusion']),
    least=total['least_confident'],
    mistakes=total['mistakes'],
    drift={name: _verdict(value) for name, value in finished['stability_index'].items()},
  )


def _bars(
  labels: Sequence[str], counts: Sequence[int], trained: Sequence[float]
) -> list[dict[str, Any]]:
  """A row a class: its share of the collection, and of the training set where that is known, in per cent."""
  most = max([*counts, 1])
  whole = max(sum(counts), 1)
  expected: list[float | None] = list(trained) or [None] * len(labels)
  return [
    {
      'label': label,
      'count': count,
      'share': 100 * count / whole,
      'width': 100 * count / most,
      'trained': None if part is None else min(100 * part * whole / most, 100),
    }
    for label, count, part in zip(labels, counts, expected)
  ]


def _heights(counts: Sequence[int]) -> list[float]:
  """Heights from 0 to 100."""
  most = max([*counts, 1])
  return [100 * count / most for count in counts]


def _pairs(counts: Sequence[int], trained: Sequence[float]) -> list[tuple[float, float | None]]:
  """(this collection, training set): heights from 0 to 100 on one scale, which its largest part of the rest sets.

  Background is half of all pixels; on a scale of its own it would hide the others, so it is cut off at the top.
  """
  whole = max(sum(counts), 1)
  here = [count / whole for count in counts]
  there = list(trained) or [0.0] * len(here)
  most = max([*here[1:], *there[1:], 1e-9])
  height = lambda part: min(100 * part / most, 100)
  return [(height(a), height(b) if trained else None) for a, b in zip(here, there)]


def _confusion(counts: Sequence[Sequence[int]]) -> list[list[dict[str, Any]]]:
  """Cells with their count and how dark they are, from 0 to 1, as a part of their row."""
  return [[{'count': count, 'shade': count / max(sum(row), 1)} for count in row] for row in counts]


def _verdict(value: float | None) -> dict[str, str]:
  if value is None:
    return {
      'text': 'not known: the model card does not say how the training set was distributed',
      'kind': 'none',
    }
  if value < LITTLE:
    return {'text': f'{value:.3f}: like the training set', 'kind': 'good'}
  kind = (
    'different from the training set' if value < MUCH else 'very different from the training set'
  )
  return {
    'text': f'{value:.3f}: {kind}; trust the predictions less',
    'kind': 'fair' if value < MUCH else 'bad',
  }
