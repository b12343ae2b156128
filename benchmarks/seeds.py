"""The trainer's accuracy over several seeds, which decide the split, the first weights, the order and the noise.

  python -m benchmarks.seeds --data_dir=data --output=runs/seeds --seeds 0 1 2

Each seed has a run of `python -m trainer.main` of its own under --output, which goes on where it was stopped;
what comes after the flags here is passed on to it. Prints one JSON line.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

SAME = ('model', 'epochs', 'global_batch_size', 'precision', 'device', 'versions', 'git_commit')


def train(seed: int, data_dir: str, workdir: pathlib.Path, rest: list[str]) -> dict:
  """The metrics of the finished run."""
  command = [sys.executable, '-m', 'trainer.main', f'--workdir={workdir}', f'--data_dir={data_dir}', f'--seed={seed}']
  subprocess.run([*command, *rest], check=True)
  return json.loads((workdir / 'metrics.json').read_text())


def summary(values: list[float]) -> dict:
  """Mean, and the sample standard deviation of one run (not of the mean)."""
  return {
    'mean': round(statistics.mean(values), 5),
    'deviation': round(statistics.stdev(values), 5) if len(values) > 1 else None,
    'each': values,
  }


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', required=True, help='a TFDS directory with fashion_mnist')
  parser.add_argument('--output', required=True, help='a directory for the runs')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  args, rest = parser.parse_known_args(argv)
  runs = [train(seed, args.data_dir, pathlib.Path(args.output, str(seed)), rest) for seed in args.seeds]
  print(
    json.dumps(
      {
        'test_accuracy': summary([run['test_accuracy'] for run in runs]),
        'val_accuracy': summary([run['val_accuracy'] for run in runs]),
        'train_seconds': summary([round(run['train_seconds'], 1) for run in runs]),
        'regime': {'seeds': args.seeds, **{name: runs[0][name] for name in SAME}},
      }
    )
  )


if __name__ == '__main__':
  main()
