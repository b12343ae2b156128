"""The dataset of a folder of pictures: what is read, which are held out, and what is refused."""

import errno
import fcntl
import json
import os
import pathlib
import shutil
import socket
import time

import numpy as np
import pytest
from absl import app
from PIL import Image

from images import model_card
from storage import files
from tests import bucket, edge_kit, pictures
from tests.train_kit import run_trainer, write_image_folder
from trainer import data, datasets
from trainer.datasets import folder, prepared, scorers_readers


def load(source: pathlib.Path | None, **options) -> datasets.Dataset:
  """Returns the dataset in a folder."""
  return datasets.load('folder', source=source and str(source), **options)


@pytest.fixture
def small(tmp_path) -> pathlib.Path:
  """Returns a folder of 12 images per class and split, of one size."""
  return write_image_folder(tmp_path / 'pictures')


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
  """Returns a folder of 30 photos of several sizes in each of two classes, not split."""
  random = np.random.default_rng(0)
  for label, brightness in (('dark', 60), ('light', 200)):
    folder = tmp_path / 'photos' / label
    folder.mkdir(parents=True)
    for number in range(30):
      shape = (70 + number, 90, 3)
      noise = np.clip(random.normal(brightness, 20, shape), 0, 255).astype(np.uint8)
      (folder / f'{number:02}.jpg').write_bytes(pictures.saved(noise, 'JPEG'))
  return tmp_path / 'photos'


def everything(dataset: datasets.Dataset) -> dict[str, list[bytes]]:
  """Returns the images of each split as bytes, sorted."""
  return {
    split: sorted(image.tobytes() for image in dataset.read(split).pixels)
    for split in dataset.num_examples
  }


class TestImagesOfOneSize:
  @pytest.mark.parametrize('shape', [(20, 22, 3), (7, 5, 1)])
  def test_keep_it_and_the_order_of_their_paths(self, shape, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', shape)
    dataset = load(source)
    test = dataset.read('test')
    assert (dataset.image_shape, dataset.labels) == (shape, ('dark', 'grey', 'light'))
    assert test.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    for path, pixels in zip(sorted(source.glob('test/*/*.png')), test.pixels, strict=True):
      np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)).reshape(shape))

  def test_beside_other_files_which_are_counted(self, small, caplog):
    (small / 'train/dark/notes.txt').write_text('dark ones')
    (small / 'train/index.png').write_bytes(b'')
    (small / 'train/dark/more').mkdir()
    (small / 'train/dark/more/0000.png').write_bytes(b'')
    (small / 'train/.hidden.png').write_bytes(b'')
    assert load(small).num_examples == {'train': 33, 'validation': 3, 'test': 36}
    assert 'left out: 3, such as train/dark/more/0000.png; pictures are train/LABEL' in caplog.text
    assert 'left out: 1 (hidden file)' in caplog.text

  @pytest.mark.parametrize(('train', 'test'), [('Train', 'val'), ('training', 'Valid')])
  def test_in_splits_by_their_usual_names(self, train, test, small):
    (small / 'train').rename(small / train)
    (small / 'test').rename(small / test)
    assert load(small).num_examples == {'train': 33, 'validation': 36, 'test': 3}

  def test_of_classes_that_are_called_like_splits(self, small):
    (small / 'train').rename(small / 'other')
    (small / 'test/dark').rename(small / 'train')
    (small / 'other/light').rename(small / 'light')
    for rest in ('test', 'other'):
      shutil.rmtree(small / rest)
    assert load(small).labels == ('light', 'train')

  def test_with_a_validation_split_of_their_own(self, small, tmp_path):
    (write_image_folder(tmp_path / 'more') / 'test').rename(small / 'validation')
    assert load(small).num_examples == {'train': 36, 'validation': 36, 'test': 36}
    with pytest.raises(app.UsageError, match=r'--validation_examples=5: .* has its own validation'):
      load(small, validation_examples=5)

  def test_beside_one_that_is_too_large_to_decode(self, small):
    huge = Image.fromarray(np.zeros((8000, 8000), np.uint8))
    (small / 'train/dark/huge.png').write_bytes(pictures.saved(huge, 'PNG'))
    dataset = load(small)
    assert dataset.image_shape == (20, 22, 3)
    ((_, _, reason),) = dataset.rejects
    assert reason == '8000x8000 is more than 50000000 pixels: not decoded'


