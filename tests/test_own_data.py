"""Datasets of tables of pictures, and of TFDS by name: what is read and what is refused."""

import csv
import errno
import json
import os
import pathlib
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app

from batch import cutting
from tests import edge_kit, pictures
from tests.train_kit import run_trainer
from trainer import data, datasets, failures
from trainer.datasets import fashion_mnist_files, splits, tfds_set

SIDES = ['train'] * 6 + ['val'] * 2 + ['test'] * 2  # of each class


@pytest.fixture(scope='module')
def images() -> np.ndarray:
  """Returns 20 grey images, uint8 (20, 28, 28): ten of class 9, then ten of class 10."""
  return np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)


LABELS = [9] * 10 + [10] * 10


def write_tar(path: pathlib.Path, encoded: Sequence[bytes]) -> None:
  members: dict[str, bytes] = {}
  for number, (content, label) in enumerate(zip(encoded, LABELS)):
    members |= {f'{number:02}.png': content, f'{number:02}.cls': b'%d' % label}
  pictures.write_tar(path.with_suffix('.tar'), members)


def write_tfrecord(path: pathlib.Path, encoded: Sequence[bytes]) -> None:
  pictures.write_tfrecord(path.with_suffix('.tfrecord'), encoded, LABELS)


class TestManifest:
  @pytest.fixture
  def table(self, images, tmp_path) -> pathlib.Path:
    """Returns a CSV file of the images with labels and splits."""
    for number, image in enumerate(images):
      (tmp_path / f'{number}.png').write_bytes(pictures.saved(image, 'PNG'))
    with open(tmp_path / 'table.csv', 'w', newline='') as file:
      rows = csv.writer(file)
      rows.writerow(['path', 'label', 'side'])
      rows.writerows((f'{i}.png', LABELS[i], SIDES[i % 10]) for i in range(20))
    return tmp_path / 'table.csv'

  def test_its_splits_are_those_of_a_column(self, table, images):
    dataset = datasets.load('manifest', source=str(table), split_column='side')
    assert dataset.num_examples == {'train': 12, 'validation': 4, 'test': 4}
    assert (dataset.labels, dataset.image_shape) == (('9', '10'), (28, 28, 1))
    test = dataset.read('test')
    assert test.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(test.pixels[:][..., 0], images[[8, 9, 18, 19]])

  def test_without_a_column_some_are_held_out(self, table):
    dataset = datasets.load('manifest', source=str(table))
    assert dataset.num_examples == {'train': 16, 'validation': 2, 'test': 2}

  def test_parquet_with_the_pictures_inside_is_the_same(self, table, images):
    columns = {'image': [pictures.saved(image, 'PNG') for image in images], 'class': LABELS}
    pq.write_table(pa.table(columns), table.with_name('table.parquet'))
    with pytest.raises(app.UsageError, match=r'has no labels that are known; .* --label_column'):
      datasets.load('manifest', source=str(table.with_name('table.parquet')))
    both = [
      datasets.load('manifest', source=str(table.with_name(name)), label_column=column)
      for name, column in (('table.csv', ''), ('table.parquet', 'class'))
    ]
    for split in datasets.SPLITS:
      np.testing.assert_array_equal(*(dataset.read(split).pixels for dataset in both))

  @pytest.mark.parametrize('write', [write_tar, write_tfrecord])
  def test_a_large_file_is_read_whole(self, write, images, tmp_path, monkeypatch):
    """The scorer shares such a file among workers, as ranges of bytes."""
    monkeypatch.setattr(cutting, 'MIN_SHARD_BYTES', 1000)
    write(tmp_path / 'large', [pictures.saved(image, 'PNG') for image in images])
    (path,) = tmp_path.iterdir()
    dataset = datasets.load('manifest', source=str(path))
    read = np.concatenate([dataset.read(split).pixels for split in datasets.SPLITS])
    assert sorted(map(bytes, read)) == sorted(map(bytes, images))
    assert dataset.rejects == []

  def test_what_is_no_picture_is_counted(self, images, tmp_path, caplog):
    write_tar(tmp_path / 'pictures', [pictures.saved(image, 'PNG') for image in images])
    with tarfile.open(tmp_path / 'pictures.tar', 'a') as archive:
      for name in ('notes.md', 'more.md'):
        archive.addfile(tarfile.TarInfo(name))
    datasets.load('manifest', source=str(tmp_path / 'pictures.tar'))
    assert 'left out: 2 (' in caplog.text

  def test_pictures_without_a_label_or_a_file_are_left_out(self, table):
    table.write_text(table.read_text() + 'missing.png,9,train\n3.png,,train\n')
    dataset = datasets.load('manifest', source=str(table), split_column='side')
    assert sum(dataset.num_examples.values()) == 20
    reasons = {name: reason for name, _, reason in dataset.rejects}
    assert reasons['3.png'] == 'it has no label'
    assert 'No such file' in reasons['missing.png']

  def test_size_and_colour_are_those_of_all_parts(self, tmp_path):
    random, rows = np.random.default_rng(0), ['path,label']
    for number in range(64):
      shape = (20, 20) if number < 40 else (20, 30, 3)
      picture = random.integers(0, 256, shape, np.uint8)
      (tmp_path / f'{number}.png').write_bytes(pictures.saved(picture, 'PNG'))
      rows.append(f'{number}.png,{number % 2}')
    (tmp_path / 'table.csv').write_text('\n'.join(rows))
    dataset = datasets.load('manifest', source=str(tmp_path / 'table.csv'))
    assert dataset.image_shape == (64, 64, 3)

  def test_pictures_that_could_not_be_opened_are_said_at_each_training(
    self, table, tmp_path, caplog
  ):
    def mount(numbers: Iterable[int]) -> None:
      for number in numbers:
        (away / f'{number}.png').rename(tmp_path / f'{number}.png')

    def load() -> int:
      dataset = datasets.load('manifest', source=str(table), data_dir=str(tmp_path / 'data'))
      return sum(len(dataset.read(split).pixels[:]) for split in dataset.num_examples)

    away = tmp_path / 'away'
    away.mkdir()
    for path in tmp_path.glob('*.png'):
      path.rename(away / path.name)
    with pytest.raises(app.UsageError, match=r'none of 20 pictures .* 0\.png \(FileNotFoundError'):
      load()
    mount(range(0, 20, 2))
    for _ in range(2):
      caplog.clear()
      assert load() == 10
      (home,) = (path for path in (tmp_path / 'data' / 'prepared').iterdir() if path.is_dir())
      assert '10 of these could not be opened when they were prepared' in caplog.text
      assert f'delete {home} to prepare all again' in caplog.text
    mount(range(1, 20, 2))
    assert load() == 10
    shutil.rmtree(home)
    caplog.clear()
    assert load() == 20
    assert 'could not be opened' not in caplog.text

  @pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
      ('train', 'tarin', "--split_column=side: contains 'tarin'; name each split train, valid"),
      ('side', 'part', '--split_column=side: .* has no such column, only path, label, part'),
      (',10,', ',9,', 'has one class only, 9; a classifier needs two'),
      (',10,train', ',9,train', 'test has 10, of which there is no picture to train on'),
    ],
  )
  def test_what_makes_no_classifier_is_refused(self, old, new, said, table):
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(app.UsageError, match=said):
      datasets.load('manifest', source=str(table), split_column='side')

  def test_pictures_without_any_labels_are_refused(self, table):
    with pytest.raises(app.UsageError, match='is image, which has no labels; pass a CSV'):
      datasets.load('manifest', source=str(table.with_name('1.png')))


