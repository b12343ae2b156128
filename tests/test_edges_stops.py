"""Trainings that are killed, stopped or interrupted at any point, also as process 1."""

import os
import signal
import subprocess
import sys

import pytest

from tests import edge_kit
from tests.resume_kit import newest_step
from tests.train_kit import ROOT, step_losses, weights_sha256

LONG = '--epochs=1000'  # is stopped before that
AS_PROCESS_1 = ('unshare', '--pid', '--fork', '--mount-proc', '--kill-child')
FILES = {
  'export': r'/export/1\.incomplete-\d+/variables/',
  'keras': r'/keras/\.',
  'report': r'/report/report\.html$',
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root may make pid namespaces')


@pytest.mark.slow
class TestKilledAfterTheLastStep:
  @needs_root
  @pytest.mark.parametrize(
    ('file', 'inside', 'times'),
    [('export', AS_PROCESS_1, 2), ('keras', (), 1), ('report', AS_PROCESS_1, 1)],
  )
  def test_it_ends_at_last(self, file, inside, times, tiny, tiny_tfds_dir, tmp_path):
    workdir = tmp_path / 'run'
    killed_there = edge_kit.killed_at(FILES[file], tmp_path / 'killer')
    for _ in range(times):
      process = edge_kit.start_command(workdir, tiny_tfds_dir, inside=inside, env=killed_there)
      _, said = process.communicate()
      assert process.returncode == edge_kit.KILLED, said
      assert not (workdir / 'metrics.json').exists()
    last = edge_kit.start_command(workdir, tiny_tfds_dir, inside=inside)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert weights_sha256(workdir) == weights_sha256(tiny)
    assert [path.name for path in (workdir / 'export').iterdir()] == ['1']


@pytest.mark.slow
class TestASignal:
  CODES = pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=['SIGTERM', 'SIGINT']
  )

  @CODES
  def test_between_steps_saves_them(self, number, code, tiny_tfds_dir, tmp_path):
    process = edge_kit.start_command(tmp_path, tiny_tfds_dir, LONG)
    edge_kit.read_until(process, 'epoch 1/')
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    line = edge_kit.assert_one_line(said)
    assert f'stopped by {number.name} at step {newest_step(tmp_path)}; rerun' in line
    assert [step for step, _ in step_losses(tmp_path)] == list(range(1, newest_step(tmp_path) + 1))

  @pytest.mark.parametrize(
    ('number', 'code', 'sign'),
    [(signal.SIGTERM, 75, 'training on'), (signal.SIGINT, 130, 'port.cc')],
    ids=['SIGTERM traces', 'SIGINT imports'],
  )
  def test_before_the_first_step_ends_it(self, number, code, sign, tiny_tfds_dir, tmp_path):
    process = edge_kit.start_command(tmp_path, tiny_tfds_dir, LONG)
    edge_kit.read_until(process, sign)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert f'stopped by {number.name}' in edge_kit.assert_one_line(said)

  def test_in_the_export_ends_it(self, tiny_tfds_dir, tmp_path):
    process = edge_kit.start_command(tmp_path, tiny_tfds_dir)
    edge_kit.read_until(process, 'epoch 1/1')
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert 'stopped by SIGTERM' in edge_kit.assert_one_line(said)


# Python prints an exception in a destructor with its traceback, and goes on.
IN_A_DESTRUCTOR = """
import os, signal, time
from trainer import signals

class Noisy:
  def __del__(self):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)

signals.listen()
Noisy()
time.sleep(600)
"""


def test_the_line_about_a_signal_is_the_last_wherever_it_arrives():
  command = [sys.executable, '-c', IN_A_DESTRUCTOR]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 75
  assert result.stderr == 'lookbook-train: stopped by SIGTERM; rerun the same command to resume\n'
