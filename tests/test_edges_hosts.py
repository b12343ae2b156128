"""Two hosts that differ, cannot meet, or are told to stop while they wait."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import time

import pytest

from tests import edge_kit
from tests.ports import free_ports
from tests.resume_kit import newest_step
from tests.warm_trainer import Trainer


def configs(addresses: list[str]) -> list[dict[str, str]]:
  """Returns the environment of each worker at these addresses."""
  tasks = [{'type': 'worker', 'index': i} for i in range(len(addresses))]
  return [
    {**os.environ, 'TF_CONFIG': json.dumps({'cluster': {'worker': addresses}, 'task': task})}
    for task in tasks
  ]


def local(count: int = 2) -> list[str]:
  return [f'127.0.0.1:{port}' for port in free_ports(count)]


def assert_both_refuse(*workers: Trainer, said: str) -> None:
  for worker in workers:
    _, stderr = worker.communicate()
    assert worker.returncode == 64, stderr
    assert re.search(said, edge_kit.assert_one_line(stderr)), stderr


@pytest.mark.slow
class TestDifferentHosts:
  @pytest.mark.parametrize(
    ('flag', 'said'),
    [
      (
        '--seed=1 --log_every_steps=1',
        r'--seed=0 on worker 0 \(\S+\), --seed=1 on worker 1 \(127\.0\.0\.1:\d+\).*'
        r'--log_every_steps=50 on .*--log_every_steps=1 on worker 1',
      ),
      ('--source=pictures', r'worker 1 \(\S+\): --source=pictures: is for'),
      ('--workdir={other}', r'--workdir=\S+: on worker 1 \(\S+\) is not shared with worker 0'),
      ('--data_dir={small}', r'data=.* of 40 .* on worker 0 .*, data=.* of 4500 .* on worker 1'),
      (
        '--data_dir={cut}',
        r'worker 1 \(\S+\): --data_dir=\S+: .* \(one of its files is damaged or cut',
      ),
    ],
  )
  def test_are_named_by_both(self, flag, said, tiny_tfds_dir, small_tfds_dir, tmp_path):
    cut = pathlib.Path(shutil.copytree(tiny_tfds_dir, tmp_path / 'cut'))
    edge_kit.damage(cut, 'test', 'cut')
    other = flag.format(other=tmp_path / 'other', small=small_tfds_dir, cut=cut).split()
    here, there = configs(local())
    assert_both_refuse(
      edge_kit.start(tmp_path / 'run', tiny_tfds_dir, env=here),
      edge_kit.start(tmp_path / 'run', tiny_tfds_dir, *other, env=there),
      said=said,
    )
    assert not list((tmp_path / 'run').rglob('*'))

  def test_a_workdir_that_is_not_writable_is_named_by_both(self, tiny_tfds_dir):
    here, there = configs(local())
    assert_both_refuse(
      edge_kit.start('/dev/null/run', tiny_tfds_dir, env=here),
      edge_kit.start('/dev/null/run', tiny_tfds_dir, env=there),
      said=r'worker 0 \(\S+\): --workdir=/dev/null/run: cannot be written',
    )


class TestMeeting:
  @pytest.mark.slow
  @pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
  def test_a_signal_ends_the_wait(self, number, code, tiny_tfds_dir, tmp_path):
    process = edge_kit.start_command(tmp_path, tiny_tfds_dir, env=configs(local())[0])
    edge_kit.read_until(process, 'waiting for all of')
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code
    assert f'stopped by {number.name}' in edge_kit.assert_one_line(said)

  @pytest.mark.slow
  @pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
  def test_a_signal_ends_the_wait_for_a_host_that_has_died(
    self, number, code, tiny_tfds_dir, tmp_path
  ):
    """It was there, and never joins: TensorFlow waits for it, in C++."""
    addresses = local()
    with socket.create_server(('127.0.0.1', int(addresses[1].split(':')[1]))):
      process = edge_kit.start_command(tmp_path, tiny_tfds_dir, env=configs(addresses)[0])
      edge_kit.read_until(process, 'every host is there')
      time.sleep(3)  # until TensorFlow waits
      process.send_signal(number)
      _, said = process.communicate()
    assert process.returncode == code
    assert f'stopped by {number.name}' in edge_kit.assert_one_line(said)

  def test_a_taken_port_is_named(self, tiny_tfds_dir, tmp_path):
    addresses = local()
    with socket.create_server(('127.0.0.1', int(addresses[0].split(':')[1]))):
      result = edge_kit.run(tmp_path, tiny_tfds_dir, env=configs(addresses)[0])
    assert result.returncode == 64
    line = edge_kit.assert_one_line(result.stderr)
    assert re.search(rf'port \d+ of this host, {addresses[0]}, cannot be used', line)

  @pytest.mark.parametrize('own', [True, False])
  def test_a_name_without_an_address_is_named(self, own, tiny_tfds_dir, tmp_path):
    here, there = local()
    names = ['no-such-host.invalid:' + here.split(':')[1], there]
    environment = configs(names if own else names[::-1])[0]
    with (
      socket.create_server(('127.0.0.1', int(there.split(':')[1])))
      if own
      else contextlib.nullcontext()
    ):
      result = edge_kit.run(tmp_path, tiny_tfds_dir, '--lookup_seconds=0', env=environment)
    assert result.returncode == 64
    assert 'no-such-host.invalid has no address' in edge_kit.assert_one_line(result.stderr)

  @pytest.mark.parametrize('port', [0, 65536, 99999])
  def test_a_port_out_of_range_is_named(self, port, tmp_path):
    result = edge_kit.run(tmp_path, tmp_path, env=configs(['a:1', f'b:{port}'])[0])
    assert result.returncode == 64
    assert f"'b:{port}': a port is a number from 1 to 65535" in result.stderr


@pytest.mark.slow
def test_a_second_signal_ends_at_once_what_the_first_would_have_saved(tiny_tfds_dir, tmp_path):
  workers = [edge_kit.start_command(tmp_path, tiny_tfds_dir, env=each) for each in configs(local())]
  edge_kit.wait_until(lambda: newest_step(tmp_path) == 0, workers[0])
  time.sleep(1)  # now it traces a step, for seconds, and will stop after it
  workers[0].send_signal(signal.SIGTERM)
  time.sleep(1)
  workers[0].send_signal(signal.SIGINT)
  _, said = workers[0].communicate()
  assert workers[0].returncode == 130, said
  assert 'stopped at once by a second SIGINT' in edge_kit.assert_one_line(said)
  _, said = workers[1].communicate()
  assert workers[1].returncode == 68, said
  assert 'a worker was lost' in edge_kit.assert_one_line(said)


@pytest.mark.slow
def test_a_second_job_in_the_workdir_is_refused_by_both(tiny_tfds_dir, tmp_path):
  first = edge_kit.start(tmp_path, tiny_tfds_dir, '--epochs=1000')
  edge_kit.read_until(first, 'epoch 1/')
  workers = [
    edge_kit.start(tmp_path, tiny_tfds_dir, '--epochs=1000', env=each) for each in configs(local())
  ]
  for worker in workers:
    _, said = worker.communicate()
    assert worker.returncode == 1, said
    assert f'process {first.pid} on' in edge_kit.assert_one_line(said)
  with contextlib.suppress(ProcessLookupError):
    first.kill()
  first.communicate()
