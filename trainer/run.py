"""The recipe from start to end: devices, data, training, export, test, report."""

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf
from absl import app, logging

from trainer import (
  data,
  datasets,
  devices,
  export,
  fit,
  hosts,
  loop,
  metrics,
  models,
  plain_keras,
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
    loop.Preempted, loop.NonFinite, hosts.LostWorker: the training ended early.
  """
  strategy = devices.create_strategy(config.replicas, config.all_reduce)
  recipe, dataset = _resolve(config)
  replicas = strategy.num_replicas_in_sync
  models.check_image_shape(recipe.model, dataset.image_shape)
  _check(recipe, replicas, dataset.num_examples['train'])
  workdir.check(directory, recipe.fixed())
  if _is_finished(directory, recipe):
    return

  everything = dataset.read('train')
  _check(recipe, replicas, len(everything))
  train, validation = data.split_validation(everything, recipe.validation_examples, recipe.seed)
  workdir.claim(directory, recipe.fixed())
  logging.info(f'training on {replicas} replicas of {devices.device_name()} in {recipe.precision}')
  with hosts.output_dir(strategy, directory) as out:
    with hosts.reraise_lost_worker(strategy):
      trainer = fit.Trainer(strategy, recipe, dataset, train)
      history = loop.Loop(trainer, validation, directory, out, config.loop).run()
    found = _test_and_export(recipe, strategy, dataset, history, (train, validation), out)
    hosts.barrier(strategy)
  logging.info(
    f'test accuracy {found["test_accuracy"]:.4f}, validation {found["val_accuracy"]:.4f}; model in '
    f'{directory}/export/1, report in {directory}/report/report.html'
  )


def _resolve(config: Config) -> tuple[Recipe, Dataset]:
  """Returns the recipe with the precision for these devices, and its dataset."""
  precision = devices.dtype_policy(config.recipe.precision)
  recipe = dataclasses.replace(config.recipe, precision=precision)
  paths = {'data_dir': config.data_dir, 'idx_dir': config.idx_dir, 'source': config.source}
  return recipe, datasets.load(recipe.dataset, **paths)


def _is_finished(directory: str, recipe: Recipe) -> bool:
  found = workdir.finished(directory)
  if not found or found['epochs'] != recipe.num_epochs:
    return False
  logging.info(f'{directory} contains the finished run: test accuracy {found["test_accuracy"]:.4f}')
  return True


def _test_and_export(
  recipe: Recipe,
  strategy: tf.distribute.Strategy,
  dataset: Dataset,
  history: History,
  trained_on: tuple[data.Examples, data.Examples],
  out: str,
) -> dict[str, Any]:
  """Writes the model of the best epoch, its report and, last, its metrics, which are returned."""
  train, validation = trained_on
  spec, weights = models.Spec(dataset.image_shape, len(dataset.labels)), history.best_weights
  classifier = export.build_classifier(recipe.model, spec, weights, dataset.labels)
  test = dataset.read('test')  # read only now, after the best epoch was chosen
  probabilities = export.predict(classifier, test.pixels)
  found = metrics.metrics(recipe, strategy, history, probabilities, test.labels, dataset.labels)
  card = metrics.model_card(found, dataset, train, validation)
  export.save(classifier, card, os.path.join(out, 'export', '1'))
  report.write(out, found, dataset, history.rows, train, test, probabilities)
  plain_keras.save(plain_keras.build(recipe.model, spec, weights), out)
  workdir.write(os.path.join(out, workdir.METRICS), json.dumps(found, indent=2) + '\n')
  return found


def _check(recipe: Recipe, replicas: int, all_examples: int) -> None:
  """Raises app.UsageError if the batches cannot be made of so many training images."""
  train_examples = all_examples - recipe.validation_examples
  batch = recipe.global_batch_size
  if train_examples <= 0:
    raise app.UsageError(
      f'--validation_examples={recipe.validation_examples}: none of {all_examples} images left to '
      'train on; pass fewer'
    )
  if batch % replicas:
    below = batch // replicas * replicas
    raise app.UsageError(
      f'--global_batch_size={batch}: not divisible by {replicas} replicas; pass {below or replicas}'
    )
  if batch > train_examples:
    raise app.UsageError(
      f'--global_batch_size={batch}: more than the {train_examples} training images; pass fewer'
    )
