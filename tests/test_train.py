"""A training: its outputs, and that it is deterministic."""

import csv
import functools
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from tests.train_kit import file_contents, run_command, run_trainer, step_losses, weights_sha256

# 16 steps of the small set
SMALL = ('--validation_examples=500', '--epochs=1', '--global_batch_size=250')


class TestARun:
  def test_reports_what_it_measured(self, trained, metrics):
    assert metrics['parameters'] == 241_546
    assert metrics['test_accuracy'] > 0.85
    assert metrics['val_accuracy'] > 0.85
    assert metrics['images_per_second'] == pytest.approx(2 * 210 * 256 / metrics['train_seconds'])
    assert (metrics['model'], metrics['replicas']) == ('seed', 1)
    assert re.fullmatch('[0-9a-f]{40}', metrics['git_commit'])
    assert set(metrics['versions']) >= {'python', 'tensorflow', 'tensorflow-datasets'}

  def test_its_precision_and_recall_are_those_of_the_confusion_matrix(self, metrics):
    confusion = np.array(metrics['confusion'])
    assert confusion.sum(axis=1).tolist() == [1000] * 10
    assert np.trace(confusion) / 10_000 == metrics['test_accuracy']
    for i, figures in enumerate(metrics['per_class'].values()):
      assert figures['recall'] == confusion[i, i] / 1000
      assert figures['precision'] == confusion[i, i] / confusion[:, i].sum()

  def test_leaves_a_row_per_epoch_and_a_loss_per_step(self, trained, metrics):
    rows = list(csv.DictReader((trained / 'history.csv').open()))
    assert [(row['epoch'], row['step']) for row in rows] == [('1', '210'), ('2', '420')]
    assert max(float(row['val_accuracy']) for row in rows) == metrics['val_accuracy']
    losses = step_losses(trained)
    assert [step for step, _ in losses] == list(range(1, 421))
    assert np.mean([loss for _, loss in losses[210:]]) == pytest.approx(
      float(rows[1]['train_loss']), rel=1e-5
    )

  def test_leaves_no_half_written_file(self, trained):
    assert sorted(path.name for path in trained.iterdir()) == [
      'checkpoints',
      'export',
      'history.csv',
      'keras',
      'metrics.json',
      'report',
      'settings.json',
      'tensorboard',
    ]
    assert [path.name for path in (trained / 'export').iterdir()] == ['1']
    assert [path.name for path in (trained / 'keras').iterdir()] == ['model.keras']
    assert sorted(path.name for path in (trained / 'report').iterdir()) == [
      'curves.png',
      'mistakes.png',
      'reliability.png',
      'report.html',
      'samples.png',
    ]

  def test_run_again_says_that_it_is_finished_and_changes_nothing(
    self, trained, tfds_dir, tmp_path
  ):
    workdir = shutil.copytree(trained, tmp_path / 'run')
    result = run_trainer(f'--workdir={workdir}', f'--data_dir={tfds_dir}', '--epochs=2')
    assert result.returncode == 0
    assert 'the finished run' in result.stderr
    assert file_contents(workdir) == file_contents(trained)


@pytest.fixture(scope='module')
def small(small_tfds_dir, shared) -> pathlib.Path:
  """A small run of one replica in float32."""

  def train(workdir: pathlib.Path) -> None:
    flags = (f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *SMALL)
    result = run_trainer(*flags, '--precision=float32')
    assert result.returncode == 0, result.stderr

  return shared('small', train)


class TestRepeating:
  @pytest.mark.parametrize(
    'all_reduce',
    [
      'auto',
      *(
        pytest.param(name, marks=pytest.mark.slow) for name in ('hierarchical', 'reduction_to_one')
      ),
    ],
  )
  def test_two_replicas_end_with_the_weights_of_one(
    self, all_reduce, small, small_tfds_dir, tmp_path
  ):
    flags = ('--precision=float32', '--replicas=2', f'--all_reduce={all_reduce}')
    result = run_trainer(f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, *flags)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['replicas'] == 2
    one, two = step_losses(small), step_losses(tmp_path)
    assert [step for step, _ in two] == list(range(1, 17))
    assert two == one
    assert weights_sha256(tmp_path) == weights_sha256(small)

  def test_one_seed_gives_the_same_bits(self, small, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=float32'
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) == weights_sha256(small)

  def test_the_number_of_cores_does_not_change_a_bit(self, small, small_tfds_dir, tmp_path):
    core = min(os.sched_getaffinity(0))
    result = run_command(
      f'--workdir={tmp_path}',
      f'--data_dir={small_tfds_dir}',
      *SMALL,
      '--precision=float32',
      preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) == weights_sha256(small)

  @pytest.mark.slow
  def test_one_seed_gives_the_same_bits_in_bfloat16_on_two_replicas(self, small_tfds_dir, tmp_path):
    # eight steps; processors without such numbers take long for each
    flags = ('--precision=mixed_bfloat16', '--replicas=2', '--validation_examples=2500')
    for name in ('first', 'second'):
      result = run_trainer(
        f'--workdir={tmp_path / name}', f'--data_dir={small_tfds_dir}', *SMALL, *flags
      )
      assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path / 'first') == weights_sha256(tmp_path / 'second')

  @pytest.mark.slow
  def test_another_seed_gives_others(self, small, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}',
      f'--data_dir={small_tfds_dir}',
      *SMALL,
      '--precision=float32',
      '--seed=1',
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) != weights_sha256(small)

  @pytest.mark.slow
  def test_the_best_network_ends_with_the_same_weights_too(self, small_tfds_dir, tmp_path):
    # eight steps
    flags = (*SMALL, '--validation_examples=2500', '--model=best', '--precision=float32')
    for replicas in (1, 2):
      workdir = tmp_path / str(replicas)
      result = run_trainer(
        f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *flags, f'--replicas={replicas}'
      )
      assert result.returncode == 0, result.stderr
    losses = [loss for _, loss in step_losses(tmp_path / '1')]
    assert losses[-1] < losses[0]
    assert weights_sha256(tmp_path / '1') == weights_sha256(tmp_path / '2')

  @pytest.mark.slow
  def test_float16_trains_with_its_loss_scaled(self, small_tfds_dir, tmp_path, small):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=mixed_float16'
    )
    assert result.returncode == 0, result.stderr
    half, full = (np.array([loss for _, loss in step_losses(path)]) for path in (tmp_path, small))
    assert half[-4:].mean() < half[:4].mean()
    np.testing.assert_allclose(half[:3], full[:3], rtol=0.02)
