"""What a checkpoint every 100 steps costs, with and without in turn in one process. Prints one JSON line.

python -m benchmarks.checkpoint --data_dir=data
"""

import json
import os
import platform
import statistics
import tempfile
import time

from absl import app, flags

DATA_DIR = flags.DEFINE_string('data_dir', 'data', 'TFDS directory with fashion_mnist.')
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where to write the checkpoints, local or gs://; a temporary folder else.'
)
ROUNDS = flags.DEFINE_integer('rounds', 8, 'Stretches of each to time, after one of each to warm up.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 100, 'Steps between checkpoints.', lower_bound=1)


def main(argv: list[str]) -> None:
  del argv
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  import tensorflow as tf

  from trainer import checkpoint, data, fit, record, strategy

  train, _ = data.split_validation(data.read(data.prepare(DATA_DIR.value), 'train'), 6000, 0)
  recipe = fit.Recipe('seed', 6000, 30, 256, 3e-3, 0, strategy.dtype_policy('auto'))
  trainer = fit.Trainer(strategy.create(0), recipe, train)
  done = record.Record(best_weights=trainer.averaged.get_weights())

  with tempfile.TemporaryDirectory() as scratch:

    def stretch(saves: bool) -> float:
      started = time.perf_counter()
      trainer.advance(STEPS.value)
      if saves:
        checkpoint.save(WORKDIR.value or scratch, {**trainer.state(), **done.state()}, keep=3)
      return time.perf_counter() - started

    pairs = [(stretch(False), stretch(True)) for _ in range(ROUNDS.value + 1)][1:]
    started = time.perf_counter()
    checkpoint.save(WORKDIR.value or scratch, {**trainer.state(), **done.state()}, keep=3)
    alone = time.perf_counter() - started
  print(
    json.dumps(
      {
        'cost': round(statistics.median(saving / bare for bare, saving in pairs) - 1, 4),
        'costs': [round(saving / bare - 1, 4) for bare, saving in pairs],
        'checkpoint_seconds': round(alone, 4),
        'regime': {
          'steps_between': STEPS.value,
          'rounds': ROUNDS.value,
          'workdir': WORKDIR.value or 'local',
          'cpu': platform.processor() or platform.machine(),
          'cores': os.cpu_count(),
          'gpus': len(tf.config.list_physical_devices('GPU')),
          'tensorflow': tf.__version__,
          'precision': recipe.precision,
        },
      }
    )
  )


if __name__ == '__main__':
  app.run(main)
