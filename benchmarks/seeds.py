"""The trainer's accuracy over several seeds, which determine split, initial weights and order.

  python -m benchmarks.seeds --data_dir=data --output=runs/seeds --seeds 0 1 2

Each seed has a run of `python -m trainer.main` of its own under --output, which resumes where it
was stopped; flags that are not listed here are passed on to it. --finished=runs/seed uses an
existing run, which must have the same settings as the others. Prints one JSON line.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import arguments, machine

SETTINGS = (
  'model',
  'validation_examples',
  'epochs',
  'global_batch_size',
  'learning_rate',
  'precision',
  'replicas',
  'device',
  'versions',
)


Metrics = dict[str, Any]  # of a run, as in metrics.json


class Mismatch(Exception):
  """Two runs whose accuracies cannot be averaged."""


def finished_run(folder: pathlib.Path) -> Metrics:
  """Returns the metrics of a finished run.

  Raises:
    Mismatch: it has none.
  """
  try:
    return json.loads((folder / 'metrics.json').read_text())
  except FileNotFoundError:
    remedy = 'pass the --workdir of a run that ended, or omit the flag'
    raise Mismatch(f'--finished={folder}: has no metrics.json; {remedy}') from None


def train(seed: int, data_dir: str, workdir: pathlib.Path, rest: list[str]) -> Metrics:
  """Returns the metrics of the seed's run, once it is finished."""
  flags = [f'--workdir={workdir}', f'--data_dir={data_dir}', f'--seed={seed}']
  command = [sys.executable, '-m', 'trainer.main', *flags, *rest]
  subprocess.run(command, check=True, stdout=sys.stderr)
  return json.loads((workdir / 'metrics.json').read_text())


def check_same(one: Metrics, other: Metrics, where: pathlib.Path) -> None:
  """Raises Mismatch if the settings differ."""
  for name in SETTINGS:
    if one[name] != other[name]:
      raise Mismatch(
        f'{where}: has {name} {other[name]}, seed {one["seed"]} has {one[name]}; '
        'train them with the same flags, in another --output'
      )


def collect(args: argparse.Namespace, rest: list[str]) -> list[Metrics]:
  """Returns the metrics of every seed's run, in order; trains those that do not exist.

  Raises:
    Mismatch: two runs have different settings, or the seed of a finished one is not in --seeds.
  """
  finished = {}
  for folder in args.finished:
    run = finished_run(folder)
    if run['seed'] not in args.seeds:
      raise Mismatch(f'--finished={folder}: has seed {run["seed"]}, which is not among --seeds')
    finished[run['seed']] = run, folder
  runs: list[Metrics] = []
  for seed in args.seeds:
    folder = args.output / str(seed)
    run, folder = finished.get(seed) or (train(seed, args.data_dir, folder, rest), folder)
    check_same(runs[0] if runs else run, run, folder)
    runs.append(run)
  return runs


def summary(values: list[float]) -> dict[str, Any]:
  """Returns the mean, and the sample standard deviation of one run (not of the mean)."""
  return {
    'mean': round(statistics.mean(values), 5),
    'deviation': round(statistics.stdev(values), 5) if len(values) > 1 else None,
    'each': values,
  }


def parse(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
  """Returns the parser, the arguments, and the flags for the trainer."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist')
  add('--output', type=pathlib.Path, required=True, help='a directory for the runs')
  add('--seeds', type=int, nargs='+', default=[0, 1, 2])
  add(
    '--finished',
    type=pathlib.Path,
    action='append',
    default=[],
    help='the --workdir of a finished run to use for its seed; may be repeated',
  )
  return parser, *parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Collects the runs, and prints the result."""
  parser, args, rest = parse(argv)
  try:
    runs = collect(args, rest)
  except Mismatch as error:
    parser.error(str(error))
  result = {
    'test_accuracy': summary([run['test_accuracy'] for run in runs]),
    'val_accuracy': summary([run['val_accuracy'] for run in runs]),
    'train_seconds': summary([round(run['train_seconds'], 1) for run in runs]),
    'regime': {
      'seeds': args.seeds,
      **{name: runs[0][name] for name in SETTINGS},
      'git_commits': sorted({str(run['git_commit']) for run in runs}),
    },
    'machine': machine.facts(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()
