"""Scores image collections of any size with an exported model, on this machine or any Beam runner.

python -m batch.main --model=runs/seed/export/1 --input='pictures/**/*.png' --output=scored
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import app

from batch import flags
from runtime import process
from storage import files

if TYPE_CHECKING:
  from apache_beam.options.pipeline_options import PipelineOptions

LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'  # "DirectRunner" would download another
CONTAINER_CPU = '/sys/fs/cgroup/cpu.max'


def run(argv: Sequence[str]) -> dict[str, Any]:
  """Scores what the flags say and returns what summary.json holds.

  Raises:
    app.UsageError: the flags, the model, the input or the output will not do. Nothing has been written.
    TooManyRejects: everything is written, and more was rejected than --max_reject_fraction allows.
  """
  own, beam_flags = parse(argv)
  settings = flags.check(own)
  started = time.time()

  import apache_beam as beam  # two seconds that --help does not need, nor most mistakes

  from batch import pipeline, progress, sink, source
  from images import model_card

  options, threads = beam_options(beam_flags)
  with files.as_usage_error('--model'):
    card = model_card.read(settings.model)
  with files.as_usage_error('--input'):
    plan = source.plan(own.input, own.input_format, settings)
  facts = describe(own, plan, card)
  with files.as_usage_error(f'--output={settings.output}: cannot be written'):
    sink.claim(settings.output, facts, own.overwrite, own.resume)
  job = pipeline.Job(settings, card, facts, started, threads, own.max_reject_fraction)
  shown = (
    progress.shown(settings.output, plan.images)
    if files.is_local(settings.output)
    else contextlib.nullcontext()
  )
  with shown, beam.Pipeline(options=options) as beam_pipeline:
    pipeline.build(beam_pipeline, plan.shards, job)
  summary = json.loads(files.read(files.join(settings.output, sink.SUMMARY)))
  if summary['reject_fraction'] > own.max_reject_fraction:
    raise TooManyRejects(
      f'{summary["images_rejected"]} of {summary["images_seen"]} images were rejected, more than '
      f'--max_reject_fraction={own.max_reject_fraction}; {settings.output}/rejects says why, the rest is scored'
    )
  return summary


class TooManyRejects(Exception):
  """More images were rejected than the user allows."""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """The scorer's own flags, and the rest, which are Beam's."""
  parser = argparse.ArgumentParser(
    prog='lookbook-score',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    epilog="All of Beam's options pass through: --runner=FlinkRunner, --direct_num_workers=4, and so on.",
  )
  flags.add(parser)
  return parser.parse_known_args(list(argv))


def beam_options(argv: Sequence[str]) -> tuple['PipelineOptions', int]:
  """Beam's options, and on how many threads each process scores.

  Without --runner: a local one, in as many processes as there are cores, each with one thread. An engine decides by
  itself how many processes there are: one thread each.

  Raises:
    app.UsageError: a flag is neither the scorer's nor Beam's.
  """
  from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

  stray = [
    arg
    for before, arg in zip(['', *argv], argv)
    if not (arg.startswith('--') or _awaits_value(before))
  ]
  if stray:
    raise app.UsageError(f'{stray[0]} is not a flag; pass inputs as --input={stray[0]}')
  options = PipelineOptions(list(argv))
  if options.view_as(StandardOptions).runner:
    return options, 1
  every = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler='resolve')
  for kind in PipelineOptions.__subclasses__():
    kind._add_argparse_args(every)  # type: ignore[arg-type]  # Beam's own parser adds what these do not use
  unknown = [arg for arg in every.parse_known_args(list(argv))[1] if arg.startswith('--')]
  if unknown:
    raise app.UsageError(
      f"{unknown[0]} is neither a flag of the scorer nor of Beam; --help lists the scorer's"
    )
  given = {arg[2:].split('=')[0] for arg in argv if arg.startswith('--')}
  cores = available_cores()
  defaults = {'direct_num_workers': str(cores), 'direct_running_mode': 'multi_processing'}
  added = [f'--{name}={value}' for name, value in defaults.items() if name not in given]
  options = PipelineOptions([*argv, f'--runner={LOCAL_RUNNER}', *added])
  direct = options.view_as(DirectOptions)
  processes = (
    (direct.direct_num_workers or cores) if direct.direct_running_mode == 'multi_processing' else 1
  )
  return options, max(cores // processes, 1)


def available_cores() -> int:
  """How many cores this process may keep busy: those it may run on, or its container's share where that is less."""
  cores = len(os.sched_getaffinity(0))
  try:
    quota, period = pathlib.Path(CONTAINER_CPU).read_text().split()  # microseconds
  except OSError:  # no cgroup of its own, or an old kernel's
    return cores
  return cores if quota == 'max' else max(min(cores, int(quota) // int(period)), 1)


def _awaits_value(arg: str) -> bool:
  return arg.startswith('--') and '=' not in arg


def describe(own: argparse.Namespace, plan: Any, card: Any) -> dict[str, Any]:
  """What makes this run another than the next: whoever resumes it has to ask for the same."""
  same = ('output_format', 'preprocess', 'precision', 'max_pixels', 'chunk_images', 'top_k', 'label_from',
          'image_column', 'id_column', 'label_column', 'carry')  # fmt: skip
  return {
    'model': own.model,
    'model_version': card.version,
    'input': own.input,
    'input_format': plan.format,
    'input_bytes': plan.bytes,
    'input_fingerprint': plan.fingerprint,
    'settings': {name: getattr(own, name) for name in same},
  }


def cli(argv: Sequence[str] | None = None) -> int:
  """The command: 0, or 64 for bad flags, 3 for too many rejects, 75 when stopped, 1 for a job that failed."""
  logging.basicConfig(level=logging.WARNING, format='%(message)s')
  logging.getLogger('batch').setLevel(logging.INFO)
  logging.getLogger('apache_beam').setLevel(logging.ERROR)
  process.prepare()  # workers inherit the environment
  os.environ['PYTHONPATH'] = os.pathsep.join(
    [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.environ.get('PYTHONPATH', '')]
  )
  argv = sys.argv[1:] if argv is None else argv
  signal.signal(
    signal.SIGTERM, _stop
  )  # process 1 of a container gets no signal that it does not handle
  try:
    summary = run(argv)
    gc.freeze()  # or the end looks through all that was imported for garbage
  except app.UsageError as error:
    print(f'lookbook-score: {error}', file=sys.stderr)
    return flags.EXIT_USAGE
  except TooManyRejects as error:
    print(f'lookbook-score: {error}', file=sys.stderr)
    return flags.EXIT_REJECTS
  except files.Unavailable as error:
    print(f'lookbook-score: {error}', file=sys.stderr)
    return 1
  except Exception:  # of a worker or a file system: what is finished is on disk
    traceback.print_exc()
    print(
      'lookbook-score: the job failed, as above; --resume continues after what is written',
      file=sys.stderr,
    )
    return 1
  print(tell(summary, parse(argv)[0].output))
  return 0


def _stop(*_) -> None:
  """Ends this process and its workers at once; Beam's own way out would wait for the shards under way."""
  print(
    'lookbook-score: stopped by SIGTERM; --resume continues after what is written',
    file=sys.stderr,
    flush=True,
  )
  for pid in list(_descendants(os.getpid())):
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  os._exit(flags.EXIT_STOPPED)


def _descendants(pid: int) -> Iterator[int]:
  """The processes that one started, and those that they did, as Linux lists them."""
  for listing in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    for child in map(int, listing.read_text().split()):
      yield child
      yield from _descendants(child)


def tell(summary: dict[str, Any], output: str) -> str:
  """The summary in a few lines."""
  lines = [
    f'{summary["images_scored"]:,} images scored, {summary["images_rejected"]:,} rejected, in '
    f'{summary["wall_seconds"]:.1f} s ({summary["images_per_second"]:,.0f} images/s, start-up included)'
  ]
  if summary['accuracy'] is not None:
    lines.append(
      f'accuracy on {summary["images_labelled"]:,} labelled images: {summary["accuracy"]:.4f}'
    )
  return '\n'.join([*lines, f'report: {output.rstrip("/")}/report.html'])


if __name__ == '__main__':
  sys.exit(cli())
