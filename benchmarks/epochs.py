"""Trains one epoch per request: benchmarks.train times two of these.

  python -m benchmarks.epochs notebook --data_dir=data
  python -m benchmarks.epochs ours --data_dir=data --schedule=24

Each line of standard input requests an epoch, and is answered by a JSON line with its seconds and
images. Each way of training has a process of its own, with its own settings of the allocator and of
TensorFlow's threads.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import arguments
from runtime import process
from trainer.config import Recipe
from trainer.datasets import Dataset

if TYPE_CHECKING:  # TensorFlow is imported late, once the process has its settings
  import keras

  from trainer import data

NOTEBOOK_BATCH = 64
PREDICTED_ROWS = 1000  # images per call in the notebook's way


@dataclasses.dataclass(frozen=True)
class Way:
  """A way of training, ready to start.

  Attributes:
    epoch: trains an epoch and returns its number of images.
    predict: from uint8 (N, 28, 28, 1) to probabilities (N, 10).
    test: the test images.
    precision: the dtype policy of the training.
  """

  epoch: Callable[[], int]
  predict: Callable[[np.ndarray], np.ndarray]
  test: 'data.Examples'
  precision: str


def notebook_model() -> 'keras.Model':
  """Returns the notebook's network, compiled as in the notebook."""
  import keras

  layers = keras.layers
  model = keras.Sequential(
    [
      layers.Input((28, 28, 1)),
      layers.Conv2D(32, 3, activation='relu', kernel_initializer='he_normal'),
      layers.MaxPooling2D(2),
      layers.Dropout(0.2),
      layers.Conv2D(64, 3, activation='relu'),
      layers.MaxPooling2D(2),
      layers.Dropout(0.2),
      layers.Conv2D(128, 3, activation='relu'),
      layers.Dropout(0.5),
      layers.Flatten(),
      layers.Dense(128, activation='relu'),
      layers.Dense(10, activation='softmax'),
    ]
  )
  optimizer = keras.optimizers.Adam(1e-3)
  model.compile(optimizer, 'sparse_categorical_crossentropy', metrics=['accuracy'])
  return model


def notebook(args: argparse.Namespace) -> Way:
  """Returns the notebook's way: Keras `fit`."""
  import keras

  keras.utils.set_random_seed(Recipe.seed)
  _, train, test = read(args)
  model, pixels = notebook_model(), train.pixels[:].astype('float32') / 255

  def epoch() -> int:
    model.fit(pixels, train.labels, batch_size=NOTEBOOK_BATCH, epochs=1, verbose=0)
    return len(train)

  def predict(images: np.ndarray) -> np.ndarray:
    return model.predict(images / 255.0, batch_size=PREDICTED_ROWS, verbose=0)

  return Way(epoch, predict, test, 'float32')


def ours(args: argparse.Namespace) -> Way:
  """Returns the trainer with its default recipe except for the length; its export predicts."""
  process.prepare()
  from trainer import devices, export, fit
  from trainer.loop import MAX_STEPS_PER_CALL

  strategy = devices.create_strategy()  # before anything else touches a device
  dataset, train, test = read(args)
  recipe = Recipe(
    epochs=args.schedule,
    validation_examples=args.validation_examples,
    precision=devices.dtype_policy(Recipe.precision),
  )
  trainer = fit.Trainer(strategy, recipe, dataset, train)

  def epoch() -> int:
    for first in range(0, trainer.steps_per_epoch, MAX_STEPS_PER_CALL):
      trainer.train_steps(min(MAX_STEPS_PER_CALL, trainer.steps_per_epoch - first))
    return trainer.steps_per_epoch * recipe.global_batch_size

  def predict(images: np.ndarray) -> np.ndarray:
    weights = trainer.averaged.get_weights()
    classifier = export.build_classifier(recipe.model, trainer.spec, weights, dataset.labels)
    return export.predict(classifier, images)

  return Way(epoch, predict, test, recipe.precision)


def read(args: argparse.Namespace) -> tuple[Dataset, 'data.Examples', 'data.Examples']:
  """Returns the dataset, the images to train on and the test images."""
  from trainer import data, datasets

  dataset = datasets.load(Recipe.dataset, data_dir=args.data_dir)
  train, _ = data.split_validation(dataset.read('train'), args.validation_examples, Recipe.seed)
  return dataset, train, dataset.read('test')


def answers(way: Way, evaluate: bool, requests: Iterable[str]) -> Iterator[dict]:
  """Yields the answer to each request."""
  for _ in requests:
    started = time.perf_counter()
    images = way.epoch()
    answer = {'seconds': time.perf_counter() - started, 'images': images}
    if evaluate:
      right = way.predict(way.test.pixels[:]).argmax(axis=1) == way.test.labels
      answer['test_accuracy'] = float(right.mean())
    yield {**answer, 'precision': way.precision}


def main(argv: list[str] | None = None) -> None:
  """Trains an epoch for each line of standard input."""
  parser = arguments.Parser(__doc__)
  ways = {'notebook': notebook, 'ours': ours}
  add = parser.add_argument
  add('way', choices=list(ways))
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist')
  add('--schedule', type=int, default=24, help="epochs of our learning rate's schedule")
  add('--evaluate', action='store_true', help='include the test accuracy after each epoch')
  arguments.add_validation_examples(parser)
  args = parser.parse_args(argv)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  for answer in answers(ways[args.way](args), args.evaluate, sys.stdin):
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
