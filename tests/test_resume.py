"""Runs that are killed, stopped, damaged or blown up, each with real processes."""

import json
import pathlib
import random
import re
import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tests.resume_kit import (
  FLAGS,
  KILLS,
  arguments,
  assert_ends_as,
  files_of,
  final_weights,
  kill_after_progress,
  newest_step,
  start,
)
from tests.train_kit import run_trainer, step_losses, write_image_folder
from trainer import (
  agreement,
  checkpoint,
  config,
  data,
  datasets,
  evaluate,
  failures,
  fit,
  history,
  loop,
  signals,
)


class TestKilled:
  def kill_and_finish(self, workdir, small_tfds_dir, times: int, *flags: str) -> None:
    randomness = random.Random(0)
    killed = 0
    for _ in range(times):
      process = start(workdir, small_tfds_dir, '--checkpoint_every_steps=1', *flags)
      killed += kill_after_progress([process], workdir, randomness.uniform(0, 0.3))
    assert killed == times, 'the run ended before it was killed often enough'
    process = start(workdir, small_tfds_dir, '--checkpoint_every_steps=1', *flags)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert 'resuming from step' in said

  def test_once_ends_with_the_same_weights(self, undisturbed, small_tfds_dir, tmp_path):
    self.kill_and_finish(tmp_path, small_tfds_dir, 1)
    assert_ends_as(tmp_path, undisturbed)

  @pytest.mark.slow
  def test_often_ends_with_the_same_weights(self, undisturbed, small_tfds_dir, tmp_path):
    self.kill_and_finish(tmp_path, small_tfds_dir, KILLS)
    assert_ends_as(tmp_path, undisturbed)

  @pytest.mark.slow
  def test_with_two_replicas_ends_with_the_same_weights(self, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path / "whole"}', f'--data_dir={small_tfds_dir}', *FLAGS, '--replicas=2'
    )
    assert result.returncode == 0, result.stderr
    self.kill_and_finish(tmp_path / 'killed', small_tfds_dir, KILLS, '--replicas=2')
    assert_ends_as(tmp_path / 'killed', tmp_path / 'whole')

  @pytest.mark.slow
  def test_reading_from_a_disk_ends_with_the_weights_of_one_from_memory(self, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', images=700)
    flags = ('--dataset=folder', f'--source={source}', '--epochs=6')
    result = run_trainer(f'--workdir={tmp_path / "whole"}', *FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    self.kill_and_finish(tmp_path / 'killed', str(tmp_path / 'data'), KILLS, *flags)
    assert list(tmp_path.glob('data/prepared/*/pixels'))
    assert_ends_as(tmp_path / 'killed', tmp_path / 'whole')

  @pytest.mark.slow
  def test_after_the_last_step_ends_with_the_same_model_and_report(
    self, undisturbed, small_tfds_dir, tmp_path
  ):
    for sign in ('checkpoints/step-0000000064.ckpt', 'export/1/saved_model.pb'):
      process = start(tmp_path, small_tfds_dir)
      while not (tmp_path / sign).exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
      process.kill()
      process.communicate()
      assert not (tmp_path / 'metrics.json').exists()
    result = run_trainer(f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert result.returncode == 0, result.stderr
    assert_ends_as(tmp_path, undisturbed)
    assert files_of(tmp_path) == files_of(undisturbed)


class TestStopped:
  def test_sigterm_saves_and_the_next_run_goes_on_at_that_step(
    self, undisturbed, small_tfds_dir, tmp_path
  ):
    step, said = stop_at(16, tmp_path, small_tfds_dir, '--checkpoint_every_steps=16')
    assert f'stopped by SIGTERM at step {step}' in said
    result = run_trainer(f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert f'resuming from step {step} of 64' in result.stderr
    assert_ends_as(tmp_path, undisturbed)


def train_in_process(workdir: pathlib.Path) -> history.History:
  """Trains two epochs of two steps, each validated in three calls."""
  random = np.random.default_rng(0)
  pixels, labels = random.integers(0, 256, (1100, 16, 16, 1), np.uint8), np.arange(1100) % 2
  train, validation = data.Examples(pixels[:16], labels[:16]), data.Examples(pixels, labels)
  dataset = datasets.Dataset('x', 'x', (16, 16, 1), ('a', 'b'), {}, lambda _: train, False, 'x')
  recipe = config.Recipe(precision='float32', global_batch_size=8, epochs=2)
  strategy = tf.distribute.get_strategy()
  trainer = fit.Trainer(strategy, recipe, dataset, train)
  options, agreed = config.LoopOptions(), agreement.Agreement(strategy)
  return loop.Loop(trainer, validation, str(workdir), str(workdir), options, agreed).run()


class TestStoppedInAValidation:
  TIMED = ('images_per_second', 'train_seconds')

  @pytest.mark.parametrize('calls', [2, pytest.param(6, marks=pytest.mark.slow)])
  def test_the_next_run_begins_with_it_and_ends_alike(self, calls, tmp_path, monkeypatch):
    deferred, predict = signals.deferred, evaluate.Predictor.predict
    told: list[Callable[[signal.Signals], None]] = []
    made = 0

    def keep(stop, can_save):
      told.append(stop)
      return deferred(stop, can_save)

    def count_and_tell(predictor, pixels):
      nonlocal made
      for part in predict(predictor, pixels):
        made += 1
        if made == calls:
          told[-1](signal.SIGTERM)
        yield part

    with monkeypatch.context() as patch:
      patch.setattr(signals, 'deferred', keep)
      patch.setattr(evaluate.Predictor, 'predict', count_and_tell)
      step = 2 * -(-calls // 3)
      with pytest.raises(failures.Failure, match=f'SIGTERM at step {step}; rerun') as stopped:
        train_in_process(tmp_path / 'stopped')
    assert (stopped.value.code, made) == (75, calls)
    assert newest_step(tmp_path / 'stopped') == step
    resumed, whole = (train_in_process(tmp_path / name) for name in ('stopped', 'whole'))
    assert final_weights(tmp_path / 'stopped') == final_weights(tmp_path / 'whole')
    assert step_losses(tmp_path / 'stopped') == step_losses(tmp_path / 'whole')
    for row in (*resumed.rows, *whole.rows):
      for name in self.TIMED:
        del row[name]
    assert resumed.rows == whole.rows
    for mine, theirs in zip(resumed.best_weights, whole.best_weights, strict=True):
      np.testing.assert_array_equal(mine, theirs)


def stop_at(step: int, workdir: pathlib.Path, small_tfds_dir: str, *flags: str) -> tuple[int, str]:
  """Runs until there is a checkpoint of `step` or later, and sends SIGTERM.

  Returns:
    the step of its last checkpoint, and its standard error.
  """
  process = start(workdir, small_tfds_dir, *flags)
  while newest_step(workdir) < step:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate()
  assert process.returncode == 75, said
  return newest_step(workdir), said


@pytest.mark.slow
class TestStoppedAndChanged:
  def test_a_flipped_byte_costs_one_checkpoint_and_no_exactness(
    self, undisturbed, small_tfds_dir, tmp_path
  ):
    stop_at(10, tmp_path, small_tfds_dir, '--checkpoint_every_steps=1')
    newest = max((tmp_path / 'checkpoints').iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 1
    newest.write_bytes(content)
    result = run_trainer(f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert result.returncode == 0, result.stderr
    assert re.search(rf'skipping a damaged checkpoint.*{newest.name}', result.stderr)
    assert_ends_as(tmp_path, undisturbed)

  def test_the_number_of_replicas_may_change_on_the_way(
    self, undisturbed, small_tfds_dir, tmp_path
  ):
    step, _ = stop_at(10, tmp_path, small_tfds_dir, '--checkpoint_every_steps=10')
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS, '--replicas=2'
    )
    assert result.returncode == 0, result.stderr
    assert f'resuming from step {step} of 64' in result.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['replicas'] == 2
    assert_ends_as(tmp_path, undisturbed)


@pytest.fixture(scope='module')
def finished(small_tfds_dir, shared) -> pathlib.Path:
  """Returns the workdir of a finished run of one epoch."""

  def train(workdir: pathlib.Path) -> None:
    result = run_trainer(*arguments(workdir, small_tfds_dir, '--epochs=1'))
    assert result.returncode == 0, result.stderr

  return shared('one-epoch', train)


@pytest.fixture
def one_epoch(finished, tmp_path) -> pathlib.Path:
  """Returns a copy of it, which may be changed."""
  return pathlib.Path(shutil.copytree(finished, tmp_path / 'run'))


class TestDamaged:
  @pytest.mark.parametrize('damage', ['flipped', 'cut', 'empty'])
  def test_the_checkpoint_before_is_used_with_a_warning(self, damage, tmp_path, caplog):
    states = [
      {'step': np.array(step), 'variable/000': np.full(1000, step, np.float32)} for step in (10, 20)
    ]
    for state in states:
      checkpoint.save(str(tmp_path), state, keep=3)
    newest = tmp_path / 'step-0000000020.ckpt'
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(
      {'flipped': bytes(content), 'cut': bytes(content)[:500], 'empty': b''}[damage]
    )
    found = checkpoint.newest(str(tmp_path))
    assert int(found['step']) == 10
    assert 'step-0000000020.ckpt' in caplog.text

  def test_any_flipped_bit_is_noticed(self, tmp_path):
    checkpoint.save(str(tmp_path), {'step': np.array(1), 'x': np.arange(5)}, keep=1)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for position in range(len(content)):
      path.write_bytes(
        content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
      )
      assert checkpoint.newest(str(tmp_path)) is None, position

  @pytest.mark.parametrize('keep', [1, 2])
  def test_one_does_not_count_among_those_that_are_kept(self, keep, tmp_path):
    for step in (50, 100):
      checkpoint.save(str(tmp_path), {'step': np.array(step)}, keep)
    for path in tmp_path.iterdir():
      path.write_bytes(b'damaged')
    assert checkpoint.newest(str(tmp_path)) is None
    for step in (0, 25):
      checkpoint.save(str(tmp_path), {'step': np.array(step)}, keep)
      assert int(checkpoint.newest(str(tmp_path))['step']) == step
    left = [f'step-{step:010}.ckpt' for step in (0, 25)][-keep:]
    assert sorted(path.name for path in tmp_path.iterdir()) == left

  def test_only_the_newest_are_kept(self, tmp_path):
    for step in range(5):
      checkpoint.save(str(tmp_path), {'step': np.array(step)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
      'step-0000000003.ckpt',
      'step-0000000004.ckpt',
    ]


class TestLength:
  def test_a_finished_run_may_be_made_longer_but_not_shorter(self, one_epoch, small_tfds_dir):
    result = run_trainer(*arguments(one_epoch, small_tfds_dir, '--epochs=2'))
    assert result.returncode == 0, result.stderr
    assert 'resuming from step 32 of 64' in result.stderr
    assert json.loads((one_epoch / 'metrics.json').read_text())['epochs'] == 2
    assert [step for step, _ in step_losses(one_epoch)] == list(range(1, 65))
    result = run_trainer(*arguments(one_epoch, small_tfds_dir, '--epochs=1'))
    assert result.returncode == 64
    assert '--epochs=1: the run is at epoch 2' in result.stderr


class TestDataset:
  def test_another_one_is_refused_by_name(self, one_epoch, tmp_path_factory):
    source = write_image_folder(tmp_path_factory.mktemp('pictures'), images=250)
    flags = ('--dataset=folder', f'--source={source}')
    result = run_trainer(f'--workdir={one_epoch}', *flags, *FLAGS)
    assert result.returncode == 64
    assert '--dataset=fashion_mnist (now folder)' in result.stderr

  def test_a_workdir_from_before_there_were_others_resumes(self, one_epoch, small_tfds_dir):
    settings = json.loads((one_epoch / 'settings.json').read_text())
    assert settings.pop('dataset') == 'fashion_mnist'
    (one_epoch / 'settings.json').write_text(json.dumps(settings))
    result = run_trainer(f'--workdir={one_epoch}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert result.returncode == 0, result.stderr
    assert 'resuming from step 32 of 64' in result.stderr

  def test_the_label_smoothing_of_an_older_workdir_is_kept(self, one_epoch, small_tfds_dir):
    settings = json.loads((one_epoch / 'settings.json').read_text())
    assert settings.pop('label_smoothing') == 0.05
    (one_epoch / 'settings.json').write_text(json.dumps(settings))
    result = run_trainer(f'--workdir={one_epoch}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert result.returncode == 64
    assert 'contains a run with --label_smoothing=0.0 (now 0.05)' in result.stderr


class TestBlowUp:
  BLOWN = ('--learning_rate=1e30', '--checkpoint_every_steps=1')

  def test_stops_naming_step_rate_and_checkpoint(self, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS, *self.BLOWN
    )
    assert result.returncode == 70
    assert re.search(r'step \d+.*learning rate \S+; last good checkpoint: step \d+', result.stderr)
    assert 'Traceback' not in result.stderr
    state = checkpoint.newest(str(tmp_path / 'checkpoints'))
    assert all(np.isfinite(array).all() for array in state.values())

  def test_rolls_back_three_times_with_half_the_rate(self, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}',
      f'--data_dir={small_tfds_dir}',
      *FLAGS,
      *self.BLOWN,
      '--on_nonfinite=rollback',
    )
    assert result.returncode == 70
    assert result.stderr.count('returning to it with half the learning rate') == 3
    assert 'rolled back 3 times already' in result.stderr
