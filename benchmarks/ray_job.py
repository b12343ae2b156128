"""Scores Parquet files with Ray Data's map_batches. benchmarks.peers starts it.

  python -m benchmarks.ray_job --model=MODEL --input='DIR/*.parquet' --output=scored

ray must be on the path. As in Ray's guide to batch inference, a class loads the model once in each
of a pool of actors, one per core here. OpenCV decodes; each actor has one TensorFlow thread.
"""

import glob
import os

import numpy as np

from benchmarks import arguments, spark_job


class Scorer:
  """What each actor loads once and calls with a batch of rows."""

  def __init__(self, model: str):
    self.predict = spark_job.predictor(model)()

  def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns each image's id, predicted class, and probabilities float32 (N, classes)."""
    images = batch['image']  # dicts of bytes and path
    scored = self.predict(np.array([image['bytes'] for image in images], object))
    return {'id': np.array([image['path'] for image in images]), **scored}


def main(argv: list[str] | None = None) -> None:
  """Scores all files and writes Parquet."""
  parser = arguments.Parser(__doc__)
  for name in ('model', 'input', 'output'):
    parser.add_argument(f'--{name}', required=True)
  args = parser.parse_args(argv)
  import ray

  cores = len(os.sched_getaffinity(0))
  # Actors keep a CPU each for good; reading and writing need others to be scheduled at all.
  ray.init(num_cpus=2 * cores, include_dashboard=False)
  images = ray.data.read_parquet(sorted(glob.glob(args.input))).select_columns(['image'])
  scored = images.map_batches(
    Scorer,
    fn_constructor_args=[args.model],
    batch_size=spark_job.BATCH,
    compute=ray.data.ActorPoolStrategy(size=cores),
  )
  scored.write_parquet(args.output)
  ray.shutdown()


if __name__ == '__main__':
  main()
