"""Flags, inputs, models and outputs that the scorer refuses before any work."""

import json
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch import flags, main
from benchmarks import collection
from images import model_card
from tests import reader_kit
from tests.pictures import noise_pngs


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> pathlib.Path:
  """One file of each kind, right and wrong."""
  home, encoded = tmp_path_factory.mktemp('place'), noise_pngs(3)
  (home / 'mystery.dat').write_bytes(b'what is this?')
  for name in ('a.png', 'b.png'):
    (home / name).write_bytes(encoded[0])
  rows = ((n, data, n) for n, data in enumerate(encoded[:3]))
  collection.write_tfrecord(str(home / 'a.tfrecord'), rows)
  pq.write_table(
    pa.table({'image': encoded[:3], 'n': [1, 2, 3], 'label': ['a', 'b', 'c']}), home / 'a.parquet'
  )
  pq.write_table(pa.table({'n': [1, 2, 3]}), home / 'no image.parquet')
  (home / 'broken.parquet').write_bytes(b'PAR1 no')
  (home / 'a.idx').write_bytes(encoded[0])
  (home / 'list.csv').write_text('id,label\na,b\n')
  (home / 'empty.txt').write_text('\n')
  (home / 'nothing').mkdir()
  return home


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    (['--input=none/*.png'], ['--input=none/*.png', 'matches no file']),
    (['--input=a.png', '--input=nothing'], ['--input=nothing', 'matches no file']),
    (['--input=a*'], ['several formats', 'a.png', 'a.tfrecord', 'a.parquet']),
    (['--input=mystery.dat'], ['mystery.dat', '--input_format']),
    (['--input=empty.txt'], ['empty.txt', 'contains no images']),
    (['--input=a.idx'], ['a.idx', 'not an IDX file']),
    (['--input=list.csv'], ['list.csv', 'id, label', '--image_column']),
    (['--input=no image.parquet'], ['no column of images', '--image_column']),
    (['--input=broken.parquet'], ['broken.parquet', 'Parquet']),
    (['--input=a.parquet', '--image_column=photo'], ['--image_column=photo', 'image, n, label']),
    (['--input=a.parquet', '--image_column=n'], ['--image_column=n', 'int64']),
    (['--input=a.parquet', '--id_column=sku'], ['--id_column=sku', 'image, n, label']),
    (['--input=a.parquet', '--label_column=kind'], ['--label_column=kind', 'image, n, label']),
    (['--input=a.parquet', '--carry=n,weight'], ['--carry=weight', 'image, n, label']),
    (['--input=a.parquet', '--carry=label'], ['--carry=label', 'rename']),
    (['--input=a.png', '--carry=n'], ['--carry=n', 'Parquet']),
    (['--input=a.tfrecord', '--label_from=directory'], ['--label_from=directory', 'tfrecord']),
    (['--input=a.png', '--input_format=tfrecords'], ['--input_format', 'tfrecords', 'parquet']),
    (['--input=a.png', '--precision=float8'], ['--precision', 'float8', 'bfloat16']),
    (['--input=a.png', '--preprocess=yes'], ['--preprocess', 'yes', 'photo']),
    (['--input=a.png', '--rows_per_file=0'], ['--rows_per_file', "'0'", 'at least 1']),
    (['--input=a.png', '--max_pixels=1'], ['--max_pixels=1', '784']),
    (['--input=a.png', '--chunk_images=many'], ['--chunk_images', 'many', 'whole number']),
    (['--input=a.png', '--top_k=11'], ['--top_k=11', '10']),
    (['--input=a.png', '--max_reject_fraction=2'], ['--max_reject_fraction', "'2'", '0 to 1']),
    (['--input=a.png', '--runner'], ['--runner: expected one argument']),
    (['--input=a.png', '--direct_num_workers=two'], ['--direct_num_workers', "'two'"]),
    (['--input=a.png', '--streaming=yes'], ['--streaming', "'yes'"]),
    (
      ['--input=a.png', '--runner=DataflowRunner', '--num_workers=two'],
      ['--num_workers', "'two'"],
    ),
    (['--input=a.png', '--overwrite', '--resume'], ['--overwrite', '--resume']),
    (['--input=a.png', '--presicion=float32'], ['--presicion', '--help']),
    (['a.png'], ['--input']),
    ([], ['--input is missing']),
    (['--input=a.png', '--model='], ['--model is missing']),
    (['--input=a.png', '--model=nothing'], ['--model=nothing', 'export/1']),
    (['--input=a.png', '--output='], ['--output is missing']),
    (['--input=a.png', '--output=a.png/x'], ['--output=a.png/x', 'cannot be written']),
  ],
)
def test_what_will_not_do_is_one_line_before_any_work(
  flags, expected, exported, place, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(place)
  before = sorted(place.rglob('*'))
  assert main.cli([f'--model={exported}', f'--output={tmp_path}/out', *flags]) == 64
  error = capsys.readouterr().err
  assert error.startswith('lookbook-score: ')
  assert error.count('\n') == 1, error
  assert all(part in error for part in expected), error
  assert not (tmp_path / 'out').exists()
  assert sorted(place.rglob('*')) == before


@pytest.mark.parametrize('damage', ['no labels', 'no card', 'another shape', 'another signature'])
def test_a_foreign_model_is_refused(damage, exported, place, tmp_path, capsys):
  model = tmp_path / 'model'
  shutil.copytree(exported, model)
  card = model / 'assets' / 'model_card.json'
  if damage == 'no labels':
    (model / 'assets' / 'labels.txt').unlink()
  elif damage == 'no card':
    card.unlink()
  elif damage == 'another shape':
    card.write_text(
      json.dumps(
        {**json.loads(card.read_text()), 'input': {'shape': [32, 32, 3], 'dtype': 'float32'}}
      )
    )
  else:
    graph = (model / 'saved_model.pb').read_bytes()
    (model / 'saved_model.pb').write_bytes(graph.replace(b'serve_pixels', b'serve_pickle'))
  assert main.cli([f'--model={model}', f'--input={place}/a.png', f'--output={tmp_path}/out']) == 64
  error = capsys.readouterr().err
  assert f'--model={model}' in error
  assert 'export/1' in error
  assert error.count('\n') == 1
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('shape', 'expected'), [((28, 28, 1), 4096), ((1024, 1024, 3), 21)])
def test_a_chunk_has_few_images_if_the_models_are_large(shape, expected):
  card = model_card.ModelCard('1', ('a', 'b'), shape)
  assert flags.fit_model(reader_kit.settings(max_pixels=1 << 20), card).chunk_images == expected
