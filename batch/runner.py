"""Beam's options, the local runner, and its worker processes."""

import argparse
import contextlib
import io
import itertools
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import app

from batch import fork_server
from runtime import process

if TYPE_CHECKING:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

# The name DirectRunner would download another runner.
LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
CPU_QUOTA = '/sys/fs/cgroup/cpu.max'


def beam_options(argv: Sequence[str]) -> tuple['PipelineOptions', int]:
  """Returns Beam's options and the number of threads on which each process scores.

  Without --runner, the local runner starts one process per core, each with one thread. An engine
  chooses the number of processes itself; each has one thread.

  Raises:
    app.UsageError: an argument is not a flag, or the local runner is used with an unknown flag.
  """
  # Two seconds that --help does not need, nor most mistakes.
  from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

  _check_no_positional(argv)
  options = PipelineOptions(list(argv))
  with _as_usage_error():
    options.get_all_options()  # parses them
  if options.view_as(StandardOptions).runner:
    return options, 1
  _check_known(argv)
  cores = available_cores()
  options = PipelineOptions([*argv, *_local_flags(argv, cores)])
  direct = options.view_as(DirectOptions)
  if direct.direct_running_mode != 'multi_processing':
    return options, cores
  return options, max(cores // (direct.direct_num_workers or cores), 1)


@contextlib.contextmanager
def _as_usage_error() -> Iterator[None]:
  """Makes a flag that argparse refuses a UsageError, in place of its usage and exit code 2."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      yield
  except SystemExit as error:
    _, _, reason = said.getvalue().strip().rpartition('error: ')
    raise app.UsageError(reason.removeprefix('argument ') or str(error)) from None


def create_pipeline(options: 'PipelineOptions') -> 'beam.Pipeline':
  """Returns an empty pipeline.

  Raises:
    app.UsageError: Beam refuses the options.
  """
  import apache_beam as beam

  try:
    return beam.Pipeline(options=options)
  except ValueError as error:
    raise app.UsageError(' '.join(str(error).split())) from error


def is_template(options: 'PipelineOptions') -> bool:
  """Returns whether the job is only written down, to be run at any time."""
  from apache_beam.options.pipeline_options import GoogleCloudOptions

  return bool(options.view_as(GoogleCloudOptions).template_location)


def is_submission(options: 'PipelineOptions') -> bool:
  """Returns whether the job runs only after this command: as a template, or by the user's wish."""
  from apache_beam.options.pipeline_options import StandardOptions

  return is_template(options) or options.view_as(StandardOptions).no_wait_until_finish


def _check_no_positional(argv: Sequence[str]) -> None:
  """Raises UsageError if an argument is neither a flag nor the value of the flag before it."""
  for before, arg in itertools.pairwise(['', *argv]):
    awaits_value = before.startswith('--') and '=' not in before
    if not arg.startswith('--') and not awaits_value:
      raise app.UsageError(f'{arg} is not a flag; pass inputs as --input={arg}')


def _check_known(argv: Sequence[str]) -> None:
  """Raises UsageError if a flag is not one of Beam's."""
  from apache_beam.options.pipeline_options import PipelineOptions

  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler='resolve')
  for kind in PipelineOptions.__subclasses__():
    # Beam's own parser class has methods that these do not use.
    kind._add_argparse_args(parser)  # type: ignore[arg-type]
  for arg in parser.parse_known_args(list(argv))[1]:
    if arg.startswith('--'):
      raise app.UsageError(
        f"{arg} is neither a flag of the scorer nor of Beam; --help lists the scorer's"
      )


def _local_flags(argv: Sequence[str], cores: int) -> list[str]:
  """Returns the flags that select the local runner, with defaults for those not given."""
  given = {arg[2:].split('=')[0] for arg in argv if arg.startswith('--')}
  defaults = {'direct_num_workers': str(cores), 'direct_running_mode': 'multi_processing'}
  added = [f'--{name}={value}' for name, value in defaults.items() if name not in given]
  return [f'--runner={LOCAL_RUNNER}', *added]


@contextlib.contextmanager
def start_fork_server(
  argv: Sequence[str], verbose: bool
) -> Iterator[fork_server.ForkServer | None]:
  """Starts what the local runner's workers are forked from, and ends it and them on exit.

  Yields None if an engine runs the job, or the local runner in another mode.
  """
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--runner')
  parser.add_argument('--direct_running_mode', default='multi_processing')
  with _as_usage_error():
    args, _ = parser.parse_known_args(list(argv))
  if args.runner or args.direct_running_mode != 'multi_processing':
    yield None
    return
  server = fork_server.ForkServer(verbose)
  try:
    yield server
  finally:
    server.close()


def available_cores() -> int:
  """Returns the number of usable cores: CPU affinity or the container's CPU quota, if lower."""
  cores = len(os.sched_getaffinity(0))
  try:
    quota, period = pathlib.Path(CPU_QUOTA).read_text().split()  # microseconds
  except OSError:  # no control group of its own, or cgroup v1
    return cores
  return cores if quota == 'max' else max(min(cores, int(quota) // int(period)), 1)


def prepare_environment() -> None:
  """Prepares this process, and through its environment the workers that it starts."""
  process.prepare()
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  os.environ['PYTHONPATH'] = os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])


def kill_workers() -> None:
  """Kills all descendants of this process. Beam would first let them finish their shards."""
  for pid in list(_descendants(os.getpid())):
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
  """Yields the PIDs of all descendants of a process, from /proc."""
  for listing in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    for child in map(int, listing.read_text().split()):
      yield child
      yield from _descendants(child)
