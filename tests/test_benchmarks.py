"""The programs behind the README's figures, each at its smallest size."""

import datetime
import glob
import json
import pathlib
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from benchmarks import machine
from tests.train_kit import ROOT, run_trainer

SMALL = '--validation_examples=500'  # leaves 4,000 of the small set's images to train on
SMALLEST = '--validation_examples=3500'


def measured(module: str, *flags: str) -> dict:
  """Runs the program as a user does, checks its books, and returns what it printed."""
  command = [sys.executable, '-m', module, *flags]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  (line,) = result.stdout.splitlines()
  found = json.loads(line)
  check_machine(found['machine'])
  return found


def refused(module: str, *flags: str) -> str:
  """Returns the last line of what a program says to flags that it does not take."""
  command = [sys.executable, '-m', module, *flags]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert (result.returncode, result.stdout) == (2, '')
  return result.stderr.splitlines()[-1]


def check_machine(found: dict) -> None:
  listed = set(pathlib.Path('/proc/cpuinfo').read_text().split())
  assert found['avx2'] == ('avx2' in listed)
  assert found['avx512'] == ('avx512f' in listed)
  assert found['avx512_bf16'] == ('avx512_bf16' in listed)
  assert found['amx'] == ('amx_bf16' in listed)
  assert found['kind']
  assert found['cpu']
  assert found['cores'] >= 1
  assert found['versions']['tensorflow'].startswith('2.')
  age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(found['date'])
  assert abs(age) < datetime.timedelta(days=1)


@pytest.fixture(scope='module')
def short_run(small_tfds_dir, shared) -> pathlib.Path:
  """The workdir of a finished run of seed 0, one epoch of the small set."""
  flags = (f'--data_dir={small_tfds_dir}', '--epochs=1', SMALL)
  return shared('short-run', lambda workdir: train(workdir, *flags))


def train(workdir: pathlib.Path, *flags: str) -> None:
  result = run_trainer(f'--workdir={workdir}', *flags)
  assert result.returncode == 0, result.stderr


# --- the programs --------------------------------------------------------------------------------


def test_train(small_tfds_dir):
  found = measured(
    'benchmarks.train',
    f'--data_dir={small_tfds_dir}',
    '--rounds=1',
    '--our_epochs=1',
    '--max_epochs=1',
    SMALLEST,
  )
  ours, notebook = found['images_per_second'], found['notebook_images_per_second']
  assert ours > 0
  assert notebook > 0
  assert found['speedups'] == [found['speedup']]
  assert found['speedup'] == pytest.approx(ours / notebook, rel=0.01)
  assert 2**28 < found['peak_rss_bytes'] < 2**34
  assert found['seconds_to_seed_accuracy'] is None  # an epoch of 1,000 images does not get there
  assert found['notebook_seconds_to_seed_accuracy'] is None
  assert found['precision'] in ('float32', 'mixed_bfloat16', 'mixed_float16')
  assert found['regime']['rounds'] == 1


def test_checkpoint(small_tfds_dir):
  flags = (f'--data_dir={small_tfds_dir}', '--rounds=1', '--steps=1', SMALLEST)
  found = measured('benchmarks.checkpoint', *flags)
  assert found['costs'] == [found['cost']]
  assert found['cost'] > -1  # saving takes no less than no time
  assert found['checkpoint_seconds'] > 0
  assert found['regime']['steps_between'] == 1


def test_seeds_take_a_finished_run_and_train_the_others(small_tfds_dir, short_run, tmp_path):
  found = measured(
    'benchmarks.seeds',
    f'--data_dir={small_tfds_dir}',
    f'--output={tmp_path}',
    f'--finished={short_run}',
    *('--seeds', '0', '1'),
    '--epochs=1',
    SMALL,
  )
  assert [path.name for path in tmp_path.iterdir()] == ['1']  # seed 0 was there
  runs = [json.loads((path / 'metrics.json').read_text()) for path in (short_run, tmp_path / '1')]
  accuracies = [run['test_accuracy'] for run in runs]
  assert found['test_accuracy']['each'] == accuracies
  assert found['test_accuracy']['mean'] == pytest.approx(sum(accuracies) / 2, abs=1e-5)
  deviation = abs(accuracies[0] - accuracies[1]) / 2**0.5
  assert found['test_accuracy']['deviation'] == pytest.approx(deviation, abs=1e-5)
  assert all(0.1 < value <= 1 for value in found['val_accuracy']['each'])
  assert found['regime']['epochs'] == 1
  assert found['regime']['git_commits'] == sorted({str(run['git_commit']) for run in runs})


def test_seeds_refuse_a_finished_run_of_other_settings(short_run, tmp_path):
  """Both are there already, so nothing is trained: the second differs in its length."""
  other = tmp_path / 'other'
  other.mkdir()
  metrics = json.loads((short_run / 'metrics.json').read_text())
  (other / 'metrics.json').write_text(json.dumps({**metrics, 'seed': 1, 'epochs': 2}))
  flags = ('--data_dir=none', f'--output={tmp_path}', f'--finished={short_run}')
  said = refused('benchmarks.seeds', *flags, f'--finished={other}', '--seeds', '0', '1')
  assert f'{other}: has epochs 2, seed 0 has 1' in said


