"""The dataset image_folder: a training on it, and what is refused."""

import json
import pathlib

import numpy as np
import pytest
from absl import app
from PIL import Image

from images import model_card
from tests.train_kit import run_trainer, write_image_folder
from trainer import datasets


def load(source: pathlib.Path | None, **paths: str) -> datasets.Dataset:
  """Returns the dataset in a folder."""
  given = {'data_dir': None, 'idx_dir': None, **paths}
  return datasets.load('image_folder', source=source and str(source), **given)


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
  """Returns a folder of 12 images per class and split."""
  return write_image_folder(tmp_path / 'pictures')


class TestReading:
  @pytest.mark.parametrize('shape', [(20, 22, 3), (7, 5, 1)])
  def test_has_every_image_in_the_order_of_the_paths(self, shape, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', shape)
    dataset = load(source)
    train = dataset.read('train')
    assert (dataset.image_shape, dataset.labels) == (shape, ('dark', 'grey', 'light'))
    assert dataset.num_examples == {'train': 36, 'test': 36}
    assert train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    paths = sorted(source.glob('train/*/*.png'))
    for path, pixels in zip(paths, train.pixels, strict=True):
      np.testing.assert_array_equal(pixels, np.asarray(Image.open(path)).reshape(shape))

  def test_ignores_other_files(self, pictures):
    (pictures / 'train/dark/notes.txt').write_text('dark ones')
    (pictures / 'train/index.png').write_bytes(b'')
    assert load(pictures).num_examples['train'] == 36


class TestRefused:
  def test_no_source(self):
    with pytest.raises(app.UsageError, match='--source is not given'):
      load(None)

  def test_the_paths_of_fashion_mnist(self, pictures):
    with pytest.raises(app.UsageError, match='takes --source, not --data_dir'):
      load(pictures, data_dir='data')

  @pytest.mark.parametrize('split', ['train', 'test'])
  def test_a_split_that_is_missing(self, split, pictures, tmp_path):
    (pictures / split).rename(tmp_path / 'elsewhere')
    with pytest.raises(app.UsageError, match=f'pictures: has no images named {split}/LABEL'):
      load(pictures)

  def test_one_class(self, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', labels=['all'])
    with pytest.raises(app.UsageError, match='one class only, all'):
      load(source)

  def test_a_class_to_test_that_is_not_trained(self, pictures):
    (pictures / 'test/dark').rename(pictures / 'test/black')
    with pytest.raises(app.UsageError, match='test/ has black, which train/ does not have'):
      load(pictures)

  def test_an_image_of_another_size(self, pictures):
    Image.new('RGB', (21, 20)).save(pictures / 'train/light/0005.png')
    with pytest.raises(app.UsageError, match=r'light/0005\.png cannot be used \(21x20 RGB, not'):
      load(pictures).read('train')

  def test_a_file_that_is_no_image(self, pictures):
    (pictures / 'test/grey/0003.png').write_bytes(b'not an image')
    with pytest.raises(
      app.UsageError, match=r'grey/0003\.png cannot be used \(text, which is not read'
    ):
      load(pictures).read('test')

  def test_a_first_file_that_is_no_image(self, pictures):
    (pictures / 'train/dark/0000.png').write_bytes(b'not an image')
    with pytest.raises(app.UsageError, match=r'dark/0000\.png cannot be read'):
      load(pictures)

  def test_images_too_small_for_the_network(self, tmp_path):
    source = write_image_folder(tmp_path / 'pictures', (17, 30, 1))
    flags = ('--dataset=image_folder', f'--source={source}', '--validation_examples=6')
    result = run_trainer(f'--workdir={tmp_path / "run"}', *flags, '--global_batch_size=10')
    assert result.returncode == 64
    assert '--model=seed: takes images of 18x18 pixels or more' in result.stderr
    assert '17x30; pass --model=best' in result.stderr


@pytest.mark.parametrize('model', ['seed', pytest.param('best', marks=pytest.mark.slow)])
def test_a_training_learns_tests_and_exports(model, pictures, tmp_path):
  workdir = tmp_path / 'run'
  flags = ('--dataset=image_folder', f'--source={pictures}', f'--model={model}', '--epochs=20')
  result = run_trainer(
    f'--workdir={workdir}', *flags, '--validation_examples=6', '--global_batch_size=10'
  )
  assert result.returncode == 0, result.stderr
  metrics = json.loads((workdir / 'metrics.json').read_text())
  assert metrics['test_accuracy'] > 0.6  # a third by chance
  assert metrics['dataset'] == 'image_folder'
  assert list(metrics['per_class']) == ['dark', 'grey', 'light']
  card = model_card.read(str(workdir / 'export/1'))
  assert (card.image_shape, card.labels) == ((20, 22, 3), ('dark', 'grey', 'light'))
  assert card.preprocessing == 'fit'
  assert 'The 36 test images' in (workdir / 'report/report.html').read_text()

  import tensorflow as tf

  path = pictures / 'test/light/0000.png'
  signatures = tf.saved_model.load(str(workdir / 'export/1')).signatures
  encoded = signatures['serve_encoded'](encoded=tf.constant([path.read_bytes()]))
  pixels = signatures['serve_pixels'](pixels=tf.constant(np.asarray(Image.open(path))[None]))
  np.testing.assert_allclose(encoded['probabilities'], pixels['probabilities'], atol=1e-6)
