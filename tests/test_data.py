"""The dataset: what prepares it, what is refused, its splits, and the batch of a step."""

import gzip
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from absl import app

from trainer import data

PIXELS, LABELS = 'train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'


@pytest.fixture
def own_idx(idx_dir, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(idx_dir, tmp_path / 'idx'))


@pytest.fixture
def no_route(monkeypatch):
  """A download address on this machine where nothing listens."""
  monkeypatch.setattr(data.mnist.FashionMNIST, 'URL', 'http://127.0.0.1:9/')


class TestPrepare:
  def test_holds_every_published_image_in_some_order(self, tfds_dir, idx_dir):
    for split, prefix in (('train', 'train'), ('test', 't10k')):
      examples = data.read(data.prepare(tfds_dir), split)
      raw = (
        data.read_idx(idx_dir, f'{prefix}-images-idx3-ubyte.gz')[16:],
        data.read_idx(idx_dir, f'{prefix}-labels-idx1-ubyte.gz')[8:],
      )
      published = sorted(zip(raw[1], (raw[0][i : i + 784] for i in range(0, len(raw[0]), 784))))
      assert (
        sorted((label, image.tobytes()) for image, label in zip(examples.pixels, examples.labels))
        == published
      )

  def test_uses_a_prepared_directory_offline(self, tfds_dir, no_route):
    assert data.prepare(tfds_dir).info.splits['test'].num_examples == 10_000

  def test_takes_a_smaller_set_for_a_trial_with_a_warning(self, small_tfds_dir, caplog):
    builder = data.prepare(small_tfds_dir)
    assert data.examples(builder) == {'train': 4500, 'test': 1000}
    assert "{'train': 4500, 'test': 1000}, where Fashion-MNIST has" in caplog.text
    assert data.read(builder, 'test').pixels.shape == (1000, 28, 28, 1)

  def test_takes_files_whose_gzip_headers_differ(self, own_idx):
    content = gzip.decompress((own_idx / LABELS).read_bytes())
    (own_idx / LABELS).write_bytes(gzip.compress(content, compresslevel=1))
    assert data.read_idx(str(own_idx), LABELS) == content

  def test_without_a_route_names_the_way_out(self, tmp_path, no_route):
    with pytest.raises(app.UsageError, match=r'no route to http://127\.0\.0\.1:9/.*--idx_dir'):
      data.prepare(str(tmp_path))

  def test_a_host_that_never_answers_counts_as_no_route(self, tmp_path, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as silent:
      monkeypatch.setattr(data, 'ROUTE_SECONDS', 0.5)
      monkeypatch.setattr(
        data.mnist.FashionMNIST, 'URL', f'http://127.0.0.1:{silent.getsockname()[1]}/'
      )
      with pytest.raises(app.UsageError, match='no route'):
        data.prepare(str(tmp_path))

  def test_refuses_a_truncated_file(self, own_idx, tmp_path):
    (own_idx / PIXELS).write_bytes((own_idx / PIXELS).read_bytes()[:100_000])
    with pytest.raises(app.UsageError, match=f'{PIXELS} cannot be read'):
      data.prepare(str(tmp_path / 'data'), str(own_idx))
    assert not list((tmp_path / 'data').glob('**/*.tfrecord*'))

  def test_refuses_an_altered_file_by_its_sum(self, own_idx, tmp_path):
    content = bytearray(gzip.decompress((own_idx / LABELS).read_bytes()))
    content[1000] ^= 1
    (own_idx / LABELS).write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(app.UsageError, match=f'{LABELS} has sha256 .*{data.IDX_SHA256[LABELS]}'):
      data.prepare(str(tmp_path / 'data'), str(own_idx))

  def test_refuses_a_missing_file(self, own_idx, tmp_path):
    (own_idx / LABELS).unlink()
    with pytest.raises(app.UsageError, match=f'{LABELS} cannot be read'):
      data.prepare(str(tmp_path / 'data'), str(own_idx))

  def test_refuses_another_version(self, tmp_path):
    (tmp_path / 'fashion_mnist/1.0.0').mkdir(parents=True)
    (tmp_path / 'fashion_mnist/1.0.0/dataset_info.json').write_text('{}')
    with pytest.raises(
      app.UsageError, match=rf'{tmp_path}: holds fashion_mnist 1\.0\.0.*{data.VERSION}'
    ):
      data.prepare(str(tmp_path))

  def test_two_processes_at_once_both_get_it(self, idx_dir, tmp_path):
    script = 'import sys; from trainer import data; print(len(data.read(data.prepare(sys.argv[1], sys.argv[2]), "test")))'
    command = [sys.executable, '-c', script, str(tmp_path), idx_dir]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].split()[-1] for process in both] == ['10000', '10000']
    assert [path.name for path in (tmp_path / 'fashion_mnist').iterdir()] == [data.VERSION]


@pytest.fixture(scope='module')
def numbered() -> data.Examples:
  """1,003 images that show their own number in their first two pixels."""
  numbers = np.arange(1003)
  pixels = np.zeros((1003, 28, 28, 1), np.uint8)
  pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = numbers // 256, numbers % 256
  return data.Examples(pixels, numbers % 10)


def numbers(element) -> list[int]:
  pixels = element['pixels'].numpy().astype(int)
  return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]).tolist()


class TestSplit:
  def test_is_disjoint_complete_and_the_seeds_own(self, numbered):
    train, validation = data.split_validation(numbered, 100, seed=1)
    again, _ = data.split_validation(numbered, 100, seed=1)
    other, _ = data.split_validation(numbered, 100, seed=2)
    assert len(validation) == 100
    both = np.concatenate([train.pixels, validation.pixels]).astype(int)
    assert sorted(both[:, 0, 0, 0] * 256 + both[:, 0, 1, 0]) == list(range(1003))
    np.testing.assert_array_equal(train.pixels, again.pixels)
    assert (train.pixels != other.pixels).any()


class TestBatches:
  def test_an_epoch_sees_no_image_twice_and_the_next_in_another_order(self, numbered):
    steps = list(data.batches(numbered, seed=3, global_batch_size=100, replicas=1).take(20))
    first, second = (
      [number for step in steps[i : i + 10] for number in numbers(step)] for i in (0, 10)
    )
    assert len(set(first)) == len(set(second)) == 1000
    assert first != second
    assert first != sorted(first)

  def test_labels_stay_with_their_images(self, numbered):
    for step in data.batches(numbered, seed=3, global_batch_size=100, replicas=1).take(3):
      assert step['labels'].numpy().tolist() == [number % 10 for number in numbers(step)]

  def test_any_step_can_come_first(self, numbered):
    straight = list(data.batches(numbered, seed=3, global_batch_size=64, replicas=1).take(40))
    resumed = list(
      data.batches(numbered, seed=3, global_batch_size=64, replicas=1, first_step=33).take(7)
    )
    assert [numbers(step) for step in resumed] == [numbers(step) for step in straight[33:]]
    assert [int(step['step']) for step in resumed] == list(range(33, 40))

  @pytest.mark.parametrize('replicas', [2, 4])
  def test_replicas_share_out_the_same_batch(self, numbered, replicas):
    whole = list(data.batches(numbered, seed=3, global_batch_size=64, replicas=1).take(17))
    parts = list(
      data.batches(numbered, seed=3, global_batch_size=64, replicas=replicas).take(17 * replicas)
    )
    for i, step in enumerate(whole):
      mine = parts[i * replicas : (i + 1) * replicas]
      assert [number for part in mine for number in numbers(part)] == numbers(step)
      assert [int(part['first_row']) for part in mine] == list(range(0, 64, 64 // replicas))