def test_collection(small_tfds_dir, tmp_path):
  """1,500 pictures of 1,000: they repeat."""
  found = measured(
    'benchmarks.collection',
    f'--data_dir={small_tfds_dir}',
    '--format=parquet',
    '--images=1500',
    '--shards=2',
    f'--output={tmp_path}',
  )
  assert (found['format'], found['images']) == ('parquet', 1500)
  tables = [pq.read_table(path) for path in glob.glob(found['input'])]
  assert [table.num_rows for table in tables] == [750, 750]


def test_collection_refuses_more_files_than_images(tmp_path):
  flags = ('--data_dir=none', '--format=tar', f'--output={tmp_path}')
  said = refused('benchmarks.collection', *flags, '--images=3', '--shards=4')
  assert said.endswith('--shards 4: pass 1 to 3, so that each file has an image')


@pytest.mark.slow
def test_score(small_tfds_dir, short_run):
  found = measured(
    'benchmarks.score',
    f'--data_dir={small_tfds_dir}',
    f'--model={short_run}/export/1',
    '--images=3000',
    '--shards=2',
  )
  for way, rates in found['images_per_second_by_size'].items():
    assert rates['3000'] is None or rates['3000'] > 0  # None: starting took longer than all of it
    assert found['start_up_seconds'][way] > 0
    assert 2**27 < found['peak_rss_bytes'][way]['3000'] < 2**34
  assert list(found['images_per_second_by_size']) == ['stock', 'bare', 'ours']
  check_ratio(found, 'speedup_over_stock', 'stock_runinference_images_per_second')
  check_ratio(found, 'speedup_over_bare', 'bare_loop_images_per_second')
  accuracy = json.loads((short_run / 'metrics.json').read_text())['test_accuracy']
  assert found['agreement']['accuracy'] == pytest.approx(accuracy, abs=0.005)
  assert found['agreement']['class_agreement_with_float32'] > 0.99
  assert found['agreement']['largest_probability_difference'] < 0.2
  assert found['regime']['images'] == [3000]


def check_ratio(found: dict, name: str, rival: str) -> None:
  if found['images_per_second'] and found[rival]:
    assert found[name] == pytest.approx(found['images_per_second'] / found[rival], rel=1e-3)
  else:
    assert found[name] is None


def test_score_refuses_fewer_images_than_time_the_start_up():
  said = refused('benchmarks.score', '--model=none', '--data_dir=none', '--images', '1000')
  assert '--images 1000: the start-up alone is timed over 1024, 64 per file' in said


@pytest.mark.slow
def test_peers(small_tfds_dir, short_run):
  found = measured(
    'benchmarks.peers',
    f'--data_dir={small_tfds_dir}',
    f'--model={short_run}/export/1',
    '--images=2000',
    '--shards=2',
  )
  assert list(found['speedup']) == ['spark', 'ray', 'stock']
  for way, rate in found['images_per_second'].items():
    assert rate is None or rate > 0
    assert found['start_up_seconds'][way] > 0
    assert 2**27 < found['peak_rss_bytes'][way] < 2**34
  assert all(same > 0.99 for same in found['same_class'].values())


@pytest.mark.slow
def test_photos(small_tfds_dir, short_run):
  flags = (f'--data_dir={small_tfds_dir}', f'--model={short_run}/export/1', '--photos=1')
  found = measured('benchmarks.photos', *flags)
  for kind, rates in found['photos_per_cpu_second'].items():
    assert found['speedup_over_full_decode'][kind] == pytest.approx(
      rates['ours'] / rates['full'], rel=0.01
    )
  assert found['photos'] == len(found['photos_per_cpu_second']) == 8
  assert found['same_class_as_full_decode'].keys() == {'ours', 'draft'}


# --- the machine ---------------------------------------------------------------------------------

KINDS = {
  'x86_64': 'sse4_2',
  'avx2': 'sse4_2 avx2',
  'avx512': 'sse4_2 avx2 avx512f',
  'avx512-bf16': 'sse4_2 avx2 avx512f avx512_bf16',
  'amx': 'sse4_2 avx2 avx512f avx512_bf16 amx_bf16',
}


@pytest.mark.parametrize('kind', KINDS)
def test_kind(kind, monkeypatch):
  monkeypatch.setattr(machine.platform, 'machine', lambda: 'x86_64')
  cpuinfo = f'model name\t: A Processor\nflags\t\t: fpu {KINDS[kind]} sse\n\nflags\t\t: none\n'
  found = machine.instruction_sets(cpuinfo)
  assert machine.kind(found, []) == kind
  assert machine.kind(found, ['A GPU']) == f'{kind}-gpu'


def test_kind_names_the_folder_of_results():
  command = [sys.executable, '-m', 'benchmarks.machine', '--kind']
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  assert result.stdout.split() == [machine.facts()['kind']]
