"""The few images of each chunk that the report may show."""

import base64
import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from batch import chunk
from images import png

MAX_PICTURES = 12  # of each kind


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image and its prediction; the report shows those with the largest `rank`.

  Attributes:
    predicted: index of the predicted class.
    label: index of the label that the image came with, or NO_LABEL or UNKNOWN_LABEL.
    png: the image as base64.
  """

  rank: float
  id: str
  confidence: float
  predicted: int
  label: int
  png: str


def least_confident(scored: chunk.Scored) -> list[Picture]:
  """Returns the images with the lowest confidence."""
  return _pick(scored, np.arange(len(scored.chunk)), -1)


def most_confident_mistakes(scored: chunk.Scored) -> list[Picture]:
  """Returns the images with the highest confidence whose label is another class."""
  labels = scored.chunk.labels
  predicted = scored.probabilities.argmax(axis=1)
  return _pick(scored, np.flatnonzero((labels >= 0) & (labels != predicted)), 1)


def _pick(scored: chunk.Scored, rows: np.ndarray, sign: int) -> list[Picture]:
  """Returns those of `rows` with the largest sign x confidence, ties in their order."""
  confidence = scored.probabilities.max(axis=1, initial=0)
  chosen = rows[np.argsort(-sign * confidence[rows], kind='stable')[:MAX_PICTURES]]
  predicted = scored.probabilities[chosen].argmax(axis=1)
  return [
    Picture(
      rank=sign * float(confidence[row]),
      id=scored.chunk.ids[row],
      confidence=float(confidence[row]),
      predicted=int(index),
      label=int(scored.chunk.labels[row]),
      png=base64.b64encode(png.encode(scored.chunk.pixels[row])).decode(),
    )
    for row, index in zip(chosen, predicted)
  ]


def merge(a: Sequence[Picture], b: Sequence[Picture]) -> list[Picture]:
  """Returns the pictures of both with the largest rank, ties by id."""
  return heapq.nsmallest(MAX_PICTURES, [*a, *b], key=_by_rank)


def _by_rank(picture: Picture) -> tuple[float, str]:
  return -picture.rank, picture.id
