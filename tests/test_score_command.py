"""The scorer's command: help, Beam's options, cores, counters, progress and failures."""

import os
import pathlib
import subprocess
import sys
import time

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import (
  DirectOptions,
  SetupOptions,
  StandardOptions,
  WorkerOptions,
)

from batch import (
  chunk,
  file_list,
  finishing,
  flags,
  labels,
  main,
  pipeline,
  progress,
  runner,
  source,
)
from images import model_card
from tests import model_kit, pictures
from tests import score_kit as kit


def test_counters_have_units_and_count_images(few, exported, tmp_path):
  argv = kit.flags_for(exported, few, tmp_path / 'out', *kit.IN_PROCESS)
  args, beam_flags = main.parse(argv)
  settings = flags.to_settings(args)
  options, threads = runner.beam_options(beam_flags)
  card = model_card.read(settings.model)
  plan = source.plan(args.input, 'auto', settings)
  facts = main.run_facts(args, plan, card)
  context = finishing.RunContext(settings, card, facts, time.time(), threads, 1.0, len(plan.shards))
  beam_pipeline = beam.Pipeline(options=options)
  blocks = file_list.store(plan.shards, range(len(plan.shards)), settings.output)
  pipeline.build(beam_pipeline, blocks, [], context)
  result = beam_pipeline.run()
  result.wait_until_finish()
  found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace('lookbook'))
  counters = {counter.key.metric.name: counter.committed for counter in found['counters']}
  assert counters['images_seen'] == counters['images_scored'] == counters['num_inferences'] == 3000
  assert counters['images_rejected'] == 0
  assert counters['encoded_bytes'] > 3000 * 100
  assert all(
    counters[f'{stage}_msec'] > 0 for stage in ('read', 'decode', 'infer', 'write', 'finish')
  )
  assert {d.key.metric.name for d in found['distributions']} >= {
    'inference_request_batch_size',
    'load_model_latency_milli_secs',
  }


def test_help_needs_neither_beam_nor_tensorflow():
  code = (
    'import sys, batch.main as m\n'
    'try: m.cli(["--help"])\n'
    'except SystemExit: pass\n'
    'print("apache_beam" in sys.modules, "tensorflow" in sys.modules)'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=kit.ROOT, capture_output=True, text=True, check=True
  )
  assert '--max_pixels PIXELS' in result.stdout
  assert result.stdout.endswith('False False\n')


def test_beams_options_pass_through_and_the_default_runner_needs_no_download():
  cores = len(os.sched_getaffinity(0))
  options, threads = runner.beam_options([])
  assert options.view_as(StandardOptions).runner.endswith('.FnApiRunner')
  assert options.view_as(DirectOptions).direct_num_workers == cores
  assert options.view_as(DirectOptions).direct_running_mode == 'multi_processing'
  assert threads == 1
  options, threads = runner.beam_options(
    ['--direct_num_workers', '1', '--machine_type=n2-standard-4']
  )
  assert (options.view_as(DirectOptions).direct_num_workers, threads) == (1, cores)
  assert options.view_as(WorkerOptions).machine_type == 'n2-standard-4'
  options, threads = runner.beam_options(
    ['--runner', 'FlinkRunner', '--setup_file=./setup.py', '--parallelism=8']
  )
  assert options.view_as(StandardOptions).runner == 'FlinkRunner'
  assert options.view_as(SetupOptions).setup_file == './setup.py'
  assert (
    options.view_as(DirectOptions).direct_running_mode == 'in_memory'
  )  # Beam's own default, as it was
  assert threads == 1  # the runner says how many processes there are


@pytest.mark.parametrize(
  ('share', 'cores'), [('150000 100000', 1), ('50000 100000', 1), ('max 100000', None)]
)
def test_a_container_gets_as_many_processes_as_its_share_of_the_cores(
  share, cores, tmp_path, monkeypatch
):
  (tmp_path / 'cpu.max').write_text(share + '\n')
  monkeypatch.setattr(runner, 'CPU_QUOTA', str(tmp_path / 'cpu.max'))
  assert runner.available_cores() == (cores or len(os.sched_getaffinity(0)))


