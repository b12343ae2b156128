"""The scorer, end to end: real files, a really trained SavedModel, Beam's own runner."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import psutil
import pytest
import tensorflow as tf

from batch import infer, main
from benchmarks import collection
from tests import score_kit as kit


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
    flags = ('--chunk_images=1000', '--rows_per_file=1000')
    result = kit.score_outside(exported, few, tmp_path / name, *flags)
    assert result.returncode == 0, result.stderr
    assert '3,000 images scored, 0 rejected' in result.stdout
    kit.check_books(tmp_path / name)
    assert (tmp_path / name / '_SUCCESS').exists()
  assert len(kit.file_bytes(tmp_path / 'one', 'predictions')) == 3
  assert kit.file_bytes(tmp_path / 'one', 'predictions') == kit.file_bytes(
    tmp_path / 'two', 'predictions'
  )


@pytest.mark.slow
def test_workers_and_threads_do_not_change_a_byte(few, exported, tmp_path):
  written = []
  # One process scores on as many threads as there are cores.
  for name, workers in (('two', 2), ('one', 1)):
    result = kit.score_outside(exported, few, tmp_path / name, f'--direct_num_workers={workers}')
    assert result.returncode == 0, result.stderr
    written.append(kit.file_bytes(tmp_path / name, 'predictions'))
  assert written[0] == written[1]


def kill_all(process: subprocess.Popen) -> None:
  os.killpg(process.pid, signal.SIGKILL)


def interrupt_all(process: subprocess.Popen) -> None:
  """Does what a terminal does on Ctrl-C."""
  os.killpg(process.pid, signal.SIGINT)


def wait_until_gone(workers: list[psutil.Process]) -> None:
  """Returns once all have ended, which takes the kernel a moment after their SIGKILL."""
  while any(map(is_alive, workers)):
    time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
  try:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:  # it ended between the two
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
  ('stop', 'code'),
  [(kill_all, -signal.SIGKILL), (subprocess.Popen.terminate, 75), (interrupt_all, 130)],
)
def test_a_stopped_run_resumes_with_every_id_exactly_once(
  stop, code, collections, exported, reference, tmp_path
):
  output = tmp_path / 'out'
  flags = ('--chunk_images=250', '--precision=float32')
  command = kit.command(exported, collections('tfrecord'), output, *flags)
  with open(tmp_path / 'stderr', 'w') as stderr:
    process = subprocess.Popen(command, cwd=kit.ROOT, start_new_session=True, stderr=stderr)
  while len(kit.chunks(output)) < 3:
    assert process.poll() is None, 'the run ended before it could be stopped'
    time.sleep(0.01)
  workers = psutil.Process(process.pid).children(recursive=True)
  stop(process)
  assert process.wait() == code
  wait_until_gone(workers)
  said = (tmp_path / 'stderr').read_text()
  assert 'Traceback' not in said
  assert ('rerun with --resume' in said) == (code > 0)
  assert not (output / '_SUCCESS').exists()
  assert not (output / 'predictions').exists()
  result = kit.score_outside(exported, collections('tfrecord'), output, *flags, '--resume')
  assert result.returncode == 0, result.stderr
  assert (output / '_SUCCESS').exists()
  kit.check_books(output)
  np.testing.assert_array_equal(kit.by_number(output)[0], kit.by_number(reference)[0])
  summary = json.loads((output / 'summary.json').read_text())
  now = summary['images_scored_by_this_run']
  assert now < summary['images_scored']
  assert f'{now:,} of them by this run' in result.stdout


class Disk:
  """Fails after as many changes of files as are left."""

  def __init__(self, patch: pytest.MonkeyPatch):
    self.left = sys.maxsize
    for name in ('replace', 'unlink'):
      patch.setattr(os, name, self.counted(getattr(os, name)))

  def counted(self, change):
    def call(*args, **kwargs):
      if not str(args[0]).startswith('/proc'):
        self.left -= 1
      if self.left < 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
      return change(*args, **kwargs)

    return call


def test_a_run_that_fails_again_and_again_ends_as_a_calm_one(
  tfds_dir, exported, tmp_path, monkeypatch
):
  calm, output = tmp_path / 'calm', tmp_path / 'out'
  archive = collection.write(tfds_dir, 'tar', 3000, str(tmp_path / 'archive'))
  (path,) = (tmp_path / 'archive').glob('*.tar')
  with tarfile.open(path, 'a') as added:
    added.addfile(tarfile.TarInfo('empty.png'))
  flags = ('--chunk_images=500', '--rows_per_file=1500', '--precision=float32')
  first = kit.score(exported, archive, calm, *flags)
  argv = kit.flags_for(exported, archive, output, *flags, *kit.IN_PROCESS)
  disk, seen, moments = Disk(monkeypatch), {}, 0
  while True:
    disk.left = 2 + moments // 2
    code = main.cli([*argv, '--resume'])
    disk.left = sys.maxsize
    for folder in ('predictions', 'rejects'):
      if (output / folder).exists():
        assert kit.file_bytes(output, folder).items() <= kit.file_bytes(calm, folder).items()
    if code == 0:
      break
    assert code == 1
    found = {path: path.stat().st_ino for path in output.rglob('[!.]*') if path.is_file()}
    assert all(seen.get(path, inode) == inode for path, inode in found.items())
    seen |= found
    moments += 1
  assert moments > 6
  assert len(kit.file_bytes(calm, 'predictions')) == 3
  for folder in ('predictions', 'rejects'):
    assert kit.file_bytes(output, folder) == kit.file_bytes(calm, folder)
  again = json.loads((output / 'summary.json').read_text())
  assert kit.without_timings(first) == kit.without_timings(again)
  kit.check_books(output)
  assert (output / '_SUCCESS').exists()
  assert not (output / 'chunks').exists()


def test_a_batch_that_does_not_fit_is_halved(exported):
  model = infer.Model(str(exported), 'float32', 512)
  pixels = np.random.default_rng(0).integers(0, 256, (700, 28, 28, 1), np.uint8)
  expected, _ = model.probabilities(pixels)
  whole, sizes = model.signature, []

  def limited(pixels):
    sizes.append(len(pixels))
    if len(pixels) > 100:
      raise tf.errors.ResourceExhaustedError(None, None, 'out of memory')
    return whole(pixels=pixels)

  model.signature = limited
  found, _ = model.probabilities(pixels)
  assert sizes[:4] == [512, 256, 128, 64]
  assert set(sizes[3:-1]) == {64}
  np.testing.assert_allclose(found, expected, atol=1e-5)
