"""The trainer's edges on one host: damaged, full, read-only, odd names, and other settings."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from absl import app

from tests import edge_kit
from tests.train_kit import ROOT, run_command, run_trainer, weights_sha256, write_image_folder
from trainer import datasets

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root may mount')


@pytest.fixture
def copy(tiny, tmp_path) -> pathlib.Path:
  """Returns a copy of the finished run's workdir."""
  return pathlib.Path(shutil.copytree(tiny, tmp_path / 'copy'))


@pytest.fixture
def data_dir(tiny_tfds_dir, tmp_path) -> pathlib.Path:
  """Returns a copy of the prepared dataset, to be damaged."""
  return pathlib.Path(shutil.copytree(tiny_tfds_dir, tmp_path / 'data'))


def assert_refused(result: subprocess.CompletedProcess, *said: str) -> None:
  line = edge_kit.assert_one_line(result.stderr)
  assert result.returncode == 64, result.stderr
  assert [text for text in said if text not in line] == [], line


class TestAWorkdir:
  def test_belongs_to_its_images(self, copy, small_tfds_dir):
    result = edge_kit.run(copy, small_tfds_dir, '--epochs=2')
    assert_refused(result, str(copy), 'of 40 training images', 'now', 'of 4500 training images')

  @pytest.mark.slow
  @pytest.mark.parametrize('lost', ['export', 'keras/model.keras', 'report'])
  def test_that_lost_a_result_gets_it_again(self, lost, copy, tiny, tiny_tfds_dir):
    path = copy / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    result = edge_kit.run(copy, tiny_tfds_dir)
    assert result.returncode == 0, result.stderr
    assert path.exists()
    assert weights_sha256(copy) == weights_sha256(tiny)

  @pytest.mark.parametrize('name', ['settings.json', 'metrics.json'])
  @pytest.mark.parametrize('content', ['', '[]'])
  def test_with_a_damaged_file_is_refused(self, name, content, copy, tiny_tfds_dir):
    (copy / name).write_text(content)
    assert_refused(edge_kit.run(copy, tiny_tfds_dir), str(copy / name), 'damaged')

  @pytest.mark.slow
  def test_has_one_process_at_a_time(self, tiny_tfds_dir, tmp_path):
    first = edge_kit.start(tmp_path, tiny_tfds_dir, '--epochs=1000')
    edge_kit.read_until(first, 'epoch 1/')
    second = edge_kit.run(tmp_path, tiny_tfds_dir, '--epochs=1000')
    assert second.returncode == 1
    assert f'process {first.pid} on ' in edge_kit.assert_one_line(second.stderr)
    first.kill()
    first.communicate()
    assert (tmp_path / '.lock').exists()
    third = edge_kit.start(tmp_path, tiny_tfds_dir, '--epochs=1000')
    edge_kit.read_until(third, 'resuming from step')
    third.kill()
    third.communicate()


class TestAPreparedDataset:
  def test_with_a_cut_description_is_refused(self, data_dir, tmp_path):
    os.truncate(data_dir / 'fashion_mnist/3.0.1/dataset_info.json', 50)
    assert_refused(edge_kit.run(tmp_path / 'run', data_dir), f'--data_dir={data_dir}', 'delete')

  @pytest.mark.parametrize(
    ('split', 'damage', 'said'),
    [('test', 'cut', 'damaged or cut short'), ('train', 'gone', 'missing')],
  )
  def test_with_damaged_images_is_refused(self, split, damage, said, data_dir, tmp_path):
    edge_kit.damage(data_dir, split, damage)
    result = edge_kit.run(tmp_path / 'run', data_dir)
    assert_refused(result, f'--data_dir={data_dir}', f'(one of its files is {said})', 'delete')
    assert not (tmp_path / 'run/settings.json').exists()

  @pytest.mark.parametrize('dataset', ['fashion_mnist', 'folder'])
  def test_is_not_made_where_nothing_can_be_written(self, dataset, idx_dir, tmp_path):
    pictures = write_image_folder(tmp_path / 'pictures')
    options = {'idx_dir': idx_dir} if dataset == 'fashion_mnist' else {'source': str(pictures)}
    with pytest.raises(app.UsageError, match=r'^--data_dir=/dev/null/x: cannot be written to'):
      datasets.load(dataset, data_dir='/dev/null/x', **options).read('train')

  @needs_root
  @pytest.mark.slow
  @pytest.mark.parametrize('name', ['data', 'data[1]', '~*?'])
  def test_is_read_on_a_read_only_volume_whatever_its_name(
    self, name, tiny, tiny_tfds_dir, tmp_path, idx_dir
  ):
    (tmp_path / name).mkdir()
    read_only = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"'
    inside = ('unshare', '--mount', 'sh', '-c', read_only, 'sh', tiny_tfds_dir, tmp_path / name)
    process = edge_kit.start_command(
      tmp_path / 'run', tmp_path / name, f'--idx_dir={idx_dir}', inside=inside
    )
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert weights_sha256(tmp_path / 'run') == weights_sha256(tiny)


