"""The trainer's command line: what it refuses, --help, and the progress display."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from absl import app

from tests.train_kit import ROOT, file_contents, run_command, run_trainer
from trainer import hosts, progress


class TestBadInput:
  @pytest.mark.parametrize(
    ('flags', 'said'),
    [
      (['--epochs=many'], r'--epochs=many'),
      (['--epochs=0'], r'--epochs=0'),
      (['--epoch_count=3'], r"Unknown command line flag 'epoch_count'"),
      (['--model=resnet'], r'--model=resnet.*seed'),
      (['--precision=int8'], r'--precision=int8.*mixed_bfloat16'),
      (['runs/seed'], r'runs/seed: not a flag'),
      (
        ['--global_batch_size=255', '--replicas=2'],
        r'--global_batch_size=255: not divisible by 2 replicas; pass 254',
      ),
      (['--replicas=4096'], r'--replicas=4096: this host has \d+'),
      (['--validation_examples=60000'], r'--validation_examples=60000: none'),
      (['--global_batch_size=60000'], r'--global_batch_size=60000: more than the 54000'),
      (
        ['--idx_dir=/nonexistent', '--data_dir={empty}'],
        r'/nonexistent/\S+ cannot be read.*four published files',
      ),
      (['--workdir=/dev/null/run'], r'--workdir=/dev/null/run: cannot be written'),
      (['--all_reduce=nccl'], r'--all_reduce=nccl: this host has no GPU'),
      (
        ['--dataset=no_such_set'],
        r'--dataset=no_such_set: is neither .*folder, .*TensorFlow Datasets',
      ),
      (['--source=pictures'], r'--source=pictures: is for --dataset=folder'),
    ],
  )
  def test_is_one_line_and_exit_code_64(self, flags, said, tmp_path):
    flags = [flag.format(empty=tmp_path / 'empty') for flag in flags]
    result = run_trainer(f'--workdir={tmp_path / "run"}', f'--data_dir={tmp_path / "data"}', *flags)
    ours = [line for line in result.stderr.splitlines() if line.startswith('lookbook-train: ')]
    assert result.returncode == 64, result.stderr
    assert len(ours) == 1
    assert re.search(said, ours[0])
    assert 'Traceback' not in result.stderr
    assert not list(tmp_path.glob('run/*'))

  def test_a_missing_workdir_says_so(self):
    result = run_command()
    assert result.returncode == 64
    assert '--workdir is not given' in result.stderr

  def test_another_runs_workdir_is_left_alone(self, trained, tfds_dir, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / 'run')
    result = run_trainer(
      f'--workdir={workdir}',
      f'--data_dir={tfds_dir}',
      '--epochs=3',
      '--seed=5',
      '--learning_rate=0.1',
    )
    assert result.returncode == 64
    assert '--learning_rate=0.003 (now 0.1), --seed=0 (now 5)' in result.stderr
    assert file_contents(workdir) == file_contents(trained)


TASK = {'type': 'worker', 'index': 0}
HOSTS = {'worker': ['a:1', 'b:1']}


class TestBadTfConfig:
  @pytest.mark.parametrize(
    ('config', 'said'),
    [
      ('{"cluster"', r'delimiter'),
      ('[]', r'list'),
      ({'cluster': HOSTS}, r"has no 'task'"),
      ({'cluster': HOSTS, 'task': {'type': 'worker'}}, r"has no 'index'"),
      (
        {'cluster': HOSTS, 'task': {'type': 'worker', 'index': 2}},
        r'task is worker 2, which cluster does not have',
      ),
      (
        {'cluster': HOSTS, 'task': {'type': 'worker', 'index': '0'}},
        r"task is worker '0', which cluster does not",
      ),
      (
        {'cluster': HOSTS, 'task': {'type': 'chief', 'index': 0}},
        r'task is chief 0, which cluster does not have',
      ),
      ({'cluster': {'worker': ['a']}, 'task': TASK}, r"'a' is not host:port"),
      ({'cluster': {'worker': ['a:1', 'a:1']}, 'task': TASK}, r'same address twice'),
      ({'cluster': {'chief': ['a:1', 'b:1']}, 'task': TASK}, r'more than one chief'),
      (
        {'cluster': {**HOSTS, 'ps': ['c:1']}, 'task': TASK},
        r'cluster has ps; every host here is a worker',
      ),
    ],
  )
  def test_is_said_with_an_example(self, config, said, monkeypatch):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(app.UsageError, match=said) as refused:
      hosts.configured()
    assert text in str(refused.value)
    assert '"task": {"type": "worker", "index": 0}' in str(refused.value)

  def test_ends_the_trainer_with_exit_code_64(self, monkeypatch, tmp_path):
    monkeypatch.setenv('TF_CONFIG', '{"cluster": {"worker": ["a"]}}')
    result = run_command(f'--workdir={tmp_path}')
    assert result.returncode == 64
    assert "'a' is not host:port" in result.stderr
    assert 'Traceback' not in result.stderr

  @pytest.mark.parametrize(
    ('flag', 'said'),
    [
      ('--replicas=2', r'every host uses all it has'),
      ('--all_reduce=hierarchical', r'with TF_CONFIG pass auto or nccl'),
    ],
  )
  def test_does_not_go_with_flags_for_one_host(self, flag, said, monkeypatch, tmp_path):
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': HOSTS, 'task': TASK}))
    result = run_trainer(f'--workdir={tmp_path}', flag)
    assert result.returncode == 64
    assert re.search(f'{flag}: .*{said}', result.stderr)

  @pytest.mark.parametrize(
    'config', ['', '{}', '{"cluster": {}, "task": {"type": "worker", "index": 0}}']
  )
  def test_without_a_cluster_is_one_host(self, config, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', config)
    assert hosts.configured() == []


class TestHelp:
  @pytest.mark.parametrize(
    'command',
    [
      [sys.executable, '-m', 'trainer.main'],
      [pathlib.Path(sys.executable).with_name('lookbook-train')],
    ],
  )
  def test_lists_the_flags_without_tensorflow(self, command):
    result = subprocess.run(
      [*command, '--help'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for flag in (
      'workdir',
      'data_dir',
      'idx_dir',
      'global_batch_size',
      'precision',
      'log_every_steps',
    ):
      assert f'--{flag}:' in result.stdout or f'--[no]{flag}:' in result.stdout
    imports = subprocess.run(
      [sys.executable, '-X', 'importtime', '-m', 'trainer.main', '--help'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert 'absl.app' in imports.stderr
    assert 'tensorflow' not in imports.stderr


class TestProgress:
  def test_logs_now_and_then_where_there_is_no_terminal(self, caplog):
    now = [0.0]
    bar = progress.Progress(total=1000, terminal=False, clock=lambda: now[0])
    with caplog.at_level('INFO', logger='absl'):
      for _ in range(10):
        now[0] += 10
        bar.advance(100, loss=0.5)
    assert [record.getMessage() for record in caplog.records] == [
      '300 of 1000 images, 10 images/s, 70 s left, loss 0.5000',
      '600 of 1000 images, 10 images/s, 40 s left, loss 0.5000',
      '900 of 1000 images, 10 images/s, 10 s left, loss 0.5000',
      '1000 of 1000 images, 10 images/s, 0 s left, loss 0.5000',
    ]

  def test_moves_a_line_on_a_terminal(self, capsys):
    bar = progress.Progress(total=1000, terminal=True)
    bar.advance(500, loss=0.25)
    bar.close()
    line = capsys.readouterr().err
    assert '500/1.00k' in line
    assert 'loss=0.2500' in line
    assert 'images/s' in line