def test_progress_adds_up_chunks_and_estimates_the_time_left(tmp_path):
  now = [0.0]

  def put(name: str) -> None:
    path = tmp_path / 'chunks' / f'{name}.arrow'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

  put('00000/000000-1000-1000-01234567-last')  # of the run that this one resumes
  shown = progress.Progress(str(tmp_path), 10_000, clock=lambda: now[0])
  put('00001/000000-2000-1993-01234567')
  put('00001/000001-2000-2000-01234567-last')
  put('00001/.000002-2000-2000-01234567.arrow-being-written')
  now[0] = 20.0
  shown.update()
  assert shown.line() == '5,000 images of 10,000, 200 images/s, 7 rejected, 0:25 left'


def unscorable(home: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
  """Returns a model whose weights are missing, an image, and an output directory."""
  model_kit.export_model(home / 'model')
  (variables,) = home.glob('model/variables/variables.data-*')
  variables.write_bytes(b'')
  (home / 'a.png').write_bytes(pictures.noise_pngs(1)[0])
  return home / 'model', home / 'a.png', home / 'out'


def test_a_failed_job_is_one_line_and_its_traceback_only_if_asked(tmp_path, capsys):
  argv = kit.flags_for(*unscorable(tmp_path), *kit.IN_PROCESS)
  assert main.cli(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('lookbook-score: the job failed: IndexError: Read less bytes')
  assert line.endswith('rerun with --resume to continue after the last completed chunk')
  assert main.cli([*argv, '--resume', '--verbose']) == 1
  shown = capsys.readouterr().err.splitlines()
  assert 'Traceback (most recent call last):' in shown
  assert shown[-1] == line


def test_a_name_of_several_lines_is_escaped(tmp_path, capsys):
  model_kit.export_model(tmp_path / 'model')
  pq.write_table(pa.table({'two\nlines': [1]}), tmp_path / 'a.parquet')
  paths = (tmp_path / 'model', tmp_path / 'a.parquet', tmp_path / 'out')
  assert main.cli(kit.flags_for(*paths, *kit.IN_PROCESS)) == 64
  (line,) = capsys.readouterr().err.splitlines()
  assert 'has no column of images, only two\\nlines; name one' in line


def test_a_failed_worker_process_is_one_line_too(tmp_path):
  result = kit.score_outside(*unscorable(tmp_path))
  assert result.returncode == 1
  *before, line = result.stderr.splitlines()
  assert line.startswith('lookbook-score: the job failed: IndexError: Read less bytes')
  assert all('images/s' in each for each in before)  # progress, if it takes half a minute


@pytest.mark.parametrize(
  ('error', 'expected'),
  [
    (OSError('disk full\nsecond line'), 'OSError: disk full'),
    (KeyError(), 'KeyError: '),
    (
      RuntimeError(
        'failed: Traceback (most recent call last):\n  File "a.py"\nA: 1\n\nDuring the '
        'handling:\n\nTraceback (most recent call last):\n  File "b.py"\n    ^^^\nB: 2\n\tat x'
      ),
      'B: 2',
    ),
  ],
)
def test_the_root_cause_is_the_last_error_of_a_workers_traceback(error, expected):
  assert main.root_cause(error) == expected


def test_labels_are_names_or_indices_of_the_models_labels():
  index = labels.LabelIndex(['T-shirt/top', 'Bag', '7'])
  given = ['Bag', b'Bag ', 'T-shirt-top', 'T-shirt_top', 1, '2', 7, 3, 'Hat', -2, None, '', -1]
  unknown, none = chunk.UNKNOWN_LABEL, chunk.NO_LABEL
  expected = [1, 1, 0, 0, 1, 2, 2, *[unknown] * 3, none, none, none]
  assert index.to_indices(given, len(given)).tolist() == expected
  assert index.to_indices(None, 2).tolist() == [none, none]
