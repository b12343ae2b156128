"""The commands of docs/own-data.md, one after the other, on photos of drawn letters."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from tests.train_kit import ROOT
from trainer import datasets, export

COMMAND = re.compile(r'^    python -m (\S+) (.*)$', re.MULTILINE)
QUICK = {  # further flags
  'trainer.main': ['--epochs=30', '--image_size=24'],
  'batch.main': ['--label_from=directory', '--direct_num_workers=1'],
}
LETTERS = 'ACX'


def photograph(letter: str, random: np.random.Generator) -> Image.Image:
  """Returns a letter somewhere on a ground of another colour, of a size of its own."""
  width, height = (int(side) for side in random.integers(70, 140, 2))
  dark, light = random.integers(0, 90, 3), random.integers(165, 256, 3)
  colours = [tuple(map(int, colour)) for colour in (dark, light)]
  image = Image.new('RGB', (width, height), colours[1])
  place = tuple(int(free) for free in random.integers(2, 20, 2))
  draw = ImageDraw.Draw(image)
  draw.text(place, letter, colours[0], ImageFont.load_default(float(random.integers(40, 56))))
  return image


@pytest.fixture(scope='module')
def home(tmp_path_factory) -> pathlib.Path:
  """Returns a directory with photos/ and new-photos/ after the page's commands were run there."""
  home, random = tmp_path_factory.mktemp('own'), np.random.default_rng(0)
  for folder, count in (('photos', 240), ('new-photos', 20)):
    for letter in LETTERS:
      (home / folder / letter).mkdir(parents=True)
      for number in range(count):
        photograph(letter, random).save(home / folder / letter / f'{number:03}.jpg', quality=92)
  for module, flags in COMMAND.findall((ROOT / 'docs/own-data.md').read_text()):
    quick = ['--epochs=1'] if '--init_from' in flags or '--data_dir' in flags else []
    result = subprocess.run(
      [sys.executable, '-m', module, *shlex.split(flags), *QUICK[module], *quick],
      cwd=home,
      env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin', 'HOME': str(home)},
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == 0, result.stderr
    (home / f'{module}.log').write_text(result.stderr)
  return home


@pytest.mark.slow
def test_new_photos_are_scored_as_the_trainer_would_to_the_digit(home):
  dataset = datasets.load('folder', source=str(home / 'new-photos'), image_size=24)
  model = tf.saved_model.load(str(home / 'runs/mine/export/1'))
  model.serve_pixels = lambda pixels: model.signatures['serve_pixels'](pixels=tf.constant(pixels))
  right = sum(
    int((export.predict(model, part.pixels).argmax(axis=1) == part.labels).sum())
    for part in map(dataset.read, datasets.SPLITS)
  )
  summary = json.loads((home / 'scored/summary.json').read_text())
  assert (summary['images_labelled'], summary['images_rejected']) == (60, 0)
  assert summary['accuracy'] == right / 60 >= 0.9


@pytest.mark.slow
def test_the_training_held_out_a_tenth_of_each_class(home):
  trained = json.loads((home / 'runs/mine/metrics.json').read_text())
  assert [row['test_images'] for row in trained['per_class'].values()] == [24, 24, 24]
  assert trained['test_images_in_training'] == 0
  assert trained['test_accuracy'] >= 0.9


@pytest.mark.slow
def test_the_pictures_are_prepared_where_the_page_says(home):
  found = sorted((home / 'data/prepared').glob('*/*'))
  assert [path.name for path in found] == ['chunks.jsonl', 'pixels']


@pytest.mark.slow
def test_the_last_training_says_what_it_took_from_the_first(home):
  said = (home / 'trainer.main.log').read_text()
  assert 'runs/mine/export/1: all 10 arrays of weights are taken' in said
  last = json.loads((home / 'runs/more/metrics.json').read_text())
  assert last['init_from'] == 'runs/mine/export/1'
