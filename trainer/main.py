"""Trains Fashion-MNIST from the raw data to a tested SavedModel.

  python -m trainer.main --workdir=runs/seed
  python -m trainer.main --workdir=gs://bucket/runs/seed --data_dir=gs://bucket/data

The workdir receives settings.json, checkpoints/, history.csv, tensorboard/, export/1/ (the SavedModel), report/ and,
last, metrics.json. The same command in the same workdir goes on where it was stopped.

Exit codes: 64, bad input, said in one line before any training; 75, stopped by SIGTERM after a checkpoint; 1, the loss
stopped being finite, another host was lost, or Cloud Storage does not answer.

Several hosts: start the same command on each, with TF_CONFIG set to
  {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
and its own index on each. All must see the same workdir; worker 0 writes it.
"""

import gc
import logging as py_logging
import os
import signal
import sys
from typing import NoReturn

from absl import app, flags, logging

from runtime import process
from storage import files
from trainer import exit_codes

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory for everything the run leaves behind, local or gs://.'
)
DATA_DIR = flags.DEFINE_string(
  'data_dir',
  None,
  "TFDS directory, local or gs://: read if it holds fashion_mnist, else prepared. TFDS's own by default.",
)
IDX_DIR = flags.DEFINE_string(
  'idx_dir',
  None,
  'Directory with the four IDX .gz files, local or gs://, to prepare the dataset from without a download.',
)
VALIDATION_EXAMPLES = flags.DEFINE_integer(
  'validation_examples',
  6000,
  'Images of the 60,000 for training that choose the best epoch instead.',
  lower_bound=1,
)
MODEL = flags.DEFINE_enum(
  'model', 'seed', ['seed', 'best'], "The network: the notebook's, or a more accurate one."
)
EPOCHS = flags.DEFINE_integer(
  'epochs', None, "Passes over the training images. By default the network's own: 60 for seed, 70 for best.",
  lower_bound=1,
)  # fmt: skip
GLOBAL_BATCH_SIZE = flags.DEFINE_integer(
  'global_batch_size', 256, 'Images a step, over all replicas together.', lower_bound=1
)
LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', 3e-3, "AdamW's rate at its peak, a fifth of the way through.", lower_bound=0
)
SEED = flags.DEFINE_integer(
  'seed',
  0,
  'Decides the split, the initial weights, the order and the noise.',
  lower_bound=0,
  upper_bound=2**31 - 1,
)
PRECISION = flags.DEFINE_enum(
  'precision',
  'auto',
  ['auto', 'float32', 'mixed_bfloat16', 'mixed_float16'],
  'Arithmetic of the training step; auto is the fastest here that costs no accuracy. The export is float32 always.',
)
REPLICAS = flags.DEFINE_integer(
  'replicas',
  0,
  'Devices that train: 0 is every GPU, or the CPU; without a GPU, 2 or more split the CPU.',
  lower_bound=0,
)
ALL_REDUCE = flags.DEFINE_enum(
  'all_reduce',
  'auto',
  ['auto', 'nccl', 'hierarchical', 'reduction_to_one'],
  'How devices add up their gradients; several hosts: auto or nccl.',
)
LOG_EVERY_STEPS = flags.DEFINE_integer(
  'log_every_steps', 50, 'Steps between looks at the loss.', lower_bound=1
)
CHECKPOINT_EVERY_STEPS = flags.DEFINE_integer(
  'checkpoint_every_steps',
  0,
  'Steps between checkpoints, besides the one of every epoch; 0: that one alone.',
  lower_bound=0,
)
KEEP_CHECKPOINTS = flags.DEFINE_integer(
  'keep_checkpoints', 3, 'How many of the newest checkpoints stay.', lower_bound=1
)
ON_NONFINITE = flags.DEFINE_enum(
  'on_nonfinite', 'stop', ['stop', 'rollback'],
  'When the loss is no longer finite: stop, or go back to the last checkpoint with half the learning rate, three times '
  'at most.',
)  # fmt: skip


def main(argv: list[str]) -> None:
  if argv[1:]:
    raise app.UsageError(f'{argv[1]}: not a flag; flags are written --name=value')
  if not WORKDIR.value:
    raise app.UsageError(
      '--workdir is not given: name a directory, local or gs://, for what the run leaves behind'
    )
  process.prepare()
  logging.get_absl_handler().addFilter(_ours_or_worrying)
  from trainer import hosts, loop, run  # and with them TensorFlow, which --help need not wait for

  gc.freeze()  # what is imported stays: at the end, looking through it for garbage would take over a second
  signal.signal(
    signal.SIGTERM, lambda *_: sys.exit(exit_codes.PREEMPTED)
  )  # until there are steps to save
  try:
    run.run(**_settings(), habits=_habits(loop))
  except loop.Preempted as error:
    logging.warning('%s', error)
    sys.exit(exit_codes.PREEMPTED)
  except (loop.NonFinite, hosts.LostWorker, files.Unavailable) as error:
    logging.error('%s', error)
    sys.exit(exit_codes.FAILED)


def _settings() -> dict:
  return {
    'directory': (WORKDIR.value or '').rstrip('/'),
    'data_dir': DATA_DIR.value,
    'idx_dir': IDX_DIR.value,
    'model': MODEL.value,
    'validation_examples': VALIDATION_EXAMPLES.value,
    'epochs': EPOCHS.value,
    'global_batch_size': GLOBAL_BATCH_SIZE.value,
    'learning_rate': LEARNING_RATE.value,
    'seed': SEED.value,
    'precision': PRECISION.value,
    'replicas': REPLICAS.value,
    'all_reduce': ALL_REDUCE.value,
  }


def _habits(loop):
  return loop.Habits(
    log_every_steps=LOG_EVERY_STEPS.value,
    checkpoint_every_steps=CHECKPOINT_EVERY_STEPS.value,
    keep_checkpoints=KEEP_CHECKPOINTS.value,
    rollback=ON_NONFINITE.value == 'rollback',
  )


def _ours_or_worrying(record: py_logging.LogRecord) -> bool:
  """Leaves the libraries' small talk out of the log: they share absl's handler with us."""
  return record.levelno > py_logging.INFO or os.path.dirname(record.pathname) == os.path.dirname(
    __file__
  )


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _refuse(error)


def _refuse(error: Exception) -> NoReturn:
  print(f'lookbook-train: {error}', file=sys.stderr)
  sys.exit(exit_codes.BAD_INPUT)


def _guarded(argv: list[str]) -> None:
  try:
    main(argv)
  except app.UsageError as error:
    _refuse(error)


def cli() -> None:
  """The console script `lookbook-train`."""
  for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
    flags.FLAGS.register_key_flag_for_module(
      sys.argv[0], flag
    )  # so that --help lists them however we were started
  sys.modules['__main__'].__doc__ = __doc__
  app.run(_guarded, flags_parser=_parse_flags)


if __name__ == '__main__':
  cli()
