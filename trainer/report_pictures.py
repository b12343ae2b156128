"""The pictures on the report's page: its most confident mistakes, and some of each class."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from images import png
from trainer import data

MAX_SIDE = 84  # pixels on the page; larger pictures are shrunk, or the page would be huge
GAP = 4  # pixels of white between samples


def surest_mistakes(test: data.Examples, probabilities: np.ndarray) -> list[tuple[int, int]]:
  """Returns the wrong predictions, the most confident first, as (row, number of times).

  A picture that occurs more often is there once, with the number of times.
  """
  predicted = probabilities.argmax(axis=1)
  wrong = np.flatnonzero(predicted != test.labels)
  surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind='stable')]
  copies: dict[tuple[bytes, int], list[int]] = {}  # by checksum and label
  for i in surest:
    digest = hashlib.sha256(test.pixels[i].tobytes()).digest()
    copies.setdefault((digest, test.labels[i]), []).append(i)
  return [(first, 1 + len(others)) for first, *others in copies.values()]


def mistakes(
  test: data.Examples, probabilities: np.ndarray, labels: Sequence[str], count: int = 24
) -> list[dict[str, Any]]:
  """Returns what the page shows of each of the most confident mistakes."""
  return [
    {
      'png': _base64(shrunk(test.pixels[row])),
      'predicted': labels[probabilities[row].argmax()],
      'confidence': float(probabilities[row].max()),
      'label': labels[test.labels[row]],
      'times': times,
    }
    for row, times in surest_mistakes(test, probabilities)[:count]
  ]


def samples(train: data.Examples, labels: Sequence[str], count: int = 12) -> dict[str, str]:
  """Returns for each class the first `count` training images beside each other, as one PNG."""
  return {
    label: _base64(_strip(train, np.flatnonzero(train.labels == i)[:count], count))
    for i, label in enumerate(labels)
  }


def _strip(train: data.Examples, rows: np.ndarray, count: int) -> np.ndarray:
  """Returns `count` places beside each other with these images, and white where there is none."""
  places = np.full((count, *shrunk(train.pixels[0]).shape), 255, np.uint8)
  for place, row in zip(places, rows):
    place[:] = shrunk(train.pixels[row])
  apart = np.pad(places, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
  return np.concatenate(list(apart), axis=1)


def shrunk(pixels: np.ndarray) -> np.ndarray:
  """Returns uint8 (height, width, channels) with no side longer than MAX_SIDE."""
  height, width, channels = pixels.shape
  scale = MAX_SIDE / max(height, width)
  if scale >= 1:
    return pixels
  size = max(round(width * scale), 1), max(round(height * scale), 1)
  return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)


def _base64(pixels: np.ndarray) -> str:
  return base64.b64encode(png.encode(pixels)).decode()