class TestGreyPictures:
  @pytest.fixture
  def grey(self, tmp_path) -> pathlib.Path:
    """Returns a folder of 12 grey pictures per class and split."""
    return write_image_folder(tmp_path / 'pictures', (20, 20, 1))

  def save(self, path: pathlib.Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path.write_bytes(pictures.saved(picture, 'PNG'))

  def test_of_one_class_are_trained_on_in_colour(self, grey):
    for path in grey.glob('*/dark/*.png'):  # which are read first
      path.write_bytes(path.read_bytes() + bytes(1 << 20))
    for path in grey.glob('*/light/*.png'):
      self.save(path, (20, 20, 3))
    assert load(grey).image_shape == (20, 20, 3)

  def test_others_among_them_are_counted_unless_asked_for(
    self, grey, tmp_path, monkeypatch, caplog
  ):
    monkeypatch.setattr(folder, 'SAMPLE_PICTURES', 1)
    self.save(grey / 'train/dark/0003.png', (20, 20, 3))
    self.save(grey / 'train/dark/0004.png', (20, 22, 3))
    (grey / 'train/dark/0005.png').write_bytes(b'')
    for _ in range(2):
      dataset = load(grey, data_dir=str(tmp_path / 'data'))
      assert dataset.image_shape == (20, 20, 1)
      assert 'different: 2 (picture stored in colour, made grey; --channels=rgb' in caplog.text
      assert 'different: 1 (picture of another size than 20x20, fitted' in caplog.text
      caplog.clear()
    load(grey, image_size=20, channels='grey')
    assert 'different' not in caplog.text


class TestPhotos:
  def test_become_small_and_rgb_unless_asked_otherwise(self, photos):
    assert load(photos).image_shape == (64, 64, 3)
    assert load(photos, image_size=32, channels='grey').image_shape == (32, 32, 1)

  def test_some_of_each_class_are_held_out(self, photos):
    dataset = load(photos)
    assert dataset.num_examples == {'train': 48, 'validation': 6, 'test': 6}
    for split, each in (('train', 24), ('validation', 3), ('test', 3)):
      assert np.bincount(dataset.read(split).labels).tolist() == [each, each]
    assert load(photos, validation_examples=20).num_examples['validation'] == 20

  def test_the_same_ones_whatever_they_are_called_and_the_copies_with_them(self, photos):
    before = everything(load(photos))
    for path in photos.glob('*/*.jpg'):
      path.rename(path.with_name(f'{99 - int(path.stem)}.jpg'))
    assert everything(load(photos)) == before
    for path in list(photos.glob('*/*.jpg'))[::2]:
      (path.parent / f'copy of {path.name}').write_bytes(path.read_bytes())
    sides = [set(side) for side in everything(load(photos)).values()]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 60

  def test_of_a_class_with_two_are_all_trained_on_with_a_warning(self, photos, caplog):
    (photos / 'rare').mkdir()
    for number in range(2):
      (photos / f'dark/0{number}.jpg').rename(photos / f'rare/{number}.jpg')
    dataset = load(photos)
    counts = [np.bincount(dataset.read(split).labels, minlength=3)[2] for split in datasets.SPLITS]
    assert counts == [2, 0, 0]
    assert 'classes without a test picture: 1, such as rare' in caplog.text

  def test_with_two_labels_are_counted(self, photos, caplog):
    for number in range(2):
      shutil.copy(photos / f'dark/0{number}.jpg', photos / f'light/copy{number}.jpg')
    load(photos)
    assert 'several labels, in copies: 2, such as one of dark and light' in caplog.text

  def test_that_cannot_be_read_are_left_out_and_listed(self, photos):
    (photos / 'dark/00.jpg').write_bytes(b'not an image')
    dataset = load(photos)
    assert sum(dataset.num_examples.values()) == 59
    ((name, stage, reason),) = dataset.rejects
    assert (name, stage) == (str(photos / 'dark/00.jpg'), 'decode')
    assert 'text, which is not read' in reason


class TestPrepared:
  def same(self, one: datasets.Dataset, other: datasets.Dataset) -> None:
    assert (one.labels, one.image_shape, one.rejects) == (
      other.labels,
      other.image_shape,
      other.rejects,
    )
    for split in datasets.SPLITS:
      both = [dataset.read(split) for dataset in (one, other)]
      np.testing.assert_array_equal(both[0].pixels[:], both[1].pixels[:])
      np.testing.assert_array_equal(both[0].labels, both[1].labels)

  def test_pictures_on_disk_are_those_in_memory_and_are_decoded_once(self, photos, tmp_path):
    (photos / 'dark/30.jpg').write_bytes(b'')
    in_memory, first = load(photos), load(photos, data_dir=str(tmp_path / 'data'))
    self.same(in_memory, first)
    contents = {path: path.stat().st_size for path in photos.glob('*/*.jpg')}
    for path, size in contents.items():
      path.write_bytes(b'?' * size)  # what is prepared is not read again
    self.same(in_memory, load(photos, data_dir=str(tmp_path / 'data')))
    with pytest.raises(app.UsageError, match='none of 61 pictures can be used, such as '):
      load(photos, data_dir=str(tmp_path / 'data'), image_size=20)

  def test_goes_on_where_it_was_killed(self, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(scorers_readers, 'CHUNK_PICTURES', 8)
    home = tmp_path / 'data'
    expected = load(photos, data_dir=str(home))
    (whole,) = (home / 'prepared').glob('*[0-9a-f]')
    unfinished = whole.rename(f'{whole}.incomplete-{socket.gethostname()}')
    lines = (unfinished / 'chunks.jsonl').read_text().splitlines(keepends=True)
    assert len(lines) == 8
    (unfinished / 'chunks.jsonl').write_text(''.join(lines[:3]) + lines[3][:20])
    with open(unfinished / 'pixels', 'r+b') as pixels:
      pixels.truncate(29 * 64 * 64 * 3 + 5)
    already = sorted(photos.glob('*/*.jpg'))[:24]
    for path in already:
      path.write_bytes(b'?' * path.stat().st_size)
    self.same(expected, load(photos, data_dir=str(home)))
    assert (whole / 'chunks.jsonl').read_text() == ''.join(lines)
    os.truncate(whole / 'pixels', 64 * 64 * 3)
    with pytest.raises(app.UsageError, match=f'{whole}: is damaged; delete it'):
      load(photos, data_dir=str(home))

  def test_what_a_host_that_is_gone_left_is_deleted_a_day_later(self, tmp_path, monkeypatch):
    line, one = {'shape': [1, 1, 1], 'labels': ['a']}, np.ones((1, 1, 1, 1), np.uint8)
    for name, seconds in (('old', 90_000), ('new', 60)):
      monkeypatch.setattr(socket, 'gethostname', lambda name=name: name)
      with prepared.opened(str(tmp_path), 'x') as store:
        store.add(line, one)
      (left,) = tmp_path.glob(f'prepared/*.incomplete-{name}')
      os.utime(left, (time.time() - seconds,) * 2)
    monkeypatch.setattr(socket, 'gethostname', lambda: 'here')
    with prepared.opened(str(tmp_path), 'x') as store:
      store.add(line, one)
      store.complete()
    (kept,) = tmp_path.glob('prepared/*.incomplete*')
    assert kept.suffix == '.incomplete-new'

  def test_goes_on_after_images_that_were_not_recorded(self, tmp_path):
    line, one = {'shape': [1, 1, 1], 'labels': ['a']}, np.ones((1, 1, 1, 1), np.uint8)
    with prepared.opened(str(tmp_path), 'x') as store:
      store.add(line, one)
    (journal,) = tmp_path.glob('prepared/*/chunks.jsonl')
    journal.unlink()
    with prepared.opened(str(tmp_path), 'x') as store:
      store.add(line, 2 * one)
      store.complete()
    with prepared.opened(str(tmp_path), 'x') as store:
      assert store.images()[:].ravel().tolist() == [2]

  def test_hosts_that_no_lock_reaches_make_it_apart(self, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, 'flock', lambda *_: None)
    monkeypatch.setattr(socket, 'gethostname', iter(['one', 'other']).__next__)
    self.make_twice(tmp_path)

  def test_processes_without_locks_make_it_apart(self, tmp_path, monkeypatch):
    def flock(*_) -> None:
      raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, 'flock', flock)
    self.make_twice(tmp_path)

  def make_twice(self, home: pathlib.Path) -> None:
    """Makes the same of three pictures at the same time; the second then takes the first one's."""
    with prepared.opened(str(home), 'x') as one, prepared.opened(str(home), 'x') as other:
      for number in range(3):
        for store, label in ((one, 'first'), (other, 'second')):
          line = {'shape': [1, 1, 1], 'labels': [f'{label} {number}']}
          store.add(line, np.full((1, 1, 1, 1), number, np.uint8))
      one.complete()
      other.complete()
    assert [path.suffix for path in (home / 'prepared').iterdir() if path.is_dir()] == ['']
    with prepared.opened(str(home), 'x') as later:
      for store in (one, other, later):
        assert [line['labels'] for line in store.lines] == [[f'first {n}'] for n in range(3)]
        assert store.images()[:].ravel().tolist() == [0, 1, 2]

  def test_a_full_disk_is_to_be_retried(self, photos, tmp_path):
    home = tmp_path / 'data'
    load(photos, data_dir=str(home))
    (whole,) = (home / 'prepared').glob('*[0-9a-f]')
    for path in whole.iterdir():
      path.unlink()
    (whole / 'pixels').symlink_to('/dev/full')
    unfinished = whole.rename(f'{whole}.incomplete-{socket.gethostname()}')
    flags = ('--dataset=folder', f'--source={photos}', f'--data_dir={home}')
    result = run_trainer(f'--workdir={tmp_path / "run"}', *flags, '--global_batch_size=8')
    assert result.returncode == 1
    said = edge_kit.assert_one_line(result.stderr)
    assert f'{unfinished}: No space left on device; make room and rerun' in said

  def test_batches_from_disk_are_those_from_memory(self, photos, tmp_path):
    batches = [
      list(data.batches(dataset.read('train'), 0, 8, 2, first_step=3).take(4).as_numpy_iterator())
      for dataset in (load(photos), load(photos, data_dir=str(tmp_path)))
    ]
    for one, other in zip(*batches):
      for name in one:
        np.testing.assert_array_equal(one[name], other[name])

  def test_in_a_bucket_they_are_prepared_once(self, photos, tmp_path):
    with bucket.serving_this_process(tmp_path, every=3) as running:
      running.create('lookbook')
      first = load(photos, data_dir='gs://lookbook/data')
      self.same(load(photos), first)
      names = [os.path.basename(file.uri) for file in files.list_files('gs://lookbook/data')]
      assert names == ['chunks.jsonl', 'pixels']
      for path in photos.glob('*/*.jpg'):
        path.write_bytes(b'?' * path.stat().st_size)
      self.same(first, load(photos, data_dir='gs://lookbook/data'))


class TestRefused:
  def refuse(self, match: str, source: pathlib.Path | None, **options) -> None:
    with pytest.raises(app.UsageError, match=match):
      load(source, **options)

  def test_no_source(self):
    self.refuse('--source is not given', None)

  def test_what_is_for_other_datasets(self, small):
    self.refuse('takes --source, not --idx_dir', small, idx_dir='data')
    self.refuse('--split_column=side: is for --dataset=manifest', small, split_column='side')

  def test_no_pictures(self, tmp_path):
    self.refuse('has no pictures named LABEL', tmp_path)

  def test_what_is_no_folder(self, small):
    self.refuse('nowhere: does not exist; pass the folder of pictures', small / 'nowhere')
    self.refuse('0000.png: is a file; pass the folder', small / 'train/dark/0000.png')

  def test_one_class(self, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', labels=['all'])
    self.refuse('one class only, all', source)

  def test_a_class_without_pictures(self, small, photos):
    (photos / 'grey').mkdir()
    self.refuse('grey has no pictures; add some, or remove the folder', photos)
    (small / 'train/white').mkdir()
    self.refuse('train/white has no pictures', small)

  def test_a_class_whose_pictures_cannot_be_read(self, photos):
    (photos / 'grey').mkdir()
    (photos / 'grey/00.jpg').write_bytes(b'')
    self.refuse('the class grey has no picture that can be read', photos)

  def test_a_class_to_test_that_is_not_trained(self, small):
    (small / 'test/dark').rename(small / 'test/black')
    self.refuse('test/ has black, which train/ does not have', small)

  def test_two_folders_for_one_split(self, small):
    write_image_folder(small / 'more')
    (small / 'more/train').rename(small / 'val')
    (small / 'more/test').rename(small / 'valid')
    self.refuse('val/ and valid/ are both for validation; put them together', small)

  @pytest.mark.parametrize(
    ('flags', 'said'),
    [
      (['--global_batch_size=9', '--replicas=2'], '--global_batch_size=9: not divisible by 2'),
      (['--init_from=none'], '--init_from=none: '),
      (['--seed=2'], '--seed=1 (now 2)'),
    ],
  )
  def test_what_the_flags_say_is_refused_before_pictures_are_decoded(
    self, flags, said, small, tmp_path
  ):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/settings.json').write_text('{"seed": 1}')
    source = ('--dataset=folder', f'--source={small}', f'--workdir={tmp_path / "run"}')
    result = run_trainer(*source, *flags)
    assert result.returncode == 64
    assert said in edge_kit.assert_one_line(result.stderr)
    assert 'images of 20x22' not in result.stderr  # which is logged when the first are read

  def test_more_to_validate_on_than_there_is(self, photos):
    self.refuse('--validation_examples=54: none of 54 images left', photos, validation_examples=54)

  def test_images_too_small_for_the_network(self, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', (15, 30, 1))
    result = run_trainer(f'--workdir={tmp_path / "run"}', '--dataset=folder', f'--source={source}')
    assert result.returncode == 64
    said = edge_kit.assert_one_line(result.stderr)
    assert '--model=seed: takes images of 16x16 pixels or more' in said
    assert '15x30; pass --model=best or --image_size=16' in said


@pytest.mark.parametrize('model', ['seed', pytest.param('best', marks=pytest.mark.slow)])
def test_a_training_learns_tests_and_exports(model, small, tmp_path):
  workdir = tmp_path / 'run'
  (small / 'train/light/0005.png').write_bytes(b'')
  pathlib.Path(os.fsdecode(os.fsencode(small) + b'/train/light/caf\xe9.png')).write_bytes(b'')
  flags = ('--dataset=folder', f'--source={small}', f'--model={model}', '--epochs=20')
  # 7 of three classes of 12 pictures become 6, also when the run is resumed
  flags = (f'--workdir={workdir}', *flags, '--validation_examples=7', '--global_batch_size=10')
  for _ in range(2):
    result = run_trainer(*flags)
    assert result.returncode == 0, result.stderr
  metrics = json.loads((workdir / 'metrics.json').read_text())
  assert metrics['test_accuracy'] > 0.6  # a third by chance
  assert metrics['dataset'] == 'folder'
  rejects = list(map(json.loads, (workdir / 'rejects.jsonl').read_text().splitlines()))
  assert [reject['reason'] for reject in rejects] == ['the file is empty'] * 2
  names = [f'{small}/train/light/0005.png', f'file:{small}/train/light/caf%E9.png']
  assert [reject['id'] for reject in rejects] == names
  assert list(metrics['per_class']) == ['dark', 'grey', 'light']
  card = model_card.read(str(workdir / 'export/1'))
  assert (card.image_shape, card.labels) == ((20, 22, 3), ('dark', 'grey', 'light'))
  assert card.preprocessing == 'fit'
  assert 'The 36 test images' in (workdir / 'report/report.html').read_text()

  import tensorflow as tf

  path = small / 'test/light/0000.png'
  signatures = tf.saved_model.load(str(workdir / 'export/1')).signatures
  encoded = signatures['serve_encoded'](encoded=tf.constant([path.read_bytes()]))
  pixels = signatures['serve_pixels'](pixels=tf.constant(np.asarray(Image.open(path))[None]))
  np.testing.assert_allclose(encoded['probabilities'], pixels['probabilities'], atol=1e-6)
