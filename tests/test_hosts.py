"""Two hosts that train together: killed, stopped, and cut off, each with real processes."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.edge_kit import wait_until
from tests.ports import free_ports
from tests.resume_kit import (
  KILLS,
  assert_ends_as,
  kill_after_progress,
  newest_step,
  start,
  start_command,
)
from tests.train_kit import (
  CACHE,
  run_trainer,
  start_trainer,
  unpacked_libraries,
  write_image_folder,
)
from tests.warm_trainer import Trainer


def tf_configs(count: int) -> list[str]:
  """Returns the TF_CONFIG of each of `count` workers on this machine."""
  cluster = {'worker': [f'127.0.0.1:{port}' for port in free_ports(count)]}
  return [
    json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': i}}) for i in range(count)
  ]


def start_workers(workdir: pathlib.Path, small_tfds_dir: str, *flags: str) -> list[Trainer]:
  return [
    start(workdir, small_tfds_dir, *flags, env={**os.environ, 'TF_CONFIG': mine})
    for mine in tf_configs(2)
  ]


@pytest.fixture(scope='module')
def both(small_tfds_dir, shared) -> pathlib.Path:
  """Returns the workdir of a run of two hosts."""
  return shared('both', lambda workdir: train_together(workdir, small_tfds_dir))


def train_together(workdir: pathlib.Path, small_tfds_dir: str) -> None:
  environments = [{**os.environ, 'TF_CONFIG': mine} for mine in tf_configs(2)]
  for process in [start_command(workdir, small_tfds_dir, env=each) for each in environments]:
    _, said = process.communicate()
    assert process.returncode == 0, said


@pytest.mark.slow
class TestTwoHosts:
  def test_end_with_the_weights_of_one(self, both, undisturbed):
    assert_ends_as(both, undisturbed)
    assert json.loads((both / 'metrics.json').read_text())['replicas'] == 2

  def test_of_own_pictures_end_with_the_weights_of_one(self, tmp_path):
    """With the few images per replica that own-data.md recommends, read from a disk by both."""
    photos = write_image_folder(tmp_path / 'photos', images=20)
    flags = ('--dataset=folder', f'--source={photos}', '--global_batch_size=8', '--epochs=2')
    assert run_trainer(f'--workdir={tmp_path / "one"}', *flags).returncode == 0
    together = (f'--workdir={tmp_path / "two"}', f'--data_dir={tmp_path / "data"}', *flags)
    for process in [
      start_trainer(*together, env={**os.environ, 'TF_CONFIG': mine}) for mine in tf_configs(2)
    ]:
      _, said = process.communicate()
      assert process.returncode == 0, said
    assert_ends_as(tmp_path / 'two', tmp_path / 'one')

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
    lonely = start_command(tmp_path, small_tfds_dir, env=environment)
    said = ''
    while 'waiting for all of' not in said:
      said += lonely.stderr.readline()
    lonely.send_signal(signal.SIGTERM)
    lonely.communicate()
    assert lonely.returncode == 75

  def test_start_no_thread_for_each_step(self, small_tfds_dir, tmp_path):
    """TensorFlow would, for each of a step's exchanges, if these had a time limit."""
    workers = start_workers(tmp_path, small_tfds_dir, '--checkpoint_every_steps=1')
    counts = []
    for step in (10, 50):
      wait_until(lambda step=step: newest_step(tmp_path) >= step, workers[0])
      counts.append(len(os.listdir(f'/proc/{workers[0].pid}/task')))
    for worker in workers:
      worker.kill()
      worker.communicate()
    assert counts[1] - counts[0] < 40

  def test_when_one_dies_the_other_ends_too(self, small_tfds_dir, tmp_path):
    chief, other = start_workers(tmp_path, small_tfds_dir, '--checkpoint_every_steps=1')
    while newest_step(tmp_path) < 3:
      time.sleep(0.01)
    other.kill()
    _, said = chief.communicate()
    assert chief.returncode == 68
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
      processes.append(
        start_command(workdir, small_tfds_dir, *flags, inside=inside, env=environment)
      )
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
      assert process.returncode == 68
      assert 'a worker was lost' in said
    ip('-n', hosts[1][0], 'link', 'set', 'cable', 'up')
    for process in self.start(executable, hosts, tmp_path, small_tfds_dir):
      _, said = process.communicate()
      assert process.returncode == 0, said
    assert_ends_as(tmp_path, both)
