"""Temperature scaling: probabilities that are as sure as they are right (arXiv 1706.04599)."""

from collections.abc import Sequence

import numpy as np

RANGE = 0.25, 4.0  # of 1 / temperature; if all answers are right, none would be sure enough
PRECISION = 1e-4


def temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Returns the temperature with the least cross-entropy, of which the inverse is searched.

  In the inverse the cross-entropy is convex.

  Args:
    probabilities: float32 (N, classes), of images that were not trained on.
    labels: int64 (N,), the right classes.
  """
  logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)
  low, high = RANGE
  while high - low > PRECISION:
    first, second = low + (high - low) / 3, high - (high - low) / 3
    if _cross_entropy(logits * first, labels) < _cross_entropy(logits * second, labels):
      high = second
    else:
      low = first
  return 2 / (low + high)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
  shifted = logits - logits.max(axis=1, keepdims=True)
  of_labels = shifted[np.arange(len(labels)), labels]
  return float((np.log(np.exp(shifted).sum(axis=1)) - of_labels).mean())


def scaled(weights: Sequence[np.ndarray], by: float) -> list[np.ndarray]:
  """Returns a network's weights such that its logits are divided by the temperature `by`."""
  *others, kernel, bias = weights
  return [*others, kernel / np.float32(by), bias / np.float32(by)]
