"""Runs that are killed, stopped, damaged or blown up, each with real processes."""

import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.ports import free_ports
from tests.train_kit import (
  CACHE,
  ROOT,
  run_trainer,
  step_losses,
  unpacked_libraries,
  write_image_folder,
)
from trainer import checkpoint

# Of several replicas or hosts; 20 take five minutes more.
KILLS = int(os.environ.get('LOOKBOOK_KILLS', '4'))
# 64 steps of 124 of the small set's images, validated twice.
FLAGS = (
  '--validation_examples=500',
  '--epochs=2',
  '--global_batch_size=124',
  '--precision=float32',
)


def final_weights(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns model, average and optimizer, bit for bit, after the last step."""
  state = checkpoint.newest(str(workdir / 'checkpoints'))
  return {
    name: array.tobytes() for name, array in state.items() if name.startswith('variable/')
  } | {'step': int(state['step'])}


def start(
  workdir: pathlib.Path, small_tfds_dir: str, *flags: str, inside: tuple = (), **kwargs
) -> subprocess.Popen:
  command = [
    *inside,
    sys.executable,
    '-m',
    'trainer.main',
    f'--workdir={workdir}',
    f'--data_dir={small_tfds_dir}',
    *FLAGS,
    *flags,
  ]
  return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **kwargs)


def newest_step(workdir: pathlib.Path) -> int:
  return max(
    (int(path.stem.split('-')[1]) for path in workdir.glob('checkpoints/step-*.ckpt')), default=-1
  )


def kill_after_progress(
  processes: list[subprocess.Popen], workdir: pathlib.Path, delay_seconds: float
) -> bool:
  """Kills all of them `delay_seconds` after the next checkpoint appears.

  Returns:
    whether they were still running.
  """
  before = newest_step(workdir)
  while newest_step(workdir) <= before and processes[0].poll() is None:
    time.sleep(0.01)
  time.sleep(delay_seconds)
  alive = processes[0].poll() is None
  for process in processes:
    process.kill()
    process.communicate()
  return alive


@pytest.fixture(scope='module')
def undisturbed(small_tfds_dir, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('undisturbed')
  result = run_trainer(f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *FLAGS)
  assert result.returncode == 0, result.stderr
  return workdir


def assert_ends_as(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
  assert final_weights(workdir) == final_weights(undisturbed)
  assert step_losses(workdir) == step_losses(undisturbed)
  kept = (
    'epoch',
    'step',
    'learning_rate',
    'train_loss',
    'train_accuracy',
    'val_loss',
    'val_accuracy',
  )
  rows, theirs = (
    list(csv.DictReader((path / 'history.csv').open())) for path in (workdir, undisturbed)
  )
  assert [[row[name] for name in kept] for row in rows] == [
    [row[name] for name in kept] for row in theirs
  ]
  ours, others = (
    json.loads((path / 'metrics.json').read_text()) for path in (workdir, undisturbed)
  )
  assert {name: ours[name] for name in ('version', 'test_accuracy', 'best_epoch', 'confusion')} == {
    name: others[name] for name in ('version', 'test_accuracy', 'best_epoch', 'confusion')
  }


def files_of(workdir: pathlib.Path) -> list[str]:
  """Returns all files of a run, including half-written ones."""
  return sorted(str(path.relative_to(workdir)) for path in workdir.rglob('*') if path.is_file())


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

  def test_twice_ends_with_the_same_weights(self, undisturbed, small_tfds_dir, tmp_path):
    self.kill_and_finish(tmp_path, small_tfds_dir, 2)
    assert_ends_as(tmp_path, undisturbed)

  @pytest.mark.slow
  def test_twenty_times_ends_with_the_same_weights(self, undisturbed, small_tfds_dir, tmp_path):
    self.kill_and_finish(tmp_path, small_tfds_dir, 20)
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


@pytest.fixture
def one_epoch(small_tfds_dir, tmp_path) -> pathlib.Path:
  """Returns the workdir of a finished run of one epoch."""
  flags = [flag for flag in FLAGS if not flag.startswith('--epochs')]
  result = run_trainer(
    f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *flags, '--epochs=1'
  )
  assert result.returncode == 0, result.stderr
  return tmp_path


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

  def test_only_the_newest_are_kept(self, tmp_path):
    for step in range(5):
      checkpoint.save(str(tmp_path), {'step': np.array(step)}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
      'step-0000000003.ckpt',
      'step-0000000004.ckpt',
    ]


class TestLength:
  def test_a_finished_run_may_be_made_longer_but_not_shorter(self, one_epoch, small_tfds_dir):
    flags = [flag for flag in FLAGS if not flag.startswith('--epochs')]
    result = run_trainer(
      f'--workdir={one_epoch}', f'--data_dir={small_tfds_dir}', *flags, '--epochs=2'
    )
    assert result.returncode == 0, result.stderr
    assert 'resuming from step 32 of 64' in result.stderr
    assert json.loads((one_epoch / 'metrics.json').read_text())['epochs'] == 2
    assert [step for step, _ in step_losses(one_epoch)] == list(range(1, 65))
    result = run_trainer(
      f'--workdir={one_epoch}', f'--data_dir={small_tfds_dir}', *flags, '--epochs=1'
    )
    assert result.returncode == 64
    assert '--epochs=1: the run is at epoch 2' in result.stderr


class TestDataset:
  def test_another_one_is_refused_by_name(self, one_epoch, tmp_path_factory):
    source = write_image_folder(tmp_path_factory.mktemp('pictures'), images=800)
    flags = ('--dataset=image_folder', f'--source={source}')
    result = run_trainer(f'--workdir={one_epoch}', *flags, *FLAGS)
    assert result.returncode == 64
    assert '--dataset=fashion_mnist (now image_folder)' in result.stderr

  def test_a_workdir_from_before_there_were_others_resumes(self, one_epoch, small_tfds_dir):
    settings = json.loads((one_epoch / 'settings.json').read_text())
    assert settings.pop('dataset') == 'fashion_mnist'
    (one_epoch / 'settings.json').write_text(json.dumps(settings))
    result = run_trainer(f'--workdir={one_epoch}', f'--data_dir={small_tfds_dir}', *FLAGS)
    assert result.returncode == 0, result.stderr
    assert 'resuming from step 32 of 64' in result.stderr


class TestBlowUp:
  BLOWN = ('--learning_rate=1e30', '--checkpoint_every_steps=1')

  def test_stops_naming_step_rate_and_checkpoint(self, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *FLAGS, *self.BLOWN
    )
    assert result.returncode == 1
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
    assert result.returncode == 1
    assert result.stderr.count('returning to it with half the learning rate') == 3
    assert 'rolled back 3 times already' in result.stderr


def tf_configs(count: int) -> list[str]:
  """Returns the TF_CONFIG of each of `count` workers on this machine."""
  cluster = {'worker': [f'127.0.0.1:{port}' for port in free_ports(count)]}
  return [
    json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': i}}) for i in range(count)
  ]


def start_workers(
  workdir: pathlib.Path, small_tfds_dir: str, *flags: str
) -> list[subprocess.Popen]:
  return [
    start(workdir, small_tfds_dir, *flags, env={**os.environ, 'TF_CONFIG': mine})
    for mine in tf_configs(2)
  ]


@pytest.fixture(scope='module')
def both(small_tfds_dir, tmp_path_factory) -> pathlib.Path:
  """Returns the workdir of a run of two hosts."""
  workdir = tmp_path_factory.mktemp('both')
  for process in start_workers(workdir, small_tfds_dir):
    _, said = process.communicate()
    assert process.returncode == 0, said
  return workdir


@pytest.mark.slow
class TestTwoHosts:
  def test_end_with_the_weights_of_one(self, both, undisturbed):
    assert_ends_as(both, undisturbed)
    assert json.loads((both / 'metrics.json').read_text())['replicas'] == 2

  def test_killed_and_started_again_end_with_the_same_weights(self, both, small_tfds_dir, tmp_path):
    randomness = random.Random(0)
    for _ in range(KILLS):
      workers = start_workers(tmp_path, small_tfds_dir, '--checkpoint_every_steps=1')
      assert kill_after_progress(workers, tmp_path, randomness.uniform(0, 0.3))
    self.finish(tmp_path, small_tfds_dir)
    assert_ends_as(tmp_path, both)

  def finish(self, workdir, small_tfds_dir) -> None:
    for process in start_workers(workdir, small_tfds_dir):
      _, said = process.communicate()
      assert process.returncode == 0, said
      assert 'resuming from step' in said

  @pytest.mark.parametrize('told', [0, 1])
  def test_sigterm_to_one_stops_both_at_the_same_step(self, told, both, small_tfds_dir, tmp_path):
    workers = start_workers(tmp_path, small_tfds_dir, '--checkpoint_every_steps=16')
    while newest_step(tmp_path) < 16:
      time.sleep(0.01)
    workers[told].send_signal(signal.SIGTERM)
    for process in workers:
      _, said = process.communicate()
      assert process.returncode == 75, said
      assert f'stopped by SIGTERM at step {newest_step(tmp_path)}' in said
    self.finish(tmp_path, small_tfds_dir)
    assert_ends_as(tmp_path, both)

  def test_sigterm_ends_the_waiting_for_the_other(self, small_tfds_dir, tmp_path):
    environment = {**os.environ, 'TF_CONFIG': tf_configs(2)[0]}
    lonely = start(tmp_path, small_tfds_dir, env=environment)
    said = ''
    while 'waiting for all of' not in said:
      said += lonely.stderr.readline()
    lonely.send_signal(signal.SIGTERM)
    lonely.communicate()
    assert lonely.returncode == 75

  def test_when_one_dies_the_other_ends_too(self, small_tfds_dir, tmp_path):
    chief, other = start_workers(tmp_path, small_tfds_dir, '--checkpoint_every_steps=1')
    while newest_step(tmp_path) < 3:
      time.sleep(0.01)
    other.kill()
    _, said = chief.communicate()
    assert chief.returncode == 1
    assert 'a worker was lost' in said
    other.communicate()


@pytest.fixture
def two_hosts():
  """Yields two network namespaces connected by a cable.

  As the path of `ip`, a function that runs it, and each one's (name, address).
  """
  if os.geteuid():
    pytest.skip('only root may make network namespaces')
  environment = {**os.environ, 'LD_LIBRARY_PATH': unpacked_libraries()}
  executable = shutil.which('ip') or str(CACHE / 'debian/root/bin/ip')

  def ip(*words: str, check: bool = True) -> None:
    subprocess.run([executable, *words], env=environment, check=check, capture_output=True)

  hosts = [(f'lookbook-{os.getpid()}-{i}', f'10.77.0.{i + 1}') for i in range(2)]
  try:
    for name, _ in hosts:
      ip('netns', 'add', name)
      ip('-n', name, 'link', 'set', 'lo', 'up')
    ip(
      '-n',
      hosts[0][0],
      'link',
      'add',
      'cable',
      'type',
      'veth',
      'peer',
      'name',
      'cable',
      'netns',
      hosts[1][0],
    )
    for name, address in hosts:
      ip('-n', name, 'addr', 'add', f'{address}/24', 'dev', 'cable')
      ip('-n', name, 'link', 'set', 'cable', 'up')
    yield executable, ip, hosts
  finally:
    for name, _ in hosts:
      ip('netns', 'del', name, check=False)


@pytest.mark.slow
class TestACutCable:
  def start(
    self, executable, hosts, workdir, small_tfds_dir, *flags: str
  ) -> list[subprocess.Popen]:
    workers = [f'{address}:2222' for _, address in hosts]
    processes = []
    for index, (name, _) in enumerate(hosts):
      task = {'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}}
      inside = (executable, 'netns', 'exec', name)
      environment = {**os.environ, 'TF_CONFIG': json.dumps(task)}
      processes.append(start(workdir, small_tfds_dir, *flags, inside=inside, env=environment))
    return processes

  def test_ends_both_and_the_restart_is_exact(self, two_hosts, both, small_tfds_dir, tmp_path):
    executable, ip, hosts = two_hosts
    processes = self.start(
      executable, hosts, tmp_path, small_tfds_dir, '--checkpoint_every_steps=1'
    )
    while newest_step(tmp_path) < 5:
      time.sleep(0.01)
    ip('-n', hosts[1][0], 'link', 'set', 'cable', 'down')
    for process in processes:
      _, said = process.communicate()
      assert process.returncode == 1
      assert 'a worker was lost' in said
    ip('-n', hosts[1][0], 'link', 'set', 'cable', 'up')
    for process in self.start(executable, hosts, tmp_path, small_tfds_dir):
      _, said = process.communicate()
      assert process.returncode == 0, said
    assert_ends_as(tmp_path, both)
