"""How good predictions are: by class, by pair of classes, and whether their probabilities hold."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer import data

MAX_DENSE_CLASSES = 30  # larger confusion matrices are mostly zeros
CONFIDENCE_BINS = 15


def figures(probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
  """Returns the figures for metrics.json.

  Args:
    probabilities: float32 (N, classes).
    truth: int64 (N,), the right classes.
    labels: the classes' names.
  """
  predicted, classes = probabilities.argmax(axis=1), len(labels)
  right = np.bincount(truth[truth == predicted], minlength=classes)
  said, images = (np.bincount(rows, minlength=classes) for rows in (predicted, truth))
  precision, recall = right / np.maximum(said, 1), right / np.maximum(images, 1)
  f1 = 2 * right / np.maximum(said + images, 1)
  tested = images > 0
  bins = reliability(probabilities, truth)
  return {
    'macro_precision': float(precision[tested].mean()),
    'macro_recall': float(recall[tested].mean()),
    'macro_f1': float(f1[tested].mean()),
    'calibration_error': calibration_error(bins),
    'reliability': bins,
    'per_class': {
      label: {
        'precision': float(precision[i]),
        'recall': float(recall[i]),
        'test_images': int(images[i]),
      }
      for i, label in enumerate(labels)
    },
    **_confusion(truth, predicted, classes),
  }


def _confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
  """Returns counts by true class (rows) and predicted class; of many classes only the cells > 0."""
  cells, counts = np.unique(truth * classes + predicted, return_counts=True)
  if classes > MAX_DENSE_CLASSES:
    rows, columns = np.divmod(cells, classes)
    return {'confusion_cells': np.stack([rows, columns, counts], axis=1).tolist()}
  dense = np.zeros(classes * classes, int)
  dense[cells] = counts
  return {'confusion': dense.reshape(classes, classes).tolist()}


def reliability(probabilities: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
  """Returns mean confidence, accuracy and number of images of each range of confidence with any."""
  confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
  places = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
  return [
    {
      'confidence': float(confidence[places == place].mean()),
      'accuracy': float(right[places == place].mean()),
      'images': int((places == place).sum()),
    }
    for place in np.unique(places)
  ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
  """Returns the expected calibration error (Guo et al., arXiv 1706.04599, equation 5)."""
  gaps = [each['images'] * abs(each['accuracy'] - each['confidence']) for each in bins]
  return sum(gaps) / sum(each['images'] for each in bins)


def top_confusions(metrics: dict[str, Any], labels: Sequence[str], count: int) -> list[dict]:
  """Returns the most frequent pairs of a true class and another predicted one, of many classes."""
  cells = sorted(metrics.get('confusion_cells', []), key=lambda cell: -cell[2])
  return [
    {'label': labels[row], 'predicted': labels[column], 'images': images}
    for row, column, images in cells
    if row != column
  ][:count]


def shared(images: data.Examples, others: data.Examples) -> int:
  """Returns how many images occur, pixel for pixel, among others."""
  known = {hashlib.sha256(pixels.tobytes()).digest() for pixels in others.pixels}
  return sum(hashlib.sha256(pixels.tobytes()).digest() in known for pixels in images.pixels)