def test_fashion_mnist_as_files_trains_to_the_same_weights(tiny, tiny_tfds_dir, tmp_path):
  """As PNG files in a manifest in TFDS's order and with the same splits, bit for bit."""
  dataset = datasets.load('fashion_mnist', data_dir=tiny_tfds_dir)
  train, validation = data.split_validation(dataset.read('train'), 8, seed=0)
  parts = {'train': train, 'validation': validation, 'test': dataset.read('test')}
  rows = ['path,label,split']
  for split, examples in parts.items():
    for number, (pixels, label) in enumerate(zip(examples.pixels, examples.labels)):
      (tmp_path / f'{split}{number}.png').write_bytes(pictures.saved(pixels[..., 0], 'PNG'))
      rows.append(f'{split}{number}.png,{label},{split}')
  (tmp_path / 'table.csv').write_text('\n'.join(rows))
  flags = [flag for flag in edge_kit.FLAGS if not flag.startswith('--validation_examples')]
  result = run_trainer(
    f'--workdir={tmp_path / "run"}',
    '--dataset=manifest',
    f'--source={tmp_path / "table.csv"}',
    '--split_column=split',
    '--flip=yes',
    *flags,
  )
  assert result.returncode == 0, result.stderr
  ours, theirs = (
    json.loads((home / 'metrics.json').read_text()) for home in (tmp_path / 'run', tiny)
  )
  for name in ('val_loss', 'test_loss', 'test_accuracy', 'version'):
    assert ours[name] == theirs[name]


