"""The cost of a checkpoint every 100 steps: training with and without, alternating in one process.

  python -m benchmarks.checkpoint --data_dir=data

Prints one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import arguments, machine
from runtime import process
from trainer.config import Recipe

if TYPE_CHECKING:  # TensorFlow is imported late, so that --help need not wait for it
  from trainer import fit


def create_trainer(args: argparse.Namespace) -> 'fit.Trainer':
  """Returns the trainer with its default recipe."""
  from trainer import data, datasets, devices, fit

  strategy = devices.create_strategy()  # before anything else touches a device
  recipe = Recipe(
    epochs=30,
    validation_examples=args.validation_examples,
    precision=devices.dtype_policy(Recipe.precision),
  )
  dataset = datasets.load(recipe.dataset, data_dir=args.data_dir)
  train, _ = data.split_validation(dataset.read('train'), args.validation_examples, recipe.seed)
  return fit.Trainer(strategy, recipe, dataset, train)


def measure(
  trainer: 'fit.Trainer', save: Callable[[], None], rounds: int, steps: int
) -> dict[str, float | list[float]]:
  """Returns what saving adds to each stretch of training, as a fraction, and its seconds alone."""

  def stretch(saves: bool) -> float:
    started = time.perf_counter()
    trainer.train_steps(steps)
    if saves:
      save()
    return time.perf_counter() - started

  pairs = [(stretch(False), stretch(True)) for _ in range(rounds + 1)][1:]
  started = time.perf_counter()
  save()
  alone = time.perf_counter() - started
  return {
    'cost': round(statistics.median(saving / bare for bare, saving in pairs) - 1, 4),
    'costs': [round(saving / bare - 1, 4) for bare, saving in pairs],
    'checkpoint_seconds': round(alone, 4),
  }


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--data_dir', default='data', help='a TFDS directory with fashion_mnist')
  add('--workdir', help='where to write the checkpoints, local or gs://; by default temporary')
  add('--rounds', type=arguments.positive, default=8, help='stretches of each after a warm-up')
  add('--steps', type=arguments.positive, default=100, help='steps between checkpoints')
  arguments.add_validation_examples(parser)
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Measures, and prints the result."""
  args = parse(argv)
  process.prepare()
  from trainer import checkpoint
  from trainer.history import History

  trainer = create_trainer(args)
  history = History(best_weights=trainer.averaged.get_weights())
  with tempfile.TemporaryDirectory() as scratch:

    def save() -> None:
      state = {**trainer.state(), **history.state()}
      checkpoint.save(args.workdir or scratch, state, keep=3)

    figures = measure(trainer, save, args.rounds, args.steps)
  regime = {
    'steps_between': args.steps,
    'rounds': args.rounds,
    'workdir': args.workdir or 'local',
    'precision': trainer.recipe.precision,
  }
  print(json.dumps({**figures, 'regime': regime, 'machine': machine.facts()}))


if __name__ == '__main__':
  main()
