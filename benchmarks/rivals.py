"""Two other ways of scoring, with which benchmarks.score compares the scorer.

  python -m benchmarks.rivals stock --model=MODEL --input='DIR/*.tfrecord' --output=scored

Both read PNGs from TFRecord files as benchmarks.collection writes them; stock reads Parquet, too.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import arguments

BATCH = 512


def _saved_model_handler(model: str) -> Any:
  """Returns TFModelHandlerNumpy for a SavedModel, which Beam's cannot load (apache/beam 30616)."""
  import tensorflow as tf
  from apache_beam.ml.inference.base import ModelHandler, PredictionResult

  class SavedModelHandler(ModelHandler):
    """Scores (id, pixels) pairs."""

    def load_model(self) -> Any:
      """Loads the SavedModel."""
      return tf.saved_model.load(model)

    def run_inference(
      self,
      batch: Sequence[tuple[str, np.ndarray]],
      loaded: Any,
      inference_args: dict | None = None,
    ) -> list[PredictionResult]:
      """Returns a result per pair."""
      images = np.stack([image for _, image in batch], axis=0)
      scored = loaded.signatures['serve_pixels'](pixels=tf.constant(images))
      rows = scored['probabilities'].numpy()
      return [PredictionResult(example, row) for example, row in zip(batch, rows)]

  return SavedModelHandler()


def run_stock(model: str, pattern: str, output: str) -> None:
  """Scores with Beam's RunInference over single images, as in Beam's own examples."""
  import apache_beam as beam
  import tensorflow as tf
  from apache_beam.ml.inference.base import RunInference
  from apache_beam.options.pipeline_options import PipelineOptions

  def parse(record: bytes) -> tuple[str, np.ndarray]:
    features = tf.train.Example.FromString(record).features.feature
    png = features['image/encoded'].bytes_list.value[0]
    return features['id'].bytes_list.value[0].decode(), tf.io.decode_png(png).numpy()

  def decode(row: dict[str, Any]) -> tuple[str, np.ndarray]:
    return row['image']['path'], tf.io.decode_png(row['image']['bytes']).numpy()

  def line(result: Any) -> str:  # a PredictionResult, whose fields have no types
    return f'{result.example[0]},{result.inference.argmax()},{result.inference.max():.6f}'

  runner = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
  is_parquet = pattern.endswith('.parquet')
  read = beam.io.ReadFromParquet if is_parquet else beam.io.ReadFromTFRecord
  with beam.Pipeline(options=PipelineOptions([f'--runner={runner}'])) as pipeline:
    _ = (
      pipeline
      | read(pattern)
      | beam.Map(decode if is_parquet else parse)
      | RunInference(_saved_model_handler(model))
      | beam.Map(line)
      | beam.io.WriteToText(os.path.join(output, 'predictions'))
    )


def run_bare(model: str, pattern: str, output: str) -> None:
  """Scores with tf.data and the SavedModel in a loop, in TensorFlow's threads; writes nothing."""
  del output
  import tensorflow as tf

  loaded = tf.saved_model.load(model)
  score = loaded.signatures['serve_pixels']
  text = tf.io.FixedLenFeature([], tf.string)

  def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    found = tf.io.parse_single_example(record, {'image/encoded': text, 'id': text})
    pixels = tf.io.decode_png(found['image/encoded'], channels=1)
    return found['id'], tf.ensure_shape(pixels, [28, 28, 1])

  parallel = tf.data.AUTOTUNE
  records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)))
  images = records.map(parse, num_parallel_calls=parallel).batch(BATCH).prefetch(parallel)
  count = 0
  for ids, pixels in images:
    scored = score(pixels=pixels)
    found = scored['label'].numpy().size and scored['probabilities'].numpy().size
    count += len(ids.numpy()) if found else 0
  print(count)


def main(argv: list[str] | None = None) -> None:
  """Scores in the way that the command line names."""
  ways = {'stock': run_stock, 'bare': run_bare}
  parser = arguments.Parser(__doc__)
  parser.add_argument('way', choices=list(ways))
  parser.add_argument('--model', required=True, help='a SavedModel that trainer.main exported')
  parser.add_argument('--input', required=True, help='a pattern of files')
  parser.add_argument('--output', required=True, help='where stock writes; bare writes nothing')
  args = parser.parse_args(argv)
  ways[args.way](args.model, args.input, args.output)


if __name__ == '__main__':
  main(sys.argv[1:])
