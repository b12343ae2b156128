"""Times training: the notebook's way and ours, alternating by epoch. Prints one JSON line.

  python -m benchmarks.train --data_dir=data

The notebook's way is Keras `fit` on float32 arrays with Adam at 1e-3 and batches of 64, with
TensorFlow's defaults. Ours is the trainer with its default recipe. Each has a process of its own,
which waits while the other trains, so that other load on the machine affects both.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import arguments, machine

SEED_ACCURACY = 0.9133  # test accuracy that the seed notebook reports


class Program:
  """A process of benchmarks.epochs, which trains one epoch per request."""

  def __init__(self, way: str, data_flags: list[str], *options: str) -> None:
    self.command = [sys.executable, '-m', 'benchmarks.epochs', way, *data_flags, *options]
    pipe = subprocess.PIPE
    self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)

  def epoch(self) -> dict[str, Any]:
    """Trains an epoch; returns its seconds and images, and with --evaluate its test accuracy.

    Raises:
      RuntimeError: the program failed; its message is in standard error.
    """
    request, answer = self.process.stdin, self.process.stdout
    assert request is not None
    assert answer is not None
    with contextlib.suppress(BrokenPipeError):
      request.write('epoch\n')
      request.flush()
    line = answer.readline()
    if not line:
      raise RuntimeError(f'{" ".join(self.command)} ended with {self.process.wait()}')
    return json.loads(line)


@contextlib.contextmanager
def program(way: str, data_flags: list[str], *options: str) -> Iterator[Program]:
  """Yields a program that ends with the block."""
  started = Program(way, data_flags, *options)
  try:
    yield started
  finally:
    started.process.communicate()  # closes its standard input


def throughput(args: argparse.Namespace) -> dict[str, Any]:
  """Returns the images/s of each way, with alternating epochs."""
  epochs, data_flags = args.rounds + 1, data_flags_of(args)
  with (
    program('notebook', data_flags) as notebook,
    program('ours', data_flags, f'--schedule={epochs}') as ours,
  ):
    pairs = [(notebook.epoch(), ours.epoch()) for _ in range(epochs)][1:]
  rates = [[one['images'] / one['seconds'] for one in pair] for pair in pairs]
  speedups = [mine / theirs for theirs, mine in rates]
  return {
    'notebook_images_per_second': round(statistics.median(theirs for theirs, _ in rates)),
    'images_per_second': round(statistics.median(mine for _, mine in rates)),
    'speedup': round(statistics.median(speedups), 3),
    'speedups': [round(speedup, 3) for speedup in speedups],
    'precision': pairs[0][1]['precision'],
  }


def races(args: argparse.Namespace) -> dict[str, float | None]:
  """Returns each way's seconds of training until an epoch ends at the notebook's test accuracy.

  None stands for one that did not reach it, and for a race that was left out.
  """
  run_both = args.max_epochs > 0
  return {
    'seconds_to_seed_accuracy': race('ours', args.our_epochs, args) if run_both else None,
    'notebook_seconds_to_seed_accuracy': (
      race('notebook', args.max_epochs, args) if run_both else None
    ),
  }


def race(way: str, epochs: int, args: argparse.Namespace) -> float | None:
  """Returns one way's seconds; evaluation is not counted."""
  seconds = 0.0
  with program(way, data_flags_of(args), '--evaluate', f'--schedule={epochs}') as runner:
    for _ in range(epochs):
      answer = runner.epoch()
      seconds += answer['seconds']
      if answer['test_accuracy'] >= SEED_ACCURACY:
        return round(seconds, 1)
  return None


def data_flags_of(args: argparse.Namespace) -> list[str]:
  """Returns the flags that benchmarks.epochs and trainer.main have in common."""
  return [f'--data_dir={args.data_dir}', f'--validation_examples={args.validation_examples}']


def peak_rss_bytes(data_flags: list[str]) -> int:
  """Returns the peak of the trainer's own command, from start to report, for one epoch.

  Call it first: the system keeps the peak of all programs that ended.
  """
  with tempfile.TemporaryDirectory() as workdir:
    flags = [f'--workdir={workdir}', *data_flags, '--epochs=1']
    command = [sys.executable, '-m', 'trainer.main', *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
  if result.returncode:
    raise RuntimeError(f'{" ".join(command)} ended with {result.returncode}:\n{result.stderr}')
  return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--data_dir', default='data', help='a TFDS directory with fashion_mnist')
  add('--rounds', type=arguments.positive, default=5, help='epochs of each after a warm-up')
  add(
    '--our_epochs',
    type=arguments.positive,
    default=24,
    help="length of our schedule in the race to the notebook's accuracy",
  )
  add(
    '--max_epochs',
    type=arguments.non_negative,
    default=25,
    help="epochs after which the notebook's race ends without it; 0 leaves both races out",
  )
  arguments.add_validation_examples(parser)
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Measures, and prints the result."""
  args = parse(argv)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  peak = peak_rss_bytes(data_flags_of(args))
  regime = ('validation_examples', 'rounds', 'our_epochs', 'max_epochs')
  result = {
    **throughput(args),
    **races(args),
    'peak_rss_bytes': peak,
    'regime': {name: getattr(args, name) for name in regime},
    'machine': machine.facts(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main()
