"""What a checkpoint every 100 steps costs, with and without in turn in one process.

  python -m benchmarks.checkpoint --data_dir=data

Prints one JSON line.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags

from benchmarks import machine
from runtime import process

if TYPE_CHECKING:  # TensorFlow is imported late, so that --help need not wait for it
  from trainer import fit

DATA_DIR = flags.DEFINE_string('data_dir', 'data', 'TFDS directory with fashion_mnist.')
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where to write the checkpoints, local or gs://; a temporary folder else.'
)
ROUNDS = flags.DEFINE_integer('rounds', 8, 'Stretches of each to time, after a warm-up.', 1)
STEPS = flags.DEFINE_integer('steps', 100, 'Steps between checkpoints.', lower_bound=1)
VALIDATION_EXAMPLES = flags.DEFINE_integer(
  'validation_examples', 6000, 'Training images that are not trained on.', lower_bound=1
)


def create_trainer() -> 'fit.Trainer':
  """Returns the trainer with its default recipe."""
  from trainer import data, fit, strategy

  devices = strategy.create(0)  # before anything else touches a device
  held_out = VALIDATION_EXAMPLES.value
  train, _ = data.split_validation(data.read(data.prepare(DATA_DIR.value), 'train'), held_out, 0)
  recipe = fit.Recipe('seed', held_out, 30, 256, 3e-3, 0, strategy.dtype_policy('auto'))
  return fit.Trainer(devices, recipe, train)


def measure(trainer: 'fit.Trainer', save: Callable[[], object]) -> dict:
  """Returns what saving adds to each stretch of training, as a fraction, and its seconds alone."""

  def stretch(saves: bool) -> float:
    started = time.perf_counter()
    trainer.advance(STEPS.value)
    if saves:
      save()
    return time.perf_counter() - started

  pairs = [(stretch(False), stretch(True)) for _ in range(ROUNDS.value + 1)][1:]
  started = time.perf_counter()
  save()
  alone = time.perf_counter() - started
  return {
    'cost': round(statistics.median(saving / bare for bare, saving in pairs) - 1, 4),
    'costs': [round(saving / bare - 1, 4) for bare, saving in pairs],
    'checkpoint_seconds': round(alone, 4),
  }


def main(argv: list[str]) -> None:
  del argv
  process.prepare()
  from trainer import checkpoint, record

  trainer = create_trainer()
  done = record.Record(best_weights=trainer.averaged.get_weights())
  with tempfile.TemporaryDirectory() as scratch:

    def save() -> None:
      state = {**trainer.state(), **done.state()}
      checkpoint.save(WORKDIR.value or scratch, state, keep=3)

    figures = measure(trainer, save)
  regime = {
    'steps_between': STEPS.value,
    'rounds': ROUNDS.value,
    'workdir': WORKDIR.value or 'local',
    'precision': trainer.recipe.precision,
  }
  print(json.dumps({**figures, 'regime': regime, 'machine': machine.facts()}))


if __name__ == '__main__':
  app.run(main)
