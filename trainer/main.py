"""Trains an image classifier from the raw data, by default Fashion-MNIST, to a tested SavedModel.

  python -m trainer.main --workdir=runs/seed
  python -m trainer.main --workdir=gs://bucket/runs/seed --data_dir=gs://bucket/data
  python -m trainer.main --workdir=runs/mine --dataset=folder --source=photos

The workdir receives settings.json, checkpoints/, history.csv, tensorboard/, export/1/ (the
SavedModel), keras/, report/ and, last, metrics.json. The same command in the same workdir resumes
where the run stopped.

Exit codes: 64: bad input, reported in one line before training starts; 75 or 130: stopped by
SIGTERM or SIGINT after a checkpoint; 68: another host was lost; 69: Cloud Storage is not
responding; 70: the loss became NaN or infinite; 1: anything else, such as a full disk, after which
trying again may help.

Several hosts: start the same command on each, with TF_CONFIG set to
  {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
and its own index on each. All must see the same workdir; worker 0 writes it.
"""

import contextlib
import dataclasses
import logging as py_logging
import math
import os
import sys
import tempfile
import typing
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging

from runtime import process, text
from trainer import config, exit_codes, failures, signals

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory for all outputs of the run, local or gs://.'
)
DEFINE_BY_TYPE: dict[type, Callable[..., Any]] = {
  bool: flags.DEFINE_boolean,
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
  if plain is float:
    message = f'is not a finite number; pass one like {default or 0.1}'
    flags.register_validator(field.name, _is_finite_or_absent, message)


def _is_finite_or_absent(value: float | None) -> bool:
  return value is None or math.isfinite(value)


def _settings_of(section: type) -> list[dataclasses.Field]:
  return [field for field in dataclasses.fields(section) if field.metadata]


for _section in (config.Config, config.Recipe, config.LoopOptions):
  for _field in _settings_of(_section):
    _define_flag(_field, typing.get_type_hints(_section)[_field.name])


def _from_flags(section: type, **others: Any) -> Any:
  """Returns an instance of a dataclass in trainer.config with the flags' values."""
  values = {field.name: flags.FLAGS[field.name].value for field in _settings_of(section)}
  paths = [field.name for field in _settings_of(section) if field.metadata['is_path']]
  homes = {name: os.path.expanduser(str(values[name])) for name in paths if values[name]}
  return section(**{**values, **homes}, **others)


def main(argv: list[str]) -> None:
  """Trains as the flags specify."""
  if argv[1:]:
    raise app.UsageError(f'{argv[1]}: not a flag; flags are written --name=value')
  if not WORKDIR.value:
    raise app.UsageError(
      '--workdir is not given: name a directory, local or gs://, for all outputs of the run'
    )
  process.prepare()
  tempfile.gettempdir()  # raises an OSError if there is none
  logging.get_absl_handler().addFilter(_keep_record)
  # Imports TensorFlow, for which --help need not wait.
  with process.without_garbage_collection():
    from trainer import run

  settings = _from_flags(
    config.Config,
    recipe=_from_flags(config.Recipe),
    loop=_from_flags(config.LoopOptions),
  )
  run.run(settings, os.path.expanduser(str(WORKDIR.value)).rstrip('/') or '/')


def _keep_record(record: py_logging.LogRecord) -> bool:
  """Drops INFO records of third-party libraries, which share absl's handler."""
  is_ours = os.path.abspath(record.pathname).startswith(os.path.dirname(__file__) + os.sep)
  return record.levelno > py_logging.INFO or is_ours


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _exit(failures.Failure(str(error), exit_codes.BAD_INPUT))


def _exit(failure: failures.Failure) -> NoReturn:
  """Ends the process with the failure's line as the last one on standard error.

  At once, because a thread may still read the images: it would meet an interpreter that is being
  taken down, and abort the process.
  """
  with contextlib.suppress(OSError):  # nobody may be there to read it
    sys.stdout.flush()
    print(f'lookbook-train: {text.one_line(str(failure))}', file=sys.stderr, flush=True)
  os._exit(failure.code)


def _run_main(argv: list[str]) -> None:
  try:
    main(argv)
  except Exception as error:
    failure = failures.explained(error)
    if failure is None:
      raise
    logging.debug('%s', failure, exc_info=True)  # with --verbosity=1
    told = signals.received()
    if told and failure.code == exit_codes.LOST_HOST:  # the others were told to stop, too
      failure = failures.Failure(f'stopped by {told.name}; {failures.RESUME}', signals.CODES[told])
    _exit(failure)


def cli() -> None:
  """Runs the console script `lookbook-train`."""
  process.open_standard_streams()
  process.use_utf8()
  signals.listen()
  for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
    # So that --help lists them however the program was started.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  sys.modules['__main__'].__doc__ = __doc__
  app.run(_run_main, flags_parser=_parse_flags)


if __name__ == '__main__':
  cli()
