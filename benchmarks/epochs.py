"""Trains an epoch each time that it is asked to: benchmarks.train times two of these.

  python -m benchmarks.epochs notebook --data_dir=data
  python -m benchmarks.epochs ours --data_dir=data --schedule=24

Each line of standard input asks for an epoch, and a JSON line with its seconds and images answers.
Each way has a process of its own, since it has its own settings of the allocator and of
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

from runtime import process

if TYPE_CHECKING:  # TensorFlow is imported late, when the process has its settings
  import keras

  from trainer import data

SEED = 0
BATCH = 256  # images a step of ours, the trainer's default
STEPS_AT_ONCE = 50  # steps between two returns to Python, as many as the trainer's own loop takes


@dataclasses.dataclass(frozen=True)
class Way:
  """A way of training, ready to start."""

  epoch: Callable[[], int]  # trains one and returns its images
  predict: Callable[[np.ndarray], np.ndarray]  # uint8 (N, 28, 28, 1) to probabilities (N, 10)
  test: 'data.Examples'
  precision: str


def notebook_model() -> 'keras.Model':
  """Returns the notebook's network, compiled as it was there."""
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
  """Returns Keras `fit` as the notebook has it."""
  import keras

  keras.utils.set_random_seed(SEED)
  train, test = read(args)
  model, pixels = notebook_model(), train.pixels.astype('float32') / 255

  def epoch() -> int:
    model.fit(pixels, train.labels, batch_size=64, epochs=1, verbose=0)
    return len(train)

  def predict(images: np.ndarray) -> np.ndarray:
    return model.predict(images / 255.0, batch_size=1000, verbose=0)

  return Way(epoch, predict, test, 'float32')


def ours(args: argparse.Namespace) -> Way:
  """Returns the trainer with its default recipe, but for its length; its export predicts."""
  process.prepare()
  from trainer import export, fit, strategy

  devices = strategy.create(0)  # before anything else touches a device
  train, test = read(args)
  precision = strategy.dtype_policy('auto')
  recipe = fit.Recipe('seed', args.validation_examples, args.schedule, BATCH, 3e-3, SEED, precision)
  trainer = fit.Trainer(devices, recipe, train)

  def epoch() -> int:
    for first in range(0, trainer.steps_per_epoch, STEPS_AT_ONCE):
      trainer.advance(min(STEPS_AT_ONCE, trainer.steps_per_epoch - first))
    return trainer.steps_per_epoch * BATCH

  def predict(images: np.ndarray) -> np.ndarray:
    served = export.classifier('seed', trainer.averaged.get_weights(), ['?'] * 10)
    return export.score(served, images)

  return Way(epoch, predict, test, precision)


def read(args: argparse.Namespace) -> tuple['data.Examples', 'data.Examples']:
  """Returns what is trained on and the test images."""
  from trainer import data

  builder = data.prepare(args.data_dir)
  whole = data.read(builder, 'train')
  train, _ = data.split_validation(whole, args.validation_examples, SEED)
  return train, data.read(builder, 'test')


def answers(way: Way, judge: bool, requests: Iterable[str]) -> Iterator[dict]:
  """Yields what to say to each request."""
  for _ in requests:
    started = time.perf_counter()
    images = way.epoch()
    answer = {'seconds': time.perf_counter() - started, 'images': images}
    if judge:
      right = way.predict(way.test.pixels).argmax(axis=1) == way.test.labels
      answer['test_accuracy'] = float(right.mean())
    yield {**answer, 'precision': way.precision}


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  ways = {'notebook': notebook, 'ours': ours}
  add = parser.add_argument
  add('way', choices=list(ways))
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist')
  add('--validation_examples', type=int, default=6000, help='images that are not trained on')
  add('--schedule', type=int, default=24, help="epochs of our learning rate's schedule")
  add('--judge', action='store_true', help='answer with the test accuracy after each epoch, too')
  args = parser.parse_args(argv)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  for answer in answers(ways[args.way](args), args.judge, sys.stdin):
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
