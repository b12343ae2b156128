"""Scores image collections of any size with an exported model, on this machine or any Beam runner.

python -m batch.main --model=runs/seed/export/1 --input='pictures/**/*.png' --output=scored
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import app

from batch import arguments, closing, exit_codes, flags, names, runner
from images import model_card
from runtime import process, text
from storage import files

if TYPE_CHECKING:
  from batch import fork_server, source

RESUME = 'rerun with --resume to continue after the last completed chunk'
# Flags that a resumed run must repeat. Their values are part of settings.json and summary.json.
FIXED_FLAGS = (
  'output_format',
  'preprocess',
  'background',
  'precision',
  'max_pixels',
  'chunk_images',
  'rows_per_file',
  'top_k',
  'label_from',
  'image_column',
  'id_column',
  'label_column',
  'label_map',
  'label_offset',
  'carry',
  'root',
)


class TooManyRejects(Exception):
  """A larger fraction of the images was rejected than the user allows."""


def run(args: argparse.Namespace, beam_flags: Sequence[str]) -> dict[str, Any] | None:
  """Scores a collection and returns the content of summary.json; None if it is only submitted.

  Args:
    args: the scorer's flags.
    beam_flags: all other flags.

  Raises:
    app.UsageError: the flags, model, input or output are invalid. Nothing has been written.
    TooManyRejects: everything is written, but more than --max_reject_fraction was rejected.
  """
  started = time.time()
  settings = flags.to_settings(args)
  with runner.start_fork_server(beam_flags, args.verbose) as server:
    return _score(args, settings, beam_flags, server, started)


def _score(
  args: argparse.Namespace,
  settings: flags.Settings,
  beam_flags: Sequence[str],
  server: 'fork_server.ForkServer | None',
  started: float,
) -> dict[str, Any] | None:
  # Beam takes two seconds to import: --help and most mistakes do without.
  with process.without_garbage_collection():
    from batch import file_list, finishing, forked_workers, labels, pipeline, progress, sink, source

  options, threads = runner.beam_options(beam_flags)
  if server:
    forked_workers.start_from(server)
  with files.as_usage_error('--model'):
    card = model_card.read(settings.model)
  settings = flags.fit_model(settings, card)
  label_map = labels.read_map(settings.label_map, card.labels) if settings.label_map else None
  with files.as_usage_error('--input'):
    plan = source.plan(args.input, args.input_format, settings)
  facts = {**run_facts(args, plan, card), 'label_map': label_map}
  root = runner.create_pipeline(options)
  with files.as_usage_error(f'--output={settings.output}: cannot be written'):
    found = sink.claim(settings.output, facts, args.overwrite, args.resume)
    left = sink.left_of(len(plan.shards), settings.output, settings.output_format, found)
    blocks = file_list.store(plan.shards, left.shards, settings.output)
  limit, count = args.max_reject_fraction, len(plan.shards)
  began = None if runner.is_template(options) else started
  context = finishing.RunContext(
    settings, card, facts, began, threads, limit, count, plan.passed_over, left.scored
  )
  with progress.shown(settings.output, plan.images), root:
    pipeline.build(root, blocks, plan.ranges_of(left.shards), context)
  if runner.is_submission(options):
    return None
  summary = json.loads(files.read(files.join(settings.output, sink.SUMMARY)))
  _check_rejects(summary, settings.output, args.max_reject_fraction)
  return summary


def run_facts(
  args: argparse.Namespace, plan: 'source.Plan', card: model_card.ModelCard
) -> dict[str, Any]:
  """Returns the identity of a run: a resumed run must match all of it."""
  return {
    'model': names.exact(args.model),
    'model_version': card.version,
    'input': [names.exact(pattern) for pattern in args.input],
    'input_format': plan.format,
    'input_bytes': plan.bytes,
    'input_fingerprint': plan.fingerprint,
    'settings': {name: _exact(getattr(args, name)) for name in FIXED_FLAGS},
  }


def _exact(value: Any) -> Any:
  return names.exact(value) if isinstance(value, str) else value


def _check_rejects(summary: dict[str, Any], output: str, max_fraction: float) -> None:
  if summary['reject_fraction'] > max_fraction:
    raise TooManyRejects(
      f'{summary["images_rejected"]} of {summary["images_seen"]} images were rejected, more than '
      f'--max_reject_fraction={max_fraction}; {output}/rejects has the reasons, '
      'all other images are scored'
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the scorer's own flags, and all others, which are Beam's.

  Raises:
    app.UsageError: a value is invalid.
  """
  parser = arguments.Parser(
    prog='lookbook-score',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    epilog="All of Beam's options pass through: --runner=FlinkRunner, --direct_num_workers=4 etc.",
  )
  arguments.add_arguments(parser)
  return parser.parse_known_args(list(argv))


def cli(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit code, one of `exit_codes`.

  An error is one line, the last on stderr.
  """
  runner.prepare_environment()
  # Process 1 of a container receives only signals that it handles.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _stop)
  try:
    args, beam_flags = parse(sys.argv[1:] if argv is None else argv)
    _configure_logging(args.verbose)
    summary = run(args, beam_flags)
  except app.UsageError as error:
    return _fail(str(error), exit_codes.USAGE)
  except TooManyRejects as error:
    return _fail(str(error), exit_codes.TOO_MANY_REJECTS)
  except files.Unavailable as error:
    return _fail(str(error), exit_codes.FAILED)
  except Exception as error:  # of a worker or a file system
    if args.verbose:
      traceback.print_exc()
    return _fail(f'the job failed: {root_cause(error)}; {RESUME}', exit_codes.FAILED)
  print(closing.lines(summary, args.output) if summary else closing.submitted(args.output))
  return exit_codes.DONE


def _configure_logging(verbose: bool) -> None:
  """Logs the scorer's progress, and Beam's errors, which are tracebacks, only if `verbose`."""
  logging.basicConfig(level=logging.WARNING, format='%(message)s')
  logging.getLogger('batch').setLevel(logging.INFO)
  logging.getLogger('apache_beam').setLevel(logging.ERROR if verbose else logging.CRITICAL)


def _fail(message: str, exit_code: int) -> int:
  print(f'lookbook-score: {text.one_line(message)}', file=sys.stderr, flush=True)
  return exit_code


def _stop(number: int, _) -> None:
  """Ends this process and its workers at once: the handler of SIGTERM and Ctrl-C."""
  code = exit_codes.INTERRUPTED if number == signal.SIGINT else exit_codes.STOPPED
  _fail(f'stopped by {signal.Signals(number).name}; {RESUME}', code)
  runner.kill_workers()
  os._exit(code)


def root_cause(error: Exception) -> str:
  """Returns one line: the error, or the one that a worker's traceback in its message ends with."""
  _, traceback_begin, said = str(error).rpartition('Traceback (most recent call last):\n')
  if traceback_begin:
    return next((line for line in said.splitlines() if line[:1].strip()), type(error).__name__)
  return f'{type(error).__name__}: {(said.splitlines() or [""])[0]}'


if __name__ == '__main__':
  sys.exit(cli())
