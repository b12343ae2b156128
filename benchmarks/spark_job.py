"""Scores Parquet files with Spark's predict_batch_udf. benchmarks.peers starts it.

  python -m benchmarks.spark_job --model=MODEL --input='DIR/*.parquet' --output=scored

pyspark must be on the path. OpenCV decodes; each process has one TensorFlow thread.
"""

import os
from collections.abc import Callable

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


def main(argv: list[str] | None = None) -> None:
  """Scores all files and writes Parquet."""
  parser = arguments.Parser(__doc__)
  for name in ('model', 'input', 'output'):
    parser.add_argument(f'--{name}', required=True)
  args = parser.parse_args(argv)
  from pyspark.ml.functions import predict_batch_udf
  from pyspark.sql import SparkSession, functions, types

  cores = len(os.sched_getaffinity(0))
  builder = SparkSession.builder.master(f'local[{cores}]').config('spark.ui.enabled', 'false')
  session = builder.getOrCreate()
  schema = types.StructType()
  schema.add('label_index', types.IntegerType())
  schema.add('probabilities', types.ArrayType(types.FloatType()))
  predict = predict_batch_udf(predictor(args.model), return_type=schema, batch_size=BATCH)
  images = session.read.parquet(args.input)
  scored = images.select(functions.col('image.path').alias('id'), predict('image.bytes').alias('p'))
  scored.select('id', 'p.*').write.parquet(args.output)
  session.stop()


if __name__ == '__main__':
  main()
