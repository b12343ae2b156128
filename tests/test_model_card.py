"""The contract between trainer and scorer, and models that keep it, whatever their shape."""

import json
import pathlib

import numpy as np
import pytest
from absl import app

from images import model_card
from tests import model_kit, pictures
from tests import score_kit as kit

LABELS = ['a', 'b']
# As exports before `preprocessing` wrote it, and before `input` and `training_distribution`.
OLDER = {
  'version': 'seed-1a2b3c4d5e6f',
  'test_accuracy': 0.93,
  'input': {'shape': [28, 28, 1], 'dtype': 'uint8', 'background': 0},
  'training_distribution': {
    'pixel_histogram': {'edges': list(range(0, 257, 16)), 'fractions': [1 / 16] * 16},
    'class_fractions': [0.25, 0.75],
  },
}
OLDEST = {'version': 'seed-1a2b3c4d5e6f'}


def test_a_card_survives_its_json():
  card = model_card.ModelCard('v', ('a', 'b'), (32, 20, 3), 255, 'fit', (1 / 16,) * 16, (0.5, 0.5))
  assert model_card.from_json(json.loads(json.dumps(card.to_json())), LABELS) == card


def test_the_cards_of_older_exports_are_read():
  assert model_card.from_json(OLDEST, LABELS) == model_card.ModelCard(
    'seed-1a2b3c4d5e6f', ('a', 'b'), (28, 28, 1), 0, 'fashion_mnist'
  )
  card = model_card.from_json(OLDER, LABELS)
  assert (card.image_shape, card.background, card.preprocessing) == (
    (28, 28, 1),
    0,
    'fashion_mnist',
  )
  assert card.training_pixels == (1 / 16,) * 16
  assert card.training_classes == (0.25, 0.75)
  rgb = {'version': 'v', 'input': {'shape': [32, 32, 3]}}
  assert model_card.from_json(rgb, LABELS).preprocessing == 'fit'


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    ([], r'the card is \[\], not an object'),
    ({'version': None}, 'version is None'),
    ({'version': ''}, "version is ''"),
    ({'version': 7}, 'version is 7'),
    ({'version': 'a\nb'}, 'version is '),
    ({'input': []}, r'input is \[\]'),
    ({'input': {'dtype': 'float32'}}, "dtype is 'float32', not uint8"),
    ({'input': {'shape': [28, 28]}}, r'shape is \[28, 28\]'),
    ({'input': {'shape': 28}}, 'shape is 28'),
    ({'input': {'shape': [28, -28, 1]}}, r'shape is \[28, -28, 1\]'),
    ({'input': {'shape': [28, 28.0, 1]}}, r'shape is \[28, 28.0, 1\]'),
    ({'input': {'shape': [True, 28, 1]}}, r'shape is \[True, 28, 1\]'),
    ({'input': {'shape': [28, 28, 4]}}, r'shape is \[28, 28, 4\]: 4 channels, not 1 or 3'),
    ({'input': {'background': 256}}, 'background is 256'),
    ({'input': {'background': '0'}}, "background is '0'"),
    ({'input': {'preprocessing': 'crop'}}, "preprocessing is 'crop'; with 1 channels"),
    ({'input': {'shape': [9, 9, 3], 'preprocessing': 'fashion_mnist'}}, 'must be one of fit'),
    ({'training_distribution': 'x'}, "training_distribution is 'x'"),
    ({'training_distribution': {'class_fractions': [1]}}, r'class_fractions is \[1\], not 2'),
    ({'training_distribution': {'class_fractions': [1, 'x']}}, 'class_fractions is'),
    ({'training_distribution': {'class_fractions': [float('nan'), 1]}}, 'class_fractions is'),
    ({'training_distribution': {'class_fractions': [0, 0]}}, 'zero everywhere'),
    ({'training_distribution': {'pixel_histogram': {'fractions': [0.1] * 10}}}, 'not 16 fractions'),
  ],
)
def test_a_hostile_card_is_refused_by_the_bad_value(changes, named):
  card = {**OLDER, **changes} if isinstance(changes, dict) else changes
  with pytest.raises(ValueError, match=named):
    model_card.from_json(card, LABELS)


@pytest.mark.parametrize(
  ('name', 'content', 'named'),
  [
    ('saved_model.pb', None, 'has no saved_model.pb'),
    ('saved_model.pb', b'serve_pickle', 'has no signature serve_pixels'),
    ('assets/labels.txt', None, 'assets cannot be read'),
    ('assets/labels.txt', b'', 'no labels'),
    ('assets/labels.txt', b'\xff\n', 'invalid'),
    ('assets/model_card.json', None, 'assets cannot be read'),
    ('assets/model_card.json', b'', 'invalid'),
    ('assets/model_card.json', b'{"version": 1}', 'version is 1'),
    ('assets/model_card.json', b'[' * 100_000, 'invalid'),
  ],
)
def test_a_model_that_breaks_the_contract_is_refused_in_one_line(name, content, named, tmp_path):
  model_files = {
    'saved_model.pb': b'serve_pixels',
    'assets/labels.txt': b'a\nb\n',
    'assets/model_card.json': json.dumps(OLDER).encode(),
    name: content,
  }
  (tmp_path / 'assets').mkdir()
  for each, data in model_files.items():
    if data is not None:
      (tmp_path / each).write_bytes(data)
  with pytest.raises(app.UsageError, match=named) as caught:
    model_card.read(str(tmp_path))
  assert str(caught.value).startswith(f'--model={tmp_path}: ')
  assert 'pass the export/1 directory' in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('shape', 'classes'), [((28, 28, 1), 7), ((28, 28, 1), 200), ((32, 32, 3), 7), ((20, 31, 3), 200)]
)
def test_models_of_any_shape_and_number_of_classes_are_scored(shape, classes, tmp_path):
  labels = [f'class {i}' for i in range(classes)]
  card = model_kit.export_model(tmp_path / 'model', shape, labels)
  assert model_card.read(str(tmp_path / 'model')) == card
  (tmp_path / 'in').mkdir()
  expected = np.arange(classes) if classes < 100 else np.arange(0, classes, 10)
  for label in expected:
    brightness = round(255 * label / (classes - 1))
    image = np.full(shape, brightness, np.uint8)
    drawn = image if shape[2] == 3 else image[..., 0]
    folder = tmp_path / 'in' / labels[label]
    folder.mkdir()
    (folder / f'{label}.png').write_bytes(pictures.saved(drawn, 'PNG'))
  summary = kit.score(
    str(tmp_path / 'model'), tmp_path / 'in', tmp_path / 'out', '--label_from=directory'
  )
  assert (summary['images_scored'], summary['images_rejected']) == (len(expected), 0)
  assert (summary['images_labelled'], summary['accuracy']) == (len(expected), 1.0)
  table = kit.predictions(pathlib.Path(tmp_path / 'out'))
  by_label = dict(zip(table['label'].to_pylist(), table['label_index'].to_pylist(), strict=True))
  assert by_label == {labels[label]: label for label in expected}
  assert {len(row) for row in table['probabilities'].to_pylist()} == {classes}
