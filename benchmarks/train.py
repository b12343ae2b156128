"""Times training: the notebook's way beside ours, an epoch of each in turn. Prints one JSON line.

  python -m benchmarks.train --data_dir=data

The notebook's way is Keras `fit` on float32 arrays with Adam at 1e-3 and batches of 64, and
TensorFlow as it is by default. Ours is the trainer with its default recipe. Each has a process of
its own, which waits while the other trains, so that what else the machine does falls on both.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from absl import app, flags

from benchmarks import machine

DATA_DIR = flags.DEFINE_string('data_dir', 'data', 'TFDS directory with fashion_mnist.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs of each to time, after a warm-up.', 1)
OUR_EPOCHS = flags.DEFINE_integer(
  'our_epochs', 24, "Length of our schedule in the race to the seed's accuracy.", lower_bound=1
)
MAX_EPOCHS = flags.DEFINE_integer(
  'max_epochs',
  25,
  "Epochs after which the notebook's race ends without it; 0 leaves both races out.",
  lower_bound=0,
)
VALIDATION_EXAMPLES = flags.DEFINE_integer(
  'validation_examples', 6000, 'Training images that neither trains on.', lower_bound=1
)
SEED_ACCURACY = 0.9133  # what the seed notebook reports on test


class Program:
  """A benchmarks.epochs that trains an epoch when it is asked to."""

  def __init__(self, way: str, *options: str) -> None:
    self.command = [
      *(sys.executable, '-m', 'benchmarks.epochs', way),
      f'--data_dir={DATA_DIR.value}',
      f'--validation_examples={VALIDATION_EXAMPLES.value}',
      *options,
    ]
    pipe = subprocess.PIPE
    self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)

  def epoch(self) -> dict:
    """Returns what an epoch took, and what it came to where the program judges.

    Raises:
      RuntimeError: the program failed; what it said is in standard error.
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
def program(way: str, *options: str) -> Iterator[Program]:
  """Yields a program that ends with the block."""
  started = Program(way, *options)
  try:
    yield started
  finally:
    started.process.communicate()  # closes its standard input


def throughput() -> dict:
  """Returns the images/s of each, epochs alternating."""
  epochs = ROUNDS.value + 1
  with program('notebook') as notebook, program('ours', f'--schedule={epochs}') as ours:
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


def races() -> dict[str, float | None]:
  """Returns the seconds of training of each until an epoch ends at the seed's test accuracy.

  None stands for one that never got there, and for a race that was left out.
  """
  lengths = {'ours': OUR_EPOCHS.value, 'notebook': MAX_EPOCHS.value}
  found = {way: race(way, epochs) if MAX_EPOCHS.value else None for way, epochs in lengths.items()}
  return {
    'seconds_to_seed_accuracy': found['ours'],
    'notebook_seconds_to_seed_accuracy': found['notebook'],
  }


def race(way: str, epochs: int) -> float | None:
  """Returns the seconds of one of them; judging is not counted."""
  seconds = 0.0
  with program(way, '--judge', f'--schedule={epochs}') as runner:
    for _ in range(epochs):
      answer = runner.epoch()
      seconds += answer['seconds']
      if answer['test_accuracy'] >= SEED_ACCURACY:
        return round(seconds, 1)
  return None


def peak_rss_bytes() -> int:
  """Returns the peak of the trainer's own command, from start to report, for one epoch.

  Call it first: the system keeps the peak of all programs that ended.
  """
  with tempfile.TemporaryDirectory() as workdir:
    command = [
      *(sys.executable, '-m', 'trainer.main'),
      f'--workdir={workdir}',
      f'--data_dir={DATA_DIR.value}',
      f'--validation_examples={VALIDATION_EXAMPLES.value}',
      '--epochs=1',
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
  if result.returncode:
    raise RuntimeError(f'{" ".join(command)} ended with {result.returncode}:\n{result.stderr}')
  return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def main(argv: list[str]) -> None:
  del argv
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  peak = peak_rss_bytes()
  result = {
    **throughput(),
    **races(),
    'peak_rss_bytes': peak,
    'regime': {
      'validation_examples': VALIDATION_EXAMPLES.value,
      'rounds': ROUNDS.value,
      'our_epochs': OUR_EPOCHS.value,
      'max_epochs': MAX_EPOCHS.value,
    },
    'machine': machine.facts(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
