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
import sys
import tempfile
from typing import Any

from benchmarks import arguments, collection, machine, process, rates

WAYS = ('stock', 'bare', 'ours')


def command(way: str, model: str) -> rates.Command:
  """Returns what scores in that way."""
  program = ['batch.main'] if way == 'ours' else ['benchmarks.rivals', way]

  def with_paths(pattern: str, output: str) -> list[str]:
    flags = [f'--model={model}', f'--input={pattern}', f'--output={output}']
    return [sys.executable, '-m', *program, *flags]

  return with_paths


def agreement(model: str, data_dir: str, home: pathlib.Path) -> dict[str, float]:
  """Compares predictions for the test images in the default precision and in float32."""
  import numpy as np
  import pyarrow.parquet as pq

  images = len(collection.test_images(data_dir)[0])
  pattern = collection.write(data_dir, 'tfrecord', images, str(home / 'test'), 2)
  labels, probabilities = [], []
  for precision in ('auto', 'float32'):
    output = home / f'agreement-{precision}'
    flags = command('ours', model)(pattern, str(output))
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
    'start_up': rates.START_UP,
  }


def compare(args: argparse.Namespace, home: pathlib.Path) -> dict[str, Any]:
  """Returns what the program prints."""
  inputs = rates.write(args, 'tfrecord', args.images, str(home))
  few = min(inputs)
  ways = {way: command(way, args.model) for way in args.ways}
  measured = rates.measure(ways, inputs, args.rounds)
  found: dict[str, dict[str, float | None]] = {}
  peaks: dict[str, dict[str, int]] = {}
  for way in ways:
    found[way] = {
      str(size): rates.images_per_second(measured, way, size, few) for size in args.images
    }
    peaks[way] = {str(size): rates.peak(measured, way, size) for size in args.images}
  largest = str(max(args.images))
  stock, bare, ours = (found.get(way, {}).get(largest) for way in WAYS)
  return {
    'stock_runinference_images_per_second': stock,
    'bare_loop_images_per_second': bare,
    'images_per_second': ours,
    'speedup_over_stock': rates.ratio(ours, stock),
    'speedup_over_bare': rates.ratio(ours, bare),
    'peak_rss_bytes': peaks,
    'images_per_second_by_size': found,
    'start_up_seconds': {way: round(rates.median_seconds(measured, way, few), 2) for way in ways},
    'agreement': agreement(args.model, args.data_dir, home) if 'ours' in args.ways else None,
    'regime': regime(args),
    'machine': machine.facts(),
  }


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  rates.add_arguments(parser)
  add = parser.add_argument
  add(
    '--images',
    type=int,
    nargs='+',
    default=[100_000, 1_000_000],
    help='sizes of the collections to write',
  )
  add('--ways', nargs='+', default=list(WAYS), choices=WAYS)
  args = parser.parse_args(argv)
  rates.check(parser, min(args.images), args.shards)
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
