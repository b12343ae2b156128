"""Trains an image classifier from the raw data, by default Fashion-MNIST, to a tested SavedModel.

  python -m trainer.main --workdir=runs/seed
  python -m trainer.main --workdir=gs://bucket/runs/seed --data_dir=gs://bucket/data
  python -m trainer.main --workdir=runs/mine --dataset=image_folder --source=pictures

The workdir receives settings.json, checkpoints/, history.csv, tensorboard/, export/1/ (the
SavedModel), keras/, report/ and, last, metrics.json. The same command in the same workdir resumes
where the run stopped.

Exit codes: 64: bad input, reported in one line before training starts; 75: stopped by SIGTERM after
a checkpoint; 1: the loss became NaN or infinite, another host was lost, or Cloud Storage is not
responding.

Several hosts: start the same command on each, with TF_CONFIG set to
  {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
and its own index on each. All must see the same workdir; worker 0 writes it.
"""

import dataclasses
import gc
import logging as py_logging
import os
import signal
import sys
import typing
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging

from runtime import process
from storage import files
from trainer import config, exit_codes

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory for all outputs of the run, local or gs://.'
)
DEFINE_BY_TYPE: dict[type, Callable[..., Any]] = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
}


def _define_flag(field: dataclasses.Field, kind: Any) -> None:
  """Defines the flag of a setting in trainer.config, whose type is `kind` or `kind | None`."""
  help_text, choices = field.metadata['help'], field.metadata['choices']
  default: Any = field.default
  if choices:
    flags.DEFINE_enum(field.name, default, list(choices), help_text)
    return
  limits = {name: limit for name, limit in field.metadata['limits'].items() if limit is not None}
  (plain,) = {*typing.get_args(kind), kind} & set(DEFINE_BY_TYPE)
  DEFINE_BY_TYPE[plain](field.name, default, help_text, **limits)


def _settings_of(section: type) -> list[dataclasses.Field]:
  return [field for field in dataclasses.fields(section) if field.metadata]


for _section in (config.Config, config.Recipe, config.LoopOptions):
  for _field in _settings_of(_section):
    _define_flag(_field, typing.get_type_hints(_section)[_field.name])


def _from_flags(section: type, **others: Any) -> Any:
  """Returns an instance of a dataclass in trainer.config with the flags' values."""
  values = {field.name: flags.FLAGS[field.name].value for field in _settings_of(section)}
  return section(**values, **others)


def main(argv: list[str]) -> None:
  """Trains as the flags specify."""
  if argv[1:]:
    raise app.UsageError(f'{argv[1]}: not a flag; flags are written --name=value')
  if not WORKDIR.value:
    raise app.UsageError(
      '--workdir is not given: name a directory, local or gs://, for all outputs of the run'
    )
  process.prepare()
  logging.get_absl_handler().addFilter(_keep_record)
  # Imports TensorFlow, for which --help need not wait.
  from trainer import hosts, loop, run

  # Exempts imported modules from garbage collection, which would take over a second at exit.
  gc.freeze()
  signal.signal(signal.SIGTERM, _exit_preempted)  # until there are steps to save
  settings = _from_flags(
    config.Config,
    recipe=_from_flags(config.Recipe),
    loop=_from_flags(config.LoopOptions),
  )
  try:
    run.run(settings, WORKDIR.value.rstrip('/'))
  except loop.Preempted as error:
    logging.warning('%s', error)
    sys.exit(exit_codes.PREEMPTED)
  except (loop.NonFinite, hosts.LostWorker, files.Unavailable) as error:
    logging.error('%s', error)
    sys.exit(exit_codes.FAILED)


def _exit_preempted(*_: Any) -> NoReturn:
  sys.exit(exit_codes.PREEMPTED)


def _keep_record(record: py_logging.LogRecord) -> bool:
  """Drops INFO records of third-party libraries, which share absl's handler."""
  is_ours = os.path.abspath(record.pathname).startswith(os.path.dirname(__file__) + os.sep)
  return record.levelno > py_logging.INFO or is_ours


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _exit_usage(error)


def _exit_usage(error: Exception) -> NoReturn:
  print(f'lookbook-train: {error}', file=sys.stderr)
  sys.exit(exit_codes.BAD_INPUT)


def _run_main(argv: list[str]) -> None:
  try:
    main(argv)
  except app.UsageError as error:
    _exit_usage(error)


def cli() -> None:
  """Runs the console script `lookbook-train`."""
  for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
    # So that --help lists them however the program was started.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  sys.modules['__main__'].__doc__ = __doc__
  app.run(_run_main, flags_parser=_parse_flags)


if __name__ == '__main__':
  cli()
