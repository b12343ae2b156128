"""Scoring speed and memory, three ways, on the same PNGs in TFRecord, alternating in one run.

  python -m benchmarks.score --model=runs/seed/export/1 --data_dir=DIR

  stock  Beam's RunInference over single images, as Beam's own examples have it: read, decode, infer, write text
  bare   tf.data and the SavedModel in a loop, in TensorFlow's own threads, no Beam; nothing is written
  ours   python -m batch.main

Each runs in processes of its own. Start-up is timed by the same command over a few images in as many files, and
taken off. Prints one JSON line.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata

WAYS = ('stock', 'bare', 'ours')
BATCH = 512
SAMPLE_SECS = 0.2
FEW = 64  # images in each file of the collection that times the start-up


# --- the two to compare with ---------------------------------------------------------------------------------------


def run_stock(model: str, pattern: str, output: str) -> None:
  import apache_beam as beam
  import numpy as np
  import tensorflow as tf
  from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
  from apache_beam.options.pipeline_options import PipelineOptions

  class SavedModelHandler(ModelHandler):
    """What TFModelHandlerNumpy does, for a SavedModel, which it cannot load (apache/beam issue 30616)."""

    def load_model(self):
      return tf.saved_model.load(model)

    def run_inference(self, batch, loaded, inference_args=None):
      images = np.stack([image for _, image in batch], axis=0)
      scored = loaded.signatures['serve_pixels'](pixels=tf.constant(images))['probabilities'].numpy()
      return [PredictionResult(example, row) for example, row in zip(batch, scored)]

  def parse(record):
    features = tf.train.Example.FromString(record).features.feature
    png = features['image/encoded'].bytes_list.value[0]
    return features['id'].bytes_list.value[0].decode(), tf.io.decode_png(png).numpy()

  def line(result):
    return f'{result.example[0]},{result.inference.argmax()},{result.inference.max():.6f}'

  options = PipelineOptions(['--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner'])
  with beam.Pipeline(options=options) as pipeline:
    _ = (
      pipeline
      | beam.io.ReadFromTFRecord(pattern)
      | beam.Map(parse)
      | RunInference(SavedModelHandler())
      | beam.Map(line)
      | beam.io.WriteToText(os.path.join(output, 'predictions'))
    )


def run_bare(model: str, pattern: str, output: str) -> None:
  import tensorflow as tf

  loaded = tf.saved_model.load(model)
  score = loaded.signatures['serve_pixels']
  spec = {'image/encoded': tf.io.FixedLenFeature([], tf.string), 'id': tf.io.FixedLenFeature([], tf.string)}

  def parse(record):
    found = tf.io.parse_single_example(record, spec)
    return found['id'], tf.ensure_shape(tf.io.decode_png(found['image/encoded'], channels=1), [28, 28, 1])

  records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)))
  images = records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
  count = 0
  for ids, pixels in images:
    scored = score(pixels=pixels)
    count += len(ids.numpy()) * bool(scored['label'].numpy().size and scored['probabilities'].numpy().size)
  print(count)


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
  """(seconds, peak of the summed RSS of the process and all its children, in bytes) of a command."""
  import psutil

  began = time.perf_counter()
  with tempfile.TemporaryFile() as log:
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    root, peak = psutil.Process(process.pid), [0]

    def watch():
      while process.poll() is None:
        peak[0] = max(peak[0], _rss(root))
        time.sleep(SAMPLE_SECS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
      log.seek(0)
      raise RuntimeError(f'{" ".join(command)} ended with {process.returncode}:\n{log.read().decode()[-4000:]}')
  return seconds, peak[0]


def _rss(root) -> int:
  import psutil

  total = 0
  try:
    for process in [root, *root.children(recursive=True)]:
      total += process.memory_info().rss
  except psutil.Error:  # one has just ended
    pass
  return total


def command(way: str, model: str, pattern: str, output: str) -> list[str]:
  if way == 'ours':
    return [sys.executable, '-m', 'batch.main', f'--model={model}', f'--input={pattern}', f'--output={output}']
  return [sys.executable, '-m', 'benchmarks.score', f'--way={way}', f'--model={model}', f'--input={pattern}',
          f'--output={output}']  # fmt: skip


def once(way: str, model: str, pattern: str) -> tuple[float, int]:
  environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'}
  with tempfile.TemporaryDirectory() as output:
    return measure(command(way, model, pattern, os.path.join(output, 'scored')), environment)


def collect(data_dir: str, sizes: list[int], shards: int, home: pathlib.Path) -> dict[int, str]:
  """Writes a collection of each size, and returns the patterns that name them."""
  from benchmarks import collection

  return {size: collection.write(data_dir, 'tfrecord', size, str(home / str(size)), shards) for size in sizes}


def agreement(model: str, data_dir: str, home: pathlib.Path) -> dict[str, float]:
  """How the 10,000 test images come out by default, against --precision=float32."""
  import numpy as np
  import pyarrow.parquet as pq

  from benchmarks import collection

  pattern = collection.write(data_dir, 'tfrecord', 10_000, str(home / 'test'), 2)
  tables = {}
  for precision in ('auto', 'float32'):
    output = home / f'agreement-{precision}'
    arguments = command('ours', model, pattern, str(output))
    subprocess.run([*arguments, f'--precision={precision}'], check=True, stdout=subprocess.DEVNULL)
    tables[precision] = pq.read_table(output / 'predictions').sort_by('id')
  column = lambda name: [np.array(table[name].to_pylist()) for table in tables.values()]
  (fast, exact), (p, q) = column('label_index'), column('probabilities')
  summary = json.loads((home / 'agreement-auto' / 'summary.json').read_text())
  return {
    'precision': summary['precision'],
    'class_agreement_with_float32': float((fast == exact).mean()),
    'largest_probability_difference': float(np.abs(p - q).max()),
    'rescored_fraction': summary['images_rescored'] / summary['images_scored'],
    'accuracy': summary['accuracy'],
  }


def regime(args: argparse.Namespace) -> dict:
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  names = [line.split(':')[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith('model name')]
  packages = ('tensorflow', 'apache-beam', 'numpy', 'opencv-python-headless')
  return {
    'cpu': names[0] if names else platform.machine(),
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    **{package: metadata.version(package) for package in packages},
    'images': args.images,
    'shards': args.shards,
    'rounds': args.rounds,
    'ways': {'stock': 'RunInference an image at a time, FnApiRunner in memory, text written',
             'bare': 'tf.data map(decode_png).batch(512), AUTOTUNE, nothing written',
             'ours': 'batch.main with its defaults, Parquet written'},
    'start_up': f'timed over {FEW} images a file and taken off; all figures are from one run of this program',
  }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', required=True, help='a SavedModel that trainer.main exported')
  parser.add_argument('--data_dir', help='a TFDS directory with fashion_mnist prepared')
  parser.add_argument('--images', type=int, nargs='+', default=[100_000, 1_000_000], help='sizes of the collections')
  parser.add_argument('--shards', type=int, default=16, help='files that each collection is spread over')
  parser.add_argument('--rounds', type=int, default=1, help='how often each is measured; medians are reported')
  parser.add_argument('--ways', nargs='+', default=list(WAYS), choices=WAYS)
  parser.add_argument('--scratch', default=None, help='where to write the collections: 0.6 kB an image')
  parser.add_argument('--way', choices=WAYS[:2], help=argparse.SUPPRESS)
  parser.add_argument('--input', help=argparse.SUPPRESS)
  parser.add_argument('--output', help=argparse.SUPPRESS)
  args = parser.parse_args(argv)
  if args.way:
    {'stock': run_stock, 'bare': run_bare}[args.way](args.model, args.input, args.output)
    return
  home = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
  try:
    print(json.dumps(compare(args, home)))
  finally:
    shutil.rmtree(home)


def compare(args: argparse.Namespace, home: pathlib.Path) -> dict:
  few = FEW * args.shards
  patterns = collect(args.data_dir, [few, *args.images], args.shards, home)
  seconds: dict[tuple[str, int], list[float]] = {}
  peaks: dict[tuple[str, int], int] = {}
  for _ in range(args.rounds):
    for size in (few, *args.images):
      for way in args.ways:
        taken, peak = once(way, args.model, patterns[size])
        print(f'{way} {size}: {taken:.2f} s, peak {peak / 1e6:.0f} MB', file=sys.stderr, flush=True)
        seconds.setdefault((way, size), []).append(taken)
        peaks[way, size] = max(peak, peaks.get((way, size), 0))
  median = {key: statistics.median(values) for key, values in seconds.items()}
  rate = lambda way, size: round((size - few) / (median[way, size] - median[way, few]), 1)
  rates = {way: {str(size): rate(way, size) for size in args.images} for way in args.ways}
  largest = str(max(args.images))
  over = lambda way: round(rates['ours'][largest] / rates[way][largest], 3) if {way, 'ours'} <= set(rates) else None
  return {
    'stock_runinference_images_per_second': rates.get('stock', {}).get(largest),
    'bare_loop_images_per_second': rates.get('bare', {}).get(largest),
    'images_per_second': rates.get('ours', {}).get(largest),
    'speedup_over_stock': over('stock'),
    'speedup_over_bare': over('bare'),
    'peak_rss_bytes': {way: {str(size): peaks[way, size] for size in args.images} for way in args.ways},
    'images_per_second_by_size': rates,
    'start_up_seconds': {way: round(median[way, few], 2) for way in args.ways},
    'agreement': agreement(args.model, args.data_dir, home) if 'ours' in args.ways else None,
    'regime': regime(args),
  }


if __name__ == '__main__':
  main()
