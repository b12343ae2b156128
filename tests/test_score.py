"""The scorer, end to end: real files, a really trained SavedModel, Beam's own runner."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from benchmarks import collection
from tests import reader_kit
from tests import score_kit as kit

MULTIPROCESS = '--direct_running_mode=multi_processing'


@pytest.fixture(scope='session')
def collections(tfds_dir, tmp_path_factory):
  """The --input of the 10,000 test images in any format."""
  home = tmp_path_factory.mktemp('collections')
  made: dict[str, str] = {}

  def get(kind: str) -> str:
    if kind not in made:
      made[kind] = collection.write(
        tfds_dir, kind, 10_000, str(home / kind), shards=2 if kind == 'tar' else 1
      )
    return made[kind]

  return get


@pytest.fixture(scope='session')
def few(tfds_dir, tmp_path_factory) -> str:
  """3,000 test images in two TFRecord files."""
  return collection.write(tfds_dir, 'tfrecord', 3000, str(tmp_path_factory.mktemp('few')), shards=2)


@pytest.fixture(scope='session')
def reference(exported, collections, tmp_path_factory) -> pathlib.Path:
  """The output for the test images in TFRecord, in float32."""
  output = tmp_path_factory.mktemp('reference') / 'scored'
  kit.score(exported, collections('tfrecord'), output, '--precision=float32')
  return output


@pytest.mark.slow
@pytest.mark.parametrize('kind', collection.FORMATS)
def test_every_format_gives_the_trainers_accuracy_and_the_same_predictions(
  kind, collections, exported, metrics, reference, tmp_path
):
  summary = kit.score(exported, collections(kind), tmp_path / 'out', '--precision=float32')
  assert summary['input_format'] == ('image' if kind == 'png' else kind.split('.')[0])
  assert summary['images_scored'] == 10_000
  labels, probabilities = kit.by_number(tmp_path / 'out')
  expected_labels, expected_probabilities = kit.by_number(reference)
  np.testing.assert_array_equal(labels, expected_labels)
  np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-5)
  if kind == 'png':  # whose labels are only in the folders' names
    assert summary['accuracy'] is None
    summary = kit.score(
      exported, collections(kind), tmp_path / 'labelled', '--label_from=directory'
    )
  assert summary['images_labelled'] == 10_000
  assert summary['accuracy'] == metrics['test_accuracy']
  assert np.trace(summary['confusion_matrix']['counts']) == round(metrics['test_accuracy'] * 10_000)


@pytest.mark.slow
def test_a_tfds_directory_scores_as_it_is(tfds_dir, exported, metrics, reference, tmp_path):
  shard = next(pathlib.Path(tfds_dir).glob('fashion_mnist/*/*-test.tfrecord*'))
  (tmp_path / 'tfds').mkdir()
  for path in (shard, *shard.parent.glob('*.json')):
    os.link(path, tmp_path / 'tfds' / path.name)
  summary = kit.score(exported, tmp_path / 'tfds', tmp_path / 'out', '--precision=float32')
  assert summary['accuracy'] == metrics['test_accuracy']
  ids = kit.predictions(tmp_path / 'out')['id'].to_pylist()
  assert ids[-1] == f'{tmp_path}/tfds/{shard.name}#9999'


@pytest.mark.slow
def test_bfloat16_gives_float32s_classes(collections, exported, metrics, reference, tmp_path):
  summary = kit.score(exported, collections('tfrecord'), tmp_path / 'out', '--precision=bfloat16')
  labels, probabilities = kit.by_number(tmp_path / 'out')
  exact_labels, exact_probabilities = kit.by_number(reference)
  assert (labels == exact_labels).mean() >= 0.999
  assert np.abs(probabilities - exact_probabilities).max() < 0.1
  assert summary['precision'] == 'bfloat16'
  assert 0 < summary['images_rescored'] < 2000


@pytest.mark.slow
def test_the_command_in_many_processes_writes_the_same_files_every_time(few, exported, tmp_path):
  for name in ('one', 'two'):
    result = kit.score_outside(exported, few, tmp_path / name, '--chunk_images=1000')
    assert result.returncode == 0, result.stderr
    assert '3,000 images scored, 0 rejected' in result.stdout
    kit.check_books(tmp_path / name)
    assert (tmp_path / name / '_SUCCESS').exists()
  assert len(kit.file_bytes(tmp_path / 'one', 'predictions')) == 4
  assert kit.file_bytes(tmp_path / 'one', 'predictions') == kit.file_bytes(
    tmp_path / 'two', 'predictions'
  )


@pytest.mark.slow
def test_workers_and_threads_do_not_change_a_byte(few, exported, tmp_path):
  written = []
  for name, workers in (
    ('two', 2),
    ('one', 1),
  ):  # one process scores on as many threads as there are cores
    result = kit.score_outside(exported, few, tmp_path / name, f'--direct_num_workers={workers}')
    assert result.returncode == 0, result.stderr
    written.append(kit.file_bytes(tmp_path / name, 'predictions'))
  assert written[0] == written[1]


def kill_all(process: subprocess.Popen) -> None:
  os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stop', 'code'), [(kill_all, -signal.SIGKILL), (subprocess.Popen.terminate, 75)]
)
def test_a_stopped_run_resumes_with_every_id_exactly_once(
  stop, code, collections, exported, reference, tmp_path
):
  output = tmp_path / 'out'
  flags = ('--chunk_images=250', '--precision=float32')
  command = kit.command(exported, collections('tfrecord'), output, *flags)
  process = subprocess.Popen(
    command, cwd=kit.ROOT, start_new_session=True, stderr=subprocess.DEVNULL
  )
  while len(written := list(output.glob('predictions/*.parquet'))) < 3:
    assert process.poll() is None, 'the run ended before it could be stopped'
    time.sleep(0.01)
  workers = psutil.Process(process.pid).children(recursive=True)
  stop(process)
  assert process.wait() == code
  assert not [
    worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
  ]
  assert not (output / '_SUCCESS').exists()
  before = {path: path.stat().st_mtime_ns for path in written}
  result = kit.score_outside(exported, collections('tfrecord'), output, *flags, '--resume')
  assert result.returncode == 0, result.stderr
  assert (output / '_SUCCESS').exists()
  kit.check_books(output)
  np.testing.assert_array_equal(kit.by_number(output)[0], kit.by_number(reference)[0])
  assert {path: path.stat().st_mtime_ns for path in written} == before, (
    'a finished chunk was written again'
  )


def test_a_run_resumes_within_a_shard(few, exported, tmp_path):
  whole, part = tmp_path / 'whole', tmp_path / 'part'
  archive = _tar_of(few, tmp_path / 'few.tar')
  flags = ('--chunk_images=500', '--precision=float32')
  first = kit.score(exported, archive, whole, *flags)
  kit.score(exported, archive, part, *flags)
  expected = kit.file_bytes(part, 'predictions')
  for name in (
    'part-00000-000002',
    'part-00000-000004',
  ):  # what follows a missing chunk is done again
    (part / 'predictions' / f'{name}.parquet').unlink()
  (part / '_SUCCESS').unlink()
  again = kit.score(exported, archive, part, *flags, '--resume')
  assert kit.file_bytes(part, 'predictions') == expected
  differing = {key for key in first if first[key] != again[key]}
  assert differing <= {'wall_seconds', 'images_per_second', 'stage_seconds'}
  assert (part / '_SUCCESS').exists()


def _tar_of(pattern: str, path: pathlib.Path) -> pathlib.Path:
  import glob

  from batch import chunk, source

  rows = []
  for uri in sorted(glob.glob(pattern)):
    for columns in source.read(chunk.Shard(0, 'tfrecord', uri), 0, reader_kit.settings()):
      rows += [
        (int(i[5:]), png, label)
        for i, png, label in zip(columns.ids, columns.encoded, columns.labels)
      ]
  collection.write_tar(str(path), iter(rows))
  return path


def test_a_repeated_chunk_writes_the_same_bytes_in_the_same_place(few, exported, tmp_path):
  from batch import flags, infer, main, pipeline, source
  from images import model_card

  argv = [f'--model={exported}', f'--input={few}', f'--output={tmp_path / "out"}']
  settings = flags.check(main.parse(argv)[0])
  card = model_card.read(settings.model)
  shard = source.plan([few], 'auto', settings).shards[0]
  handler = infer.Handler(settings.model, 'float32', 512, 1)
  read = next(pipeline.Read(settings).process(shard))
  (decoded,) = pipeline.Decode(settings, card).process(read)
  (scored,) = handler.run_inference(decoded, handler.load_model())
  left = []
  for _ in range(2):
    list(pipeline.Write(settings, card).process(scored))
    left.append(
      {folder: kit.file_bytes(tmp_path / 'out', folder) for folder in ('predictions', 'counts')}
    )
  assert left[0] == left[1]
  assert list(left[0]['predictions']) == ['part-00000-000000.parquet']


def test_pandas_and_duckdb_read_the_output_as_it_stands(few, exported, tmp_path):
  import duckdb
  import pandas as pd

  summary = kit.score(exported, few, tmp_path / 'out', '--top_k=3', '--chunk_images=700')
  frame = pd.read_parquet(tmp_path / 'out' / 'predictions')
  assert list(frame.columns) == ['id', 'label', 'label_index', 'confidence', 'probabilities', 'model_version',
                                 'top_labels', 'top_probabilities']  # fmt: skip
  assert (str(frame.label_index.dtype), str(frame.confidence.dtype)) == ('int8', 'float32')
  assert frame.label.value_counts().to_dict() == {k: v for k, v in summary['by_label'].items() if v}
  assert set(frame.model_version) == {summary['model_version']}
  assert all(
    row.top_labels[0] == row.label and len(row.top_labels) == 3 for row in frame.itertuples()
  )
  np.testing.assert_allclose(np.stack(frame.probabilities).sum(axis=1), 1, atol=0.02)
  query = f"select label, count(*), max(confidence), min(len(probabilities)) from '{tmp_path}/out/predictions/*.parquet' group by label"  # noqa: S608, E501
  rows = duckdb.sql(query).fetchall()
  assert {label: count for label, count, _, _ in rows} == {
    k: v for k, v in summary['by_label'].items() if v
  }
  assert all(0.1 <= confidence <= 1 and length == 10 for _, _, confidence, length in rows)


def test_jsonl_says_the_same_as_parquet(few, exported, tmp_path):
  kit.score(exported, few, tmp_path / 'parquet')
  from batch import main

  main.run(
    [
      f'--model={exported}',
      f'--input={few}',
      f'--output={tmp_path / "jsonl"}',
      '--output_format=jsonl',
      *kit.IN_PROCESS,
    ]
  )
  paths = sorted((tmp_path / 'jsonl' / 'predictions').glob('*.jsonl'))
  rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
  assert rows == kit.predictions(tmp_path / 'parquet').to_pylist()


def test_too_many_rejects_fail_the_job_after_everything_good_is_written(
  few, exported, tmp_path, capsys
):
  import shutil

  from batch import main

  shutil.copytree(os.path.dirname(few), tmp_path / 'in')
  path = tmp_path / 'in' / 'test-00001-of-00002.tfrecord'
  path.write_bytes(path.read_bytes()[:300_000])
  argv = [
    f'--model={exported}',
    f'--input={tmp_path}/in/*',
    f'--output={tmp_path}/out',
    *kit.IN_PROCESS,
  ]
  assert main.cli([*argv, '--max_reject_fraction=0.0001']) == 3
  assert '1 of 20' in (told := capsys.readouterr().err)
  assert '--max_reject_fraction=0.0001' in told
  assert told.count('\n') == 1
  kit.check_books(tmp_path / 'out')
  assert kit.predictions(tmp_path / 'out').num_rows > 1900
  assert not (tmp_path / 'out' / '_SUCCESS').exists()
  assert main.cli([*argv, '--resume', '--max_reject_fraction=0.01']) == 0
  assert (tmp_path / 'out' / '_SUCCESS').exists()


def test_an_output_directory_is_one_runs_only(few, exported, tmp_path, capsys):
  from batch import main

  argv = [f'--model={exported}', f'--input={few}', f'--output={tmp_path}/out', *kit.IN_PROCESS]
  assert main.cli(argv) == 0
  before = kit.file_bytes(tmp_path / 'out', 'predictions')
  for flags, expected in (
    ([], 'already holds'),
    (['--resume', '--chunk_images=10'], "'chunk_images': 10"),
    (['--resume', '--preprocess=photo'], 'photo'),
  ):
    assert main.cli([*argv, *flags]) == 64
    error = capsys.readouterr().err
    assert expected in error
    assert '--overwrite' in error
    assert error.count('\n') == 1
  assert kit.file_bytes(tmp_path / 'out', 'predictions') == before
  assert main.cli([*argv, '--overwrite', '--chunk_images=500']) == 0
  assert len(kit.file_bytes(tmp_path / 'out', 'predictions')) == 6
  (tmp_path / 'out' / 'thesis.txt').write_text('years of work')
  assert main.cli([*argv, '--overwrite']) == 64
  assert 'thesis.txt' in capsys.readouterr().err
  assert (tmp_path / 'out' / 'thesis.txt').read_text() == 'years of work'


def test_counters_have_units_and_count_images(few, exported, tmp_path):
  import apache_beam as beam

  from batch import flags, main, pipeline, source
  from images import model_card

  own, rest = main.parse(
    [f'--model={exported}', f'--input={few}', f'--output={tmp_path}/out', *kit.IN_PROCESS]
  )
  settings = flags.check(own)
  options, threads = main.beam_options(rest)
  card = model_card.read(settings.model)
  plan = source.plan(own.input, 'auto', settings)
  job = pipeline.Job(settings, card, main.describe(own, plan, card), time.time(), threads, 1.0)
  beam_pipeline = beam.Pipeline(options=options)
  pipeline.build(beam_pipeline, plan.shards, job)
  result = beam_pipeline.run()
  result.wait_until_finish()
  found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace('lookbook'))
  counters = {counter.key.metric.name: counter.committed for counter in found['counters']}
  assert counters['images_seen'] == counters['images_scored'] == counters['num_inferences'] == 3000
  assert counters['images_rejected'] == 0
  assert counters['encoded_bytes'] > 3000 * 100
  assert all(counters[f'{stage}_msec'] > 0 for stage in ('read', 'decode', 'infer', 'write'))
  assert {d.key.metric.name for d in found['distributions']} >= {
    'inference_request_batch_size',
    'load_model_latency_milli_secs',
  }


def test_a_batch_that_does_not_fit_is_halved(exported):
  import tensorflow as tf

  from batch import infer

  model = infer.Model(str(exported), 'float32', 512)
  pixels = np.random.default_rng(0).integers(0, 256, (700, 28, 28, 1), np.uint8)
  expected, _ = model.probabilities(pixels)
  whole, sizes = model.signature, []

  def small(pixels):
    sizes.append(len(pixels))
    if len(pixels) > 100:
      raise tf.errors.ResourceExhaustedError(None, None, 'out of memory')
    return whole(pixels=pixels)

  model.signature = small
  found, _ = model.probabilities(pixels)
  assert sizes[:4] == [512, 256, 128, 64]
  assert set(sizes[3:-1]) == {64}
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_report_opens_and_says_what_the_summary_does(few, exported, browser, tmp_path):
  summary = kit.score(exported, few, tmp_path / 'out')
  page, errors = browser.new_page(), []
  page.on('console', lambda message: errors.append(message.text))
  page.on('requestfailed', lambda request: errors.append(request.url))
  page.goto((tmp_path / 'out' / 'report.html').as_uri())
  assert page.text_content('#accuracy') == f'{100 * summary["accuracy"]:.2f} %'
  widths = page.evaluate('[...document.images].map(image => image.naturalWidth)')
  assert len(widths) == 24
  assert set(widths) == {28}
  assert not errors
  external = page.evaluate(
    "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length"
  )
  assert external == 0
  page.close()


def test_help_needs_neither_beam_nor_tensorflow():
  code = 'import sys, batch.main as m\ntry: m.cli(["--help"])\nexcept SystemExit: pass\nprint("apache_beam" in sys.modules, "tensorflow" in sys.modules)'  # noqa: E501
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=kit.ROOT, capture_output=True, text=True, check=True
  )
  assert '--max_pixels PIXELS' in result.stdout
  assert result.stdout.endswith('False False\n')


def test_beams_options_pass_through_and_the_default_runner_needs_no_download():
  from apache_beam.options.pipeline_options import (
    DirectOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
  )

  from batch import main

  cores = len(os.sched_getaffinity(0))
  options, threads = main.beam_options([])
  assert options.view_as(StandardOptions).runner.endswith('.FnApiRunner')
  assert options.view_as(DirectOptions).direct_num_workers == cores
  assert options.view_as(DirectOptions).direct_running_mode == 'multi_processing'
  assert threads == 1
  options, threads = main.beam_options(
    ['--direct_num_workers', '1', '--machine_type=n2-standard-4']
  )
  assert (options.view_as(DirectOptions).direct_num_workers, threads) == (1, cores)
  assert options.view_as(WorkerOptions).machine_type == 'n2-standard-4'
  options, threads = main.beam_options(
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
  from batch import main

  (tmp_path / 'cpu.max').write_text(share + '\n')
  monkeypatch.setattr(main, 'CONTAINER_CPU', str(tmp_path / 'cpu.max'))
  assert main.available_cores() == (cores or len(os.sched_getaffinity(0)))


def test_progress_adds_up_chunks_and_tells_the_time_left(tmp_path):
  from batch import progress

  now = [0.0]
  (tmp_path / 'counts').mkdir()
  put = lambda name, seen, bad: (tmp_path / 'counts' / name).write_text(
    json.dumps({'images_seen': seen, 'images_rejected': bad})
  )
  put('part-0.json', 1000, 0)  # of the run that this one resumes
  shown = progress.Progress(str(tmp_path), 10_000, clock=lambda: now[0])
  put('part-1.json', 2000, 7)
  put('part-2.json', 2000, 0)
  now[0] = 20.0
  shown.update()
  assert shown.line() == '5,000 images of 10,000, 200 images/s, 7 rejected, 0:25 left'


def test_the_stability_index_tells_a_collection_like_the_training_set_from_another(
  few, exported, tmp_path
):
  from batch import chunk, source, summary

  assert summary.stability_index([0.5, 0.5], [30, 30]) == 0
  assert summary.stability_index([0.5, 0.5], [75, 25]) == pytest.approx(0.25 * np.log(3))
  assert summary.stability_index((), [1, 2]) is None
  assert summary.stability_index([0.5, 0.5], [0, 0]) is None

  found = kit.score(exported, few, tmp_path / 'like')['stability_index']
  assert 0 <= found['pixels'] < 0.1
  assert 0 <= found['classes'] < 0.1
  (columns,) = source.read(
    chunk.Shard(0, 'tfrecord', few.replace('*', '00000-of-00002')), 0, _settings(exported, few)
  )
  for number, label in enumerate(columns.labels):
    if label == 8:
      (tmp_path / f'{number}.png').write_bytes(columns.encoded[number])
  found = kit.score(exported, tmp_path / '*.png', tmp_path / 'bags')['stability_index']
  assert found['classes'] > 0.25


def _settings(exported, few):
  from batch import flags, main

  return flags.check(main.parse([f'--model={exported}', f'--input={few}', '--output=out'])[0])
