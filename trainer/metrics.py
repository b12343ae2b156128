"""metrics.json and the model card: the figures of a run, and where they come from."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from images import model_card as cards
from trainer import data, devices, evaluate, export, quality
from trainer.config import Recipe
from trainer.datasets import Dataset
from trainer.history import History

PACKAGES = ('tensorflow', 'keras', 'tensorflow-datasets', 'numpy')


def metrics(
  recipe: Recipe,
  strategy: tf.distribute.Strategy,
  history: History,
  probabilities: np.ndarray,
  test_labels: np.ndarray,
  labels: Sequence[str],
) -> dict[str, Any]:
  """Returns the content of metrics.json. Seconds are wall-clock, of the training steps alone.

  Args:
    recipe: how the model was trained.
    strategy: the devices that trained it.
    history: its finished training.
    probabilities: float32 (N, classes), its predictions for the test images.
    test_labels: int64 (N,).
    labels: the classes' names.
  """
  train_seconds = sum(row['train_seconds'] for row in history.rows)
  images = history.rows[-1]['step'] * recipe.global_batch_size
  best = history.best or {}
  return {
    **recipe.settings(),
    'version': export.version(recipe.model, history.best_weights),
    'val_accuracy': best['val_accuracy'],
    'val_loss': best['val_loss'],
    'best_epoch': best['epoch'],
    'test_accuracy': evaluate.accuracy(probabilities, test_labels),
    'test_loss': evaluate.cross_entropy(probabilities, test_labels),
    **quality.figures(probabilities, test_labels, labels),
    'parameters': sum(array.size for array in history.best_weights),
    'images_per_second': images / train_seconds,
    'train_seconds': train_seconds,
    'replicas': strategy.num_replicas_in_sync,
    'device': devices.device_name(),
    **_provenance(),
  }


def _provenance() -> dict[str, Any]:
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {
    'versions': {'python': platform.python_version(), **versions},
    'git_commit': _git_commit(),
    'finished': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _git_commit() -> str | None:
  """Returns the commit of this code; an image without git has it in LOOKBOOK_COMMIT."""
  here = pathlib.Path(__file__).parent
  try:
    result = subprocess.run(
      ['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return os.environ.get('LOOKBOOK_COMMIT')


def model_card(
  metrics: dict[str, Any], dataset: Dataset, train: data.Examples, validation: data.Examples
) -> dict[str, Any]:
  """Returns what is exported with the model.

  The metrics, the data's provenance, and what the scorer compares collections with.
  """
  pixels = _brightness_counts(train)
  classes = np.bincount(train.labels, minlength=len(dataset.labels))
  card = cards.ModelCard(
    version=metrics['version'],
    labels=dataset.labels,
    image_shape=dataset.image_shape,
    background=dataset.background,
    preprocessing=dataset.preprocessing,
    training_pixels=tuple((pixels / pixels.sum()).tolist()),
    training_classes=tuple((classes / classes.sum()).tolist()),
  )
  return {
    **metrics,
    **card.to_json(),
    'data': {
      'name': dataset.name,
      'homepage': dataset.homepage,
      'license': dataset.license,
      'train_examples': len(train),
      'validation_examples': len(validation),
      'test_examples': sum(row['test_images'] for row in metrics['per_class'].values()),
    },
  }


def _brightness_counts(examples: data.Examples) -> np.ndarray:
  """Returns the number of the pixels' values in each of the card's ranges of brightness.

  np.histogram takes half a minute for Fashion-MNIST's 42 million.
  """
  shades = np.zeros(256, np.int64)
  for part in examples.blocks():
    shades += np.bincount(part.ravel(), minlength=256)
  return np.add.reduceat(shades, cards.PIXEL_BIN_EDGES[:-1])
