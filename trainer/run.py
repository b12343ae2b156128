"""The recipe from start to end: devices, data, training, export, test, report."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf
from absl import logging

from trainer import (
  agreement,
  calibration,
  data,
  devices,
  export,
  fit,
  hosts,
  loop,
  metrics,
  models,
  plain_keras,
  preparation,
  quality,
  report,
  workdir,
)
from trainer.config import Config, Recipe
from trainer.datasets import Dataset
from trainer.history import History


def run(config: Config, directory: str) -> None:
  """Trains, tests and exports; resumes if an earlier process stopped in the same workdir.

  Args:
    config: what to train on, how, and on which devices.
    directory: the workdir, local or gs://.

  Raises:
    app.UsageError: bad input, before any training and with nothing in the workdir lost.
    failures.Failure: the training ended early.
  """
  strategy = devices.create_strategy(config.replicas, config.all_reduce, config.lookup_seconds)
  agreed = agreement.Agreement(strategy)
  with preparation.prepared(config, directory, strategy, agreed) as ready:
    if ready.finished:
      accuracy = ready.finished['test_accuracy']
      logging.info(f'{directory} contains the finished run: test accuracy {accuracy:.4f}')
      return
    found = _train(config, directory, strategy, agreed, ready)
  logging.info(
    f'test accuracy {found["test_accuracy"]:.4f}, validation {found["val_accuracy"]:.4f}; model in '
    f'{directory}/export/1, report in {directory}/report/report.html'
  )


def _train(
  config: Config,
  directory: str,
  strategy: tf.distribute.Strategy,
  agreed: agreement.Agreement,
  ready: preparation.Ready,
) -> dict[str, Any]:
  """Trains and writes the results; returns the metrics."""
  recipe, dataset = ready.recipe, ready.dataset
  logging.info(
    f'training on {strategy.num_replicas_in_sync} replicas of {devices.device_name()} in '
    f'{recipe.precision}'
  )
  with hosts.output_dir(strategy, directory) as out:
    _write_rejects(dataset, out)
    with hosts.reraise_lost_worker(strategy):
      trainer = fit.Trainer(strategy, recipe, dataset, ready.train)
      history = loop.Loop(trainer, ready.validation, directory, out, config.loop, agreed).run()
    found = _test_and_export(strategy, ready, history, out)
    agreed.barrier()
  return found


def _write_rejects(dataset: Dataset, out: str) -> None:
  """Lists the pictures that were left out as the scorer lists its rejects, if there are any."""
  lines = [
    json.dumps(dict(zip(('id', 'stage', 'reason'), reject)), ensure_ascii=False)
    for reject in dataset.rejects
  ]
  if lines:
    workdir.write(os.path.join(out, 'rejects.jsonl'), '\n'.join(lines) + '\n')


def _calibrated(
  recipe: Recipe,
  spec: models.Spec,
  dataset: Dataset,
  history: History,
  validation: data.Examples,
) -> History:
  """Returns the history with best weights that are scaled by the temperature of the validation."""
  classifier = export.build_classifier(recipe.model, spec, history.best_weights, dataset.labels)
  by = calibration.temperature(export.predict(classifier, validation.pixels), validation.labels)
  logging.info(f'calibrated on {len(validation)} validation images: temperature {by:.3f}')
  weights = calibration.scaled(history.best_weights, by)
  return dataclasses.replace(history, best_weights=weights)


def _count_shared(test: data.Examples, *trained_on: data.Examples) -> int:
  """Returns how many test images were trained or validated on; warns if there are any."""
  count = sum(quality.shared(test, part) for part in trained_on)
  if count:
    logging.warning(
      f'{count} of the {len(test)} test images occur in training or validation, too: the test '
      'accuracy flatters'
    )
  return count


def _test_and_export(
  strategy: tf.distribute.Strategy, ready: preparation.Ready, history: History, out: str
) -> dict[str, Any]:
  """Writes the model of the best epoch, its report and, last, its metrics, which are returned."""
  recipe, dataset, test = ready.recipe, ready.dataset, ready.test
  spec = models.Spec(dataset.image_shape, len(dataset.labels))
  if recipe.calibrate:
    history = _calibrated(recipe, spec, dataset, history, ready.validation)
  weights = history.best_weights
  classifier = export.build_classifier(recipe.model, spec, weights, dataset.labels)
  probabilities = export.predict(classifier, test.pixels)
  found = metrics.metrics(recipe, strategy, history, probabilities, test.labels, dataset.labels)
  found['test_images_in_training'] = _count_shared(test, ready.train, ready.validation)
  card = metrics.model_card(found, dataset, ready.train, ready.validation)
  export.save(classifier, card, os.path.join(out, 'export', '1'))
  report.write(out, found, dataset, history.rows, ready.train, test, probabilities)
  plain_keras.save(plain_keras.build(recipe.model, spec, weights), out)
  workdir.write(os.path.join(out, workdir.METRICS), json.dumps(found, indent=2) + '\n')
  return found
