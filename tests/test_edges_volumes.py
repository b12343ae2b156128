"""Volumes without locks or modes, and every kind of failure as one line."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys

import pytest
import requests
from absl import app

from storage import files
from trainer import exit_codes, failures, hold
from trainer.datasets import tfds_directory


@pytest.fixture
def no_locks(monkeypatch):
  """A file system like NFS without its lock daemon."""

  def flock(*_) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, 'flock', flock)


@pytest.fixture
def no_modes(monkeypatch):
  """A file system like SMB or a mounted bucket."""

  def refuse(*_, **__) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

  for name in ('chmod', 'utime', 'setxattr'):
    monkeypatch.setattr(os, name, refuse)


class TestWithoutLocks:
  def test_a_dataset_is_prepared_with_a_warning(self, no_locks, tmp_path, caplog):
    with tfds_directory.locked(str(tmp_path / 'data')):
      assert f'{tmp_path / "data"} has no locks' in caplog.text

  def test_a_workdir_is_held(self, no_locks, tmp_path):
    with hold.hold(str(tmp_path)):
      assert (tmp_path / '.lock').exists()
    assert not (tmp_path / '.lock').exists()

  def test_a_running_process_on_this_machine_is_noticed(self, no_locks, tmp_path):
    program = (
      'import sys, trainer.hold as hold, contextlib\n'
      f'with hold.hold({str(tmp_path)!r}): print("held", flush=True); sys.stdin.read()'
    )
    holder = subprocess.Popen(
      [sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b'held\n'
    with pytest.raises(hold.Held, match=f'process {holder.pid} on '), hold.hold(str(tmp_path)):
      pass
    holder.kill()
    holder.communicate()
    with hold.hold(str(tmp_path)):  # that of a dead process does not block
      pass


def test_a_full_disk_does_not_end_a_hold(tmp_path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
  try:
    with hold.hold(str(tmp_path)):
      pass
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestWithoutModes:
  def test_files_are_written(self, no_modes, tmp_path):
    files.write(str(tmp_path / 'a' / 'b'), 'c')
    assert (tmp_path / 'a' / 'b').read_text() == 'c'

  def test_folders_are_published_and_copied(self, no_modes, tmp_path):
    files.write(str(tmp_path / 'source/sub/one'), '1')
    files.write(str(tmp_path / 'source/last'), '2')
    for do in (files.publish, files.publish, files.copy):
      target = tmp_path / do.__name__
      do(str(tmp_path / 'source'), str(target), last='last')
      assert (target / 'sub/one').read_text() == '1'
      assert (target / 'last').read_text() == '2'


class TestPublish:
  def test_replaces_what_a_killed_process_of_any_id_left(self, tmp_path):
    files.write(str(tmp_path / 'source/last'), 'new')
    for pid in (os.getpid(), 1):
      files.write(str(tmp_path / f'export/1.incomplete-{pid}/last'), 'old')
    files.publish(str(tmp_path / 'source'), str(tmp_path / 'export/1'), last='last')
    assert os.listdir(tmp_path / 'export') == ['1']
    assert (tmp_path / 'export/1/last').read_text() == 'new'

  @pytest.mark.parametrize('exists', [True, False])
  def test_writes_through_a_link(self, exists, tmp_path):
    files.write(str(tmp_path / 'source/last'), 'new')
    files.write(str(tmp_path / 'elsewhere/last'), 'old')
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere')
    if not exists:
      shutil.rmtree(tmp_path / 'elsewhere')
    files.publish(str(tmp_path / 'source'), str(tmp_path / 'link'), last='last')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'elsewhere/last').read_text() == 'new'


def of_a_disk(code: int) -> files.Unavailable:
  """Returns what `files` makes of this error of a local file."""
  error = files.Unavailable('a: the file system failed')
  error.__cause__ = OSError(code, os.strerror(code), 'a')
  return error


class TestFailures:
  @pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
      (OSError(errno.ENOSPC, 'No space', 'a/b'), exit_codes.FAILED, 'a/b: No space; make room'),
      (OSError(errno.EDQUOT, 'Quota'), exit_codes.FAILED, 'Quota; make room'),
      (OSError(errno.EIO, 'Input/output error', 'a'), exit_codes.FAILED, 'a: Input/output error;'),
      (PermissionError(errno.EACCES, 'Denied', 'a'), exit_codes.BAD_INPUT, 'a: Denied; change'),
      (OSError(errno.EROFS, 'Read-only', 'a', None, 'b'), exit_codes.BAD_INPUT, 'a to b: Read'),
      (OSError('gs://x: no bucket; make it\nmore'), exit_codes.BAD_INPUT, 'gs://x: no bucket;'),
      (app.UsageError('--a=b: wrong'), exit_codes.BAD_INPUT, '--a=b: wrong'),
      (files.Unavailable('gs://x: not responding'), exit_codes.NO_STORE, 'gs://x: not responding'),
      (of_a_disk(errno.ENOSPC), exit_codes.FAILED, 'a: No space left on device; make room'),
      (of_a_disk(errno.EIO), exit_codes.FAILED, 'a: Input/output error; rerun the same command'),
      (requests.ConnectionError('Read timed out.'), exit_codes.FAILED, 'Read timed out.; rerun'),
      (TimeoutError('timed out'), exit_codes.FAILED, 'timed out; rerun the same command'),
      (MemoryError(), exit_codes.FAILED, 'out of memory'),
    ],
  )  # fmt: skip
  def test_are_one_line_with_a_code(self, error, code, line):
    failure = failures.explained(error)
    assert failure.code == code
    assert str(failure).startswith(line)
    assert '\n' not in str(failure)

  def test_of_tensorflow_name_neither_operation_nor_device(self):
    import tensorflow as tf

    message = '{{function_node __wrapped__Read_device_CPU:0}} a: No space left [Op:Read] name: '
    failure = failures.explained(tf.errors.ResourceExhaustedError(None, None, message))
    assert (failure.code, str(failure).split(';')[0]) == (exit_codes.FAILED, 'a: No space left')

  def test_of_a_tensorflow_graph_say_why_and_not_where(self):
    message = (
      'Graph execution error:\n\nDetected at node a defined at (most recent call last):\n'
      '  File "trainer/main.py", line 132, in _run_main\n\n'
      'Collective ops is aborted by: Connection refused\nRestart.\n\t [[{{node while}}]] [Op:a]'
    )
    assert failures.first_line(ValueError(message)) == 'Connection refused'

  def test_of_a_disk_are_no_damage(self):
    with pytest.raises(OSError, match='Input/output'), tfds_directory.damage_named('a'):
      raise OSError(errno.EIO, os.strerror(errno.EIO))

  def test_a_defect_is_none(self):
    assert failures.explained(ValueError('a bug')) is None