class TestOfTfds:
  @pytest.fixture(scope='class')
  @classmethod
  def data_dir(cls, images, tmp_path_factory) -> str:
    """Returns a TFDS directory with a dataset of its own, in two classes and two splits."""
    home = tmp_path_factory.mktemp('tfds')
    kinds = {
      'picture': tfds.features.Image(shape=(28, 28, 1)),
      'kind': tfds.features.ClassLabel(names=['unused', 'b', 'a']),
      'note': tfds.features.Text(),
    }
    numbers = np.arange(20)
    rows = {
      'picture': images[..., None],
      'kind': 1 + numbers // 10,
      'note': np.array(['x' * i for i in numbers]),
    }
    is_test = numbers % 10 >= 8
    for name, columns in (('nines_and_tens', list(kinds)), ('texts', ['note'])):
      tfds.dataset_builders.store_as_tfds_dataset(
        name,
        '1.2.0',
        data_dir=home,
        features=tfds.features.FeaturesDict({key: kinds[key] for key in columns}),
        split_datasets={
          split: tf.data.Dataset.from_tensor_slices({key: rows[key][mask] for key in columns})
          for split, mask in (('train', ~is_test), ('test', is_test))
        },
      )
    return str(home)

  def test_is_read_by_its_name(self, data_dir, images):
    dataset = datasets.load('nines_and_tens', data_dir=data_dir)
    assert (dataset.name, dataset.labels) == ('nines_and_tens/1.2.0', ('b', 'a'))
    assert dataset.num_examples == {'train': 14, 'validation': 2, 'test': 4}
    test = dataset.read('test')
    read = {(int(label), pixels.tobytes()) for label, pixels in zip(test.labels, test.pixels)}
    assert read == {(i // 10, images[i].tobytes()) for i in (8, 9, 18, 19)}

  def test_a_large_one_is_prepared_on_a_disk(self, data_dir, images, monkeypatch):
    in_memory = datasets.load('nines_and_tens', data_dir=data_dir)
    monkeypatch.setattr(tfds_set, 'LARGE_BYTES', 0)
    for _ in range(2):
      on_disk = datasets.load('nines_and_tens', data_dir=data_dir)
      assert os.listdir(os.path.join(data_dir, 'prepared'))
      for split in datasets.SPLITS:
        np.testing.assert_array_equal(in_memory.read(split).pixels, on_disk.read(split).pixels[:])

  def test_a_large_one_on_a_read_only_disk_is_read_into_memory(
    self, data_dir, tmp_path, monkeypatch
  ):
    home = shutil.copytree(data_dir, tmp_path / 'data', ignore=lambda *_: ['prepared'])
    monkeypatch.setattr(tfds_set, 'LARGE_BYTES', 0)
    monkeypatch.setattr(os, 'access', lambda *_: False)  # for root every disk can be written
    dataset = datasets.load('nines_and_tens', data_dir=str(home))
    assert len(dataset.read('train').pixels[:]) == dataset.num_examples['train']
    assert not (home / 'prepared').exists()

  def test_in_another_size_and_colour(self, data_dir):
    dataset = datasets.load('nines_and_tens', data_dir=data_dir, image_size=40, channels='rgb')
    assert dataset.read('test').pixels.shape == (4, 40, 40, 3)

  @pytest.mark.parametrize(
    ('name', 'options', 'said'),
    [
      ('no_such_set', {}, '--dataset=no_such_set: is neither fashion_mnist, .* nor the name of'),
      ('../x', {}, '--dataset=../x: is neither'),
      ('huggingface:mnist', {}, '--dataset=huggingface:mnist: is neither'),
      ('texts', {}, 'have 0 pictures and 0 classes, not one of each'),
      ('nines_and_tens', {'source': 'x'}, '--source=x: is not for --dataset=nines_and_tens'),
    ],
  )
  def test_what_is_none_is_refused(self, name, options, said, data_dir):
    with pytest.raises(app.UsageError, match=said):
      datasets.load(name, data_dir=data_dir, **options)

  @pytest.mark.parametrize(
    ('error', 'code', 'said'),
    [
      (OSError(errno.ENOSPC, 'No space left', 'x'), 1, 'x: No space left; make room and rerun'),
      (requests.ConnectionError('Reset.'), 1, '--dataset=kmnist: the download failed (Reset.);'),
      (KeyError('a'), 64, "--dataset=kmnist: TFDS cannot prepare it ('a'); pass a --data_dir"),
    ],
  )
  def test_one_that_cannot_be_prepared_is_explained(self, error, code, said, tmp_path, monkeypatch):
    def fail(_) -> None:
      raise error

    monkeypatch.setattr(fashion_mnist_files, 'check_route', lambda *_: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
    with pytest.raises(Exception, match=re.escape(str(error))) as raised:
      datasets.load('kmnist', data_dir=str(tmp_path))
    failure = failures.explained(raised.value)
    assert failure.code == code
    assert str(failure).startswith(said)


class TestHoldOut:
  def test_classes_with_few_pictures_keep_them(self):
    labels = np.array([0, 0, 1, 1, 1, 2])
    digests = [b'a', b'b', b'c', b'd', b'e', b'f']
    held_out = splits.hold_out(labels, digests, 0.1)
    assert held_out.tolist() == [False, False, True, False, False, False]

  def test_one_picture_with_two_labels_stays_together(self):
    labels = np.array([0, 1] * 50)
    digests = [bytes([i // 2]) for i in range(100)]
    held_out = splits.hold_out(labels, digests, 0.2)
    assert held_out[::2].tolist() == held_out[1::2].tolist()
    assert held_out.sum() == 20
