"""The recipe from start to end: devices, data, training, export, test, report."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import app, logging

from images import model_card
from trainer import (
  data,
  export,
  fit,
  hosts,
  loop,
  models,
  plain_keras,
  record,
  report,
  strategy,
  workdir,
)

PACKAGES = ('tensorflow', 'keras', 'tensorflow-datasets', 'numpy')


def run(
  *,
  directory: str,
  data_dir: str | None,
  idx_dir: str | None,
  replicas: int,
  all_reduce: str,
  precision: str,
  habits: loop.Habits,
  epochs: int | None,
  **recipe_flags,
) -> None:
  """Trains, tests and exports, going on where an earlier process stopped; see trainer.main for the arguments.

  Raises:
    app.UsageError: bad input, before any training and with nothing in the workdir lost.
    loop.Preempted, loop.NonFinite, hosts.LostWorker: the training ended early.
  """
  devices = strategy.create(replicas, all_reduce)
  epochs = epochs or models.MODELS[recipe_flags['model']].epochs
  recipe = fit.Recipe(precision=strategy.dtype_policy(precision), epochs=epochs, **recipe_flags)
  _check(recipe, devices.num_replicas_in_sync, data.EXAMPLES['train'])
  workdir.check(directory, recipe.fixed())
  metrics = workdir.finished(directory)
  if metrics and metrics['epochs'] == recipe.epochs:
    logging.info(
      '%s holds the finished run: test accuracy %.4f', directory, metrics['test_accuracy']
    )
    return

  builder = data.prepare(data_dir, idx_dir)
  _check(recipe, devices.num_replicas_in_sync, data.examples(builder)['train'])
  labels = builder.info.features['label'].names
  train, validation = data.split_validation(
    data.read(builder, 'train'), recipe.validation_examples, recipe.seed
  )
  workdir.claim(directory, recipe.fixed())
  logging.info(
    'training on %s replicas of %s in %s', devices.num_replicas_in_sync, _device(), recipe.precision
  )
  with hosts.output(devices, directory) as out:
    with hosts.watched(devices):
      done = loop.Loop(
        fit.Trainer(devices, recipe, train), validation, directory, out, habits
      ).run()
    served = export.classifier(recipe.model, done.best_weights, labels)
    test = data.read(builder, 'test')  # for the first time, and the choice is made
    probabilities = export.score(served, test.pixels)
    metrics = _metrics(recipe, devices, done, probabilities, test.labels, labels)
    export.save(
      served, _model_card(metrics, builder, train, validation), os.path.join(out, 'export', '1')
    )
    report.write(out, metrics, done.rows, train, test, probabilities)
    plain_keras.save(plain_keras.build(recipe.model, done.best_weights), out)
    workdir.write(os.path.join(out, workdir.METRICS), json.dumps(metrics, indent=2) + '\n')
    hosts.leave_together(devices)
  logging.info(
    'test accuracy %.4f, validation %.4f; model in %s/export/1, report in %s/report/report.html',
    metrics['test_accuracy'], metrics['val_accuracy'], directory, directory,
  )  # fmt: skip


def _check(recipe: fit.Recipe, replicas: int, all_examples: int) -> None:
  train_examples = all_examples - recipe.validation_examples
  if train_examples <= 0:
    raise app.UsageError(
      f'--validation_examples={recipe.validation_examples}: none of {all_examples} images left to train on; pass fewer'
    )
  if recipe.global_batch_size % replicas:
    below = recipe.global_batch_size // replicas * replicas
    raise app.UsageError(
      f'--global_batch_size={recipe.global_batch_size}: not divisible by {replicas} replicas; pass {below or replicas}'
    )
  if recipe.global_batch_size > train_examples:
    raise app.UsageError(
      f'--global_batch_size={recipe.global_batch_size}: more than the {train_examples} training images; pass fewer'
    )


def _device() -> str:
  gpus = tf.config.list_physical_devices('GPU')
  return (
    tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'GPU') if gpus else 'CPU'
  )


def _metrics(
  recipe: fit.Recipe,
  devices: tf.distribute.Strategy,
  done: record.Record,
  probabilities: np.ndarray,
  test_labels: np.ndarray,
  labels: Sequence[str],
) -> dict:
  """What metrics.json holds. Seconds are wall-clock, of the training steps alone."""
  confusion = np.zeros(
    (len(labels), len(labels)), int
  )  # row: the true class, column: the predicted one
  np.add.at(confusion, (test_labels, probabilities.argmax(axis=1)), 1)
  train_seconds = sum(row['train_seconds'] for row in done.rows)
  images = done.rows[-1]['step'] * recipe.global_batch_size
  best = done.best or {}
  return {
    **recipe.settings(),
    'version': export.version(recipe.model, done.best_weights),
    'val_accuracy': best['val_accuracy'],
    'val_loss': best['val_loss'],
    'best_epoch': best['epoch'],
    'test_accuracy': fit.accuracy(probabilities, test_labels),
    'test_loss': fit.cross_entropy(probabilities, test_labels),
    'per_class': {
      label: {
        'precision': float(confusion[i, i] / max(confusion[:, i].sum(), 1)),
        'recall': float(confusion[i, i] / max(confusion[i].sum(), 1)),
        'test_images': int(confusion[i].sum()),
      }
      for i, label in enumerate(labels)
    },
    'confusion': confusion.tolist(),
    'parameters': sum(array.size for array in done.best_weights),
    'images_per_second': images / train_seconds,
    'train_seconds': train_seconds,
    'replicas': devices.num_replicas_in_sync,
    'device': _device(),
    'versions': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in PACKAGES},
    },
    'git_commit': _git_commit(),
    'finished': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _git_commit() -> str | None:
  """The commit of this code; an image, which has no git, gets it as LOOKBOOK_COMMIT when it is built."""
  here = pathlib.Path(__file__).parent
  try:
    result = subprocess.run(
      ['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return os.environ.get('LOOKBOOK_COMMIT')


def _model_card(metrics: dict, builder, train: data.Examples, validation: data.Examples) -> dict:
  """What travels with the model: the metrics, the data's provenance, and what the scorer compares collections with."""
  shades = sum(
    np.bincount(part.ravel(), minlength=256) for part in np.array_split(train.pixels, 100)
  )
  pixels = np.add.reduceat(
    shades, model_card.PIXEL_BIN_EDGES[:-1]
  )  # np.histogram takes half a minute for these 42 million
  classes = np.bincount(train.labels, minlength=len(metrics['per_class']))
  card = model_card.ModelCard(
    version=metrics['version'],
    labels=tuple(metrics['per_class']),
    image_shape=train.pixels.shape[1:],
    training_pixels=tuple((pixels / pixels.sum()).tolist()),
    training_classes=tuple((classes / classes.sum()).tolist()),
  )
  return {
    **metrics,
    **card.to_json(),
    'data': {
      'name': builder.info.full_name,
      'homepage': builder.info.homepage,
      'license': 'MIT',
      'train_examples': len(train),
      'validation_examples': len(validation),
      'test_examples': sum(map(sum, metrics['confusion'])),
    },
  }
