"""Images/s of programs that score a collection, in turns, without the time of their start-up."""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping

from benchmarks import arguments, collection, process

FEW = 64  # images in each file of the collection that times the start-up
START_UP = f'timed over {FEW} images per file and subtracted; all figures are from one run'

Command = Callable[[str, str], list[str]]  # from an --input and an --output
Measured = dict[tuple[str, int], list[tuple[float, int]]]  # (way, images): seconds, peak bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds what the programs that measure rates have in common."""
  add = parser.add_argument
  add('--model', required=True, help='a SavedModel that trainer.main exported')
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist prepared')
  add('--shards', type=int, default=16, help='files that each collection is spread over')
  add('--rounds', type=arguments.positive, default=1, help='measurements; medians are reported')
  add('--scratch', default=None, help='where to write the collections: 0.6 kB per image')


def check(parser: argparse.ArgumentParser, images: int, shards: int) -> None:
  """Ends the program if so few images are to be scored that only its start-up would be timed."""
  if images <= FEW * shards:
    parser.error(
      f'--images {images}: the start-up alone is timed over {FEW * shards}, {FEW} per file; pass '
      'more images or fewer --shards'
    )


def write(args: argparse.Namespace, kind: str, sizes: Iterable[int], home: str) -> dict[int, str]:
  """Writes a collection of each size, first that which times the start-up; returns their inputs."""
  return {
    size: collection.write(args.data_dir, kind, size, os.path.join(home, str(size)), args.shards)
    for size in (FEW * args.shards, *sizes)
  }


def measure(ways: Mapping[str, Command], inputs: Mapping[int, str], rounds: int) -> Measured:
  """Returns what each way takes for each collection; each round runs all of them."""
  measured: Measured = {}
  for _ in range(rounds):
    for size, pattern in inputs.items():
      for way, command in ways.items():
        seconds, peak = once(command, pattern)
        print(f'{way} {size}: {seconds:.2f} s, {peak / 1e6:.0f} MB', file=sys.stderr, flush=True)
        measured.setdefault((way, size), []).append((seconds, peak))
  return measured


def once(command: Command, pattern: str) -> tuple[float, int]:
  """Returns (seconds, peak bytes) of scoring in that way."""
  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'}
  with tempfile.TemporaryDirectory() as output:
    return process.measure(command(pattern, os.path.join(output, 'scored')), environment)


def median_seconds(measured: Measured, way: str, size: int) -> float:
  """Returns the median over the rounds."""
  return statistics.median(seconds for seconds, _ in measured[way, size])


def peak(measured: Measured, way: str, size: int) -> int:
  """Returns the largest peak of the rounds, in bytes."""
  return max(bytes_ for _, bytes_ in measured[way, size])


def images_per_second(measured: Measured, way: str, size: int, few: int) -> float | None:
  """Returns the rate without start-up, or None if no time remains."""
  seconds = median_seconds(measured, way, size) - median_seconds(measured, way, few)
  return round((size - few) / seconds, 1) if seconds > 0 else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
  """Returns how many times faster ours is, if both rates are known."""
  return round(ours / theirs, 3) if ours and theirs else None