class TestImagesInFolders:
  @pytest.mark.parametrize('name', [b'caf\xe9', b'two\nlines'])
  def test_whose_names_are_no_labels_are_refused(self, name, tmp_path):
    source = os.fsencode(write_image_folder(tmp_path / 'pictures'))
    for split in (b'train', b'test'):
      os.rename(os.path.join(source, split, b'dark'), os.path.join(source, split, name))
    flags = ('--dataset=folder', f'--source={tmp_path / "pictures"}')
    assert_refused(run_trainer(f'--workdir={tmp_path / "run"}', *flags), '--source=', 'rename it')


class TestAFullDisk:
  @needs_root
  @pytest.mark.slow
  def test_is_one_line_and_the_run_resumes_when_there_is_room(self, tiny, tiny_tfds_dir, tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    small = 'where=$1; shift; mount -t tmpfs -o size=5m tmpfs "$where" && "$@"; code=$?; '
    room = (
      'mount -o remount,size=99m "$where"; "$@" || exit; cp -r "$where" "$where.kept"; exit $code'
    )
    inside = ('unshare', '--mount', 'sh', '-c', small + room, 'sh', str(workdir))
    process = edge_kit.start_command(workdir, tiny_tfds_dir, inside=inside)
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert 'Traceback' not in said
    assert 'No space left on device; make room' in said
    assert weights_sha256(tmp_path / 'run.kept') == weights_sha256(tiny)


class TestSettings:
  @pytest.mark.parametrize('rate', ['nan', 'inf', '-inf', '-1'])
  def test_the_learning_rate_is_a_number(self, rate, tmp_path):
    result = run_trainer(f'--workdir={tmp_path / "run"}', f'--learning_rate={rate}')
    assert_refused(result, f'--learning_rate={rate}')
    assert not (tmp_path / 'run').exists()

  def test_the_home_directory_may_be_a_tilde(self, tmp_path, tiny, tiny_tfds_dir):
    shutil.copytree(tiny, tmp_path / 'run')
    os.symlink(tiny_tfds_dir, tmp_path / 'data')
    result = edge_kit.run('~/run', '~/data', env={**os.environ, 'HOME': str(tmp_path)})
    assert f'{tmp_path / "run"} contains the finished run' in result.stderr

  @pytest.mark.slow
  def test_of_keras_do_not_apply(self, tiny, tiny_tfds_dir, tmp_path):
    config = {'backend': 'torch', 'image_data_format': 'channels_first', 'floatx': 'float16'}
    (tmp_path / '.keras').mkdir()
    (tmp_path / '.keras/keras.json').write_text(json.dumps(config))
    environment = {**os.environ, 'HOME': str(tmp_path), 'KERAS_BACKEND': 'jax'}
    result = run_command(*edge_kit.arguments(tmp_path / 'run', tiny_tfds_dir), env=environment)
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path / 'run') == weights_sha256(tiny)

  def test_a_locale_is_of_no_account(self, tmp_path):
    ascii_only = {
      'PATH': os.environ['PATH'],
      'LC_ALL': 'C',
      'PYTHONCOERCECLOCALE': '0',
      'PYTHONUTF8': '0',
    }
    program = (
      'from runtime import process; process.use_utf8(); '
      'import locale, sys; print(locale.getencoding(), sys.getfilesystemencoding(), *sys.argv[1:])'
    )
    result = subprocess.run(
      [sys.executable, '-c', program, 'Größe'], cwd=ROOT, env=ascii_only, capture_output=True
    )
    assert result.stdout.decode().split()[1:] == ['utf-8', 'Größe'], result

  def test_closed_streams_are_no_files(self, tiny, tiny_tfds_dir):
    command = [sys.executable, '-m', 'trainer.main', *edge_kit.arguments(tiny, tiny_tfds_dir)]
    closed = ['sh', '-c', 'exec "$@" 0<&- 1>&- 2>&-', 'sh', *command]
    assert subprocess.run(closed, cwd=ROOT).returncode == 0

  @pytest.mark.slow
  def test_an_export_directory_may_be_a_link(self, copy, tiny, tiny_tfds_dir, tmp_path):
    shutil.move(copy / 'export/1', tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere/saved_model.pb').unlink()
    (copy / 'export/1').symlink_to(tmp_path / 'elsewhere')
    result = edge_kit.run(copy, tiny_tfds_dir)
    assert result.returncode == 0, result.stderr
    assert (copy / 'export/1').is_symlink()
    assert weights_sha256(copy) == weights_sha256(tiny)
