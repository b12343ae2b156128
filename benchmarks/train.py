"""Times training: the notebook's way beside ours, alternating in one process. Prints one JSON line.

  python -m benchmarks.train --data_dir=data

The notebook's way is Keras `fit` on float32 arrays with Adam at 1e-3 and batches of 64. Ours is the trainer with its
default recipe. An epoch of one follows an epoch of the other, so that what else the machine does falls on both.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

DATA_DIR = flags.DEFINE_string('data_dir', 'data', 'TFDS directory with fashion_mnist.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs of each to time, after one of each to warm up.', lower_bound=1)
OUR_EPOCHS = flags.DEFINE_integer('our_epochs', 24, "Length of our schedule in the race to the seed's accuracy.")
MAX_EPOCHS = flags.DEFINE_integer(
  'max_epochs', 25, "Epochs after which the notebook's race ends without it; 0 leaves both races out."
)
SEED_ACCURACY = 0.9133  # what the seed notebook reports on test
SEED = 0


def notebook_model():
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
  model.compile(keras.optimizers.Adam(1e-3), 'sparse_categorical_crossentropy', metrics=['accuracy'])
  return model


def notebook_epochs(model, train) -> Iterator[float]:
  """Seconds of each epoch."""
  pixels = train.pixels.astype('float32') / 255
  while True:
    started = time.perf_counter()
    model.fit(pixels, train.labels, batch_size=64, epochs=1, verbose=0)
    yield time.perf_counter() - started


def our_trainer(train, epochs: int):
  from trainer import fit, strategy

  recipe = fit.Recipe('seed', 6000, epochs, 256, 3e-3, SEED, strategy.dtype_policy('auto'))
  return fit.Trainer(strategy.create(0), recipe, train)


def our_epochs(trainer) -> Iterator[float]:
  """Seconds of each epoch."""
  from trainer import loop

  while True:
    started = time.perf_counter()
    for first in range(0, trainer.steps_per_epoch, loop.STEPS_PER_CALL):
      trainer.advance(min(loop.STEPS_PER_CALL, trainer.steps_per_epoch - first))
    yield time.perf_counter() - started


def throughput(train) -> dict:
  """Images/s of each, epochs alternating."""
  notebook = notebook_epochs(notebook_model(), train)
  trainer = our_trainer(train, ROUNDS.value + 1)
  ours, our_images = our_epochs(trainer), trainer.steps_per_epoch * trainer.recipe.global_batch_size
  pairs = [(len(train) / next(notebook), our_images / next(ours)) for _ in range(ROUNDS.value + 1)][1:]
  return {
    'notebook_images_per_second': round(statistics.median(theirs for theirs, _ in pairs)),
    'images_per_second': round(statistics.median(mine for _, mine in pairs)),
    'speedup': round(statistics.median(mine / theirs for theirs, mine in pairs), 3),
    'speedups': [round(mine / theirs, 3) for theirs, mine in pairs],
    'precision': trainer.recipe.precision,
  }


def race(train, test) -> dict:
  """Seconds of training until an epoch ends at the seed's test accuracy; None where it never does."""
  from trainer import export, fit

  def ours() -> float | None:
    trainer, seconds = our_trainer(train, OUR_EPOCHS.value), 0.0
    for _, epoch_seconds in zip(range(OUR_EPOCHS.value), our_epochs(trainer)):
      seconds += epoch_seconds
      served = export.classifier('seed', trainer.averaged.get_weights(), ['?'] * 10)
      if fit.accuracy(export.score(served, test.pixels), test.labels) >= SEED_ACCURACY:
        return round(seconds, 1)
    return None

  def notebook() -> float | None:
    model, seconds = notebook_model(), 0.0
    for _, epoch_seconds in zip(range(MAX_EPOCHS.value), notebook_epochs(model, train)):
      seconds += epoch_seconds
      if fit.accuracy(model.predict(test.pixels / 255.0, batch_size=1000, verbose=0), test.labels) >= SEED_ACCURACY:
        return round(seconds, 1)
    return None

  if not MAX_EPOCHS.value:
    return {'notebook_seconds_to_seed_accuracy': None, 'seconds_to_seed_accuracy': None}
  return {'seconds_to_seed_accuracy': ours(), 'notebook_seconds_to_seed_accuracy': notebook()}


def peak_rss_bytes() -> int:
  """Of the trainer's own command, from start to report, for one epoch."""
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      sys.executable,
      '-m',
      'trainer.main',
      f'--workdir={workdir}',
      f'--data_dir={DATA_DIR.value}',
      '--epochs=1',
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
  return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main(argv: list[str]) -> None:
  del argv
  peak = peak_rss_bytes()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  import keras
  import tensorflow as tf

  from trainer import data

  keras.utils.set_random_seed(SEED)
  builder = data.prepare(DATA_DIR.value)
  train, _ = data.split_validation(data.read(builder, 'train'), 6000, SEED)
  result = throughput(train) | race(train, data.read(builder, 'test')) | {'peak_rss_bytes': peak}
  regime = {
    'cpu': platform.processor() or platform.machine(),
    'cores': os.cpu_count(),
    'gpus': len(tf.config.list_physical_devices('GPU')),
    'tensorflow': tf.__version__,
    'keras': keras.__version__,
    'train_images': len(train),
    'rounds': ROUNDS.value,
    'seed': SEED,
    'our_epochs': OUR_EPOCHS.value,
    'max_epochs': MAX_EPOCHS.value,
  }
  print(json.dumps(result | {'regime': regime}))


if __name__ == '__main__':
  app.run(main)
