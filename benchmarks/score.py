"""Scoring speed and memory, three ways, on the same PNGs in TFRecord, alternating in one run.

  python -m benchmarks.score --model=runs/seed/export/1 --data_dir=DIR

  stock  Beam's RunInference over single images, as in Beam's own examples; writes text
  bare   tf.data and the SavedModel in a loop, in TensorFlow's own threads, no Beam; writes nothing
  ours   python -m batch.main

Each runs in processes of its own. Start-up is timed by the same command over a few images in the
same number of files, and subtracted. Prints one JSON line; a rate is null if a collection is so
small that no time remains.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import arguments, collection, machine, process

WAYS = ('stock', 'bare', 'ours')
FEW = 64  # images in each file of the collection that times the start-up

Measured = dict[tuple[str, int], list[tuple[float, int]]]  # (way, images): seconds, peak bytes


def command(way: str, model: str, pattern: str, output: str) -> list[str]:
  """Returns the command that scores in that way."""
  program = ['batch.main'] if way == 'ours' else ['benchmarks.rivals', way]
  flags = [f'--model={model}', f'--input={pattern}', f'--output={output}']
  return [sys.executable, '-m', *program, *flags]


def once(way: str, model: str, pattern: str) -> tuple[float, int]:
  """Returns (seconds, peak bytes) of scoring in that way."""
  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'}
  with tempfile.TemporaryDirectory() as output:
    scored = os.path.join(output, 'scored')
    return process.measure(command(way, model, pattern, scored), environment)


def measure(args: argparse.Namespace, few: int, home: pathlib.Path) -> Measured:
  """Returns what each way takes for each collection; each round runs all of them."""
  patterns = {
    size: collection.write(args.data_dir, 'tfrecord', size, str(home / str(size)), args.shards)
    for size in (few, *args.images)
  }
  measured: Measured = {}
  for _ in range(args.rounds):
    for size, pattern in patterns.items():
      for way in args.ways:
        seconds, peak = once(way, args.model, pattern)
        print(f'{way} {size}: {seconds:.2f} s, {peak / 1e6:.0f} MB', file=sys.stderr, flush=True)
        measured.setdefault((way, size), []).append((seconds, peak))
  return measured


def median_seconds(measured: Measured, way: str, size: int) -> float:
  """Returns the median over the rounds."""
  return statistics.median(seconds for seconds, _ in measured[way, size])


def images_per_second(measured: Measured, way: str, size: int, few: int) -> float | None:
  """Returns the rate without start-up."""
  seconds = median_seconds(measured, way, size) - median_seconds(measured, way, few)
  return round((size - few) / seconds, 1) if seconds > 0 else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
  """Returns how many times faster ours is, if both rates are known."""
  return round(ours / theirs, 3) if ours and theirs else None


def agreement(model: str, data_dir: str, home: pathlib.Path) -> dict[str, float]:
  """Compares predictions for the test images in the default precision and in float32."""
  import numpy as np
  import pyarrow.parquet as pq

  images = len(collection.test_images(data_dir)[0])
  pattern = collection.write(data_dir, 'tfrecord', images, str(home / 'test'), 2)
  labels, probabilities = [], []
  for precision in ('auto', 'float32'):
    output = home / f'agreement-{precision}'
    flags = command('ours', model, pattern, str(output))
    process.measure([*flags, f'--precision={precision}'], dict(os.environ))
    table = pq.read_table(output / 'predictions').sort_by('id')
    labels.append(np.array(table['label_index'].to_pylist()))
    probabilities.append(np.array(table['probabilities'].to_pylist()))
  summary = json.loads((home / 'agreement-auto' / 'summary.json').read_text())
  return {
    'precision': summary['precision'],
    'class_agreement_with_float32': float((labels[0] == labels[1]).mean()),
    'largest_probability_difference': float(np.abs(probabilities[0] - probabilities[1]).max()),
    'rescored_fraction': summary['images_rescored'] / summary['images_scored'],
    'accuracy': summary['accuracy'],
  }


def regime(args: argparse.Namespace) -> dict[str, Any]:
  """Returns how the figures were measured."""
  return {
    'images': args.images,
    'shards': args.shards,
    'rounds': args.rounds,
    'ways': {
      'stock': 'RunInference on single images, FnApiRunner in memory, text written',
      'bare': 'tf.data map(decode_png).batch(512), AUTOTUNE, nothing written',
      'ours': 'batch.main with its defaults, Parquet written',
    },
    'start_up': f'timed over {FEW} images per file and subtracted; all figures are from one run',
  }


def compare(args: argparse.Namespace, home: pathlib.Path) -> dict[str, Any]:
  """Returns what the program prints."""
  few = FEW * args.shards
  measured = measure(args, few, home)
  rates: dict[str, dict[str, float | None]] = {}
  peaks: dict[str, dict[str, int]] = {}
  for way in args.ways:
    rates[way] = {str(size): images_per_second(measured, way, size, few) for size in args.images}
    peaks[way] = {str(size): max(peak for _, peak in measured[way, size]) for size in args.images}
  largest = str(max(args.images))
  stock, bare, ours = (rates.get(way, {}).get(largest) for way in WAYS)
  return {
    'stock_runinference_images_per_second': stock,
    'bare_loop_images_per_second': bare,
    'images_per_second': ours,
    'speedup_over_stock': ratio(ours, stock),
    'speedup_over_bare': ratio(ours, bare),
    'peak_rss_bytes': peaks,
    'images_per_second_by_size': rates,
    'start_up_seconds': {way: round(median_seconds(measured, way, few), 2) for way in args.ways},
    'agreement': agreement(args.model, args.data_dir, home) if 'ours' in args.ways else None,
    'regime': regime(args),
    'machine': machine.facts(),
  }


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--model', required=True, help='a SavedModel that trainer.main exported')
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist prepared')
  add(
    '--images',
    type=int,
    nargs='+',
    default=[100_000, 1_000_000],
    help='sizes of the collections to write',
  )
  add('--shards', type=int, default=16, help='files that each collection is spread over')
  add('--rounds', type=int, default=1, help='measurements of each; medians are reported')
  add('--ways', nargs='+', default=list(WAYS), choices=WAYS)
  add('--scratch', default=None, help='where to write the collections: 0.6 kB per image')
  args = parser.parse_args(argv)
  if min(args.images) <= FEW * args.shards:
    parser.error(
      f'--images {min(args.images)}: the start-up alone is timed over {FEW * args.shards}, {FEW} '
      f'per file; pass more images or fewer --shards'
    )
  return args


def main(argv: list[str] | None = None) -> None:
  """Measures, and prints the result."""
  args = parse(argv)
  home = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
  try:
    print(json.dumps(compare(args, home)))
  finally:
    shutil.rmtree(home)


if __name__ == '__main__':
  main()
