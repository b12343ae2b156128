"""Scores Parquet files with Spark's predict_batch_udf. benchmarks.spark starts it.

  python -m benchmarks.spark_job --model=MODEL --input=DIR --output=scored --timings=timings.json

pyspark must be on the path. The same job runs twice in one session: cold, including the start of
its Python processes and loading the model, and warm. OpenCV decodes; each process has one
TensorFlow thread.
"""

import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import arguments

BATCH = 512


def predictor(model: str) -> Callable[[], Callable[[np.ndarray], dict[str, np.ndarray]]]:
  """Returns what Spark calls in each of its Python processes to get the prediction function."""

  def load() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    import cv2
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(model)
    score = loaded.signatures['serve_pixels']

    def decode(png: bytes) -> np.ndarray:
      pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
      if pixels is None:
        raise ValueError(f'an image of {len(png)} bytes is not a PNG')
      return pixels[..., np.newaxis]

    def predict(pngs: np.ndarray) -> dict[str, np.ndarray]:
      probabilities = score(pixels=tf.constant(np.stack([decode(png) for png in pngs])))
      rows = probabilities['probabilities'].numpy()
      return {'label_index': rows.argmax(axis=1).astype(np.int32), 'probabilities': rows}

    return predict

  return load


def run(session: Any, predict: Any, source: str, output: str) -> float:
  """Returns the seconds of one job, from the files to the predictions' files."""
  from pyspark.sql import functions

  started = time.perf_counter()
  images = session.read.parquet(source)
  scored = images.select(functions.col('image.path').alias('id'), predict('image.bytes').alias('p'))
  scored.select('id', 'p.*').write.parquet(output)
  return time.perf_counter() - started


def main(argv: list[str] | None = None) -> None:
  """Runs the job twice and writes its seconds."""
  parser = arguments.Parser(__doc__)
  for name in ('model', 'input', 'output', 'timings'):
    parser.add_argument(f'--{name}', required=True)
  args = parser.parse_args(argv)
  from pyspark.ml.functions import predict_batch_udf
  from pyspark.sql import SparkSession, types

  started = time.perf_counter()
  cores = len(os.sched_getaffinity(0))
  builder = SparkSession.builder.master(f'local[{cores}]').config('spark.ui.enabled', 'false')
  session = builder.getOrCreate()
  seconds = {'session': time.perf_counter() - started}
  schema = types.StructType()
  schema.add('label_index', types.IntegerType())
  schema.add('probabilities', types.ArrayType(types.FloatType()))
  predict = predict_batch_udf(predictor(args.model), return_type=schema, batch_size=BATCH)
  for name in ('cold', 'warm'):
    seconds[name] = run(session, predict, args.input, os.path.join(args.output, name))
  pathlib.Path(args.timings).write_text(json.dumps(seconds))
  session.stop()


if __name__ == '__main__':
  main()
