"""What the scorer reads: each format, its damage, and inputs that will not do."""

import gzip
import io
import os
import pathlib
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from batch import chunk, main, tar, tfrecord
from benchmarks import collection
from tests import score_kit as kit
from tests.test_score_decode import bombs, header, png, saved


@pytest.fixture(scope='session')
def images(tfds_dir) -> tuple[np.ndarray, np.ndarray]:
  """The test images, uint8 (10000, 28, 28), and their labels."""
  pixels, labels, _ = collection.test_images(tfds_dir)
  return pixels[..., 0], labels


@pytest.fixture(scope='session')
def encoded(images) -> list[bytes]:
  return [saved(image, 'PNG') for image in images[0][:1000]]


# --- damage ---------------------------------------------------------------------------------------------------------


def tfrecord_file(path: pathlib.Path, encoded: list[bytes]) -> list[int]:
  """Writes a file and returns where its records begin."""
  collection._write_tfrecord(str(path), ((n, data, n % 10) for n, data in enumerate(encoded)))
  if path.suffix == '.gz':
    return []
  content, offsets, position = path.read_bytes(), [], 0
  while position < len(content):
    offsets.append(position)
    position += 16 + struct.unpack_from('<Q', content, position)[0]
  return offsets


def read_tfrecord(
  path: pathlib.Path, chunk_images: int = 7
) -> tuple[list[str], list[chunk.Reject]]:
  columns = list(tfrecord.read(chunk.Shard(0, 'tfrecord', str(path)), 0, chunk_images))
  return [i for part in columns for i in part.ids], [r for part in columns for r in part.rejects]


def test_a_tfrecord_record_with_a_broken_checksum_costs_itself(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  content = bytearray(path.read_bytes())
  content[offsets[5] + 100] ^= 1
  path.write_bytes(content)
  ids, rejects = read_tfrecord(path)
  assert ids == [f'test-{n:07d}' for n in range(20) if n != 5]
  assert [(r.id, r.reason) for r in rejects] == [
    (f'{path}@{offsets[5]}', 'the checksum of a record is wrong')
  ]


@pytest.mark.parametrize('huge', [False, True])
def test_after_a_broken_length_the_rest_of_a_tfrecord_is_rejected_by_offset(
  huge, encoded, tmp_path
):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  content = bytearray(path.read_bytes())
  content[offsets[12] + (6 if huge else 0)] ^= 1
  path.write_bytes(content)
  ids, rejects = read_tfrecord(path)
  assert len(ids) == 12
  (reject,) = rejects
  assert reject.id == f'{path}@{offsets[12]}'
  assert 'nothing after it can be read' in reject.reason
  assert [start for start, _, _ in tfrecord.split(str(path), 5)] == [
    offsets[0],
    offsets[5],
    offsets[10],
  ]


def test_a_tfrecord_cut_short_is_read_up_to_there(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  for cut in (offsets[9] + 5, offsets[9] + 12, offsets[9] + 60, offsets[10] - 1):
    path.write_bytes(path.read_bytes()[:cut])
    ids, rejects = read_tfrecord(path)
    assert len(ids) == 9
    assert [r.id for r in rejects] == [f'{path}@{offsets[9]}']
    tfrecord_file(path, encoded[:20])


def test_a_gzip_tfrecord_cut_short_is_read_up_to_there(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord.gz'
  tfrecord_file(path, encoded[:200])
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  ids, (reject,) = read_tfrecord(path, 50)
  assert 80 < len(ids) < 120
  assert ids == [f'test-{n:07d}' for n in range(len(ids))]
  assert 'cut short' in reject.reason
  damaged = bytearray(content)
  damaged[len(content) // 2] ^= 0xFF
  path.write_bytes(damaged)
  ids, rejects = read_tfrecord(path, 50)
  assert ids[:80] == [f'test-{n:07d}' for n in range(80)]
  assert rejects


def test_parts_of_a_tfrecord_file_hold_each_record_once(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  tfrecord_file(path, encoded[:23])
  parts = tfrecord.split(str(path), 5)
  assert [first for _, _, first in parts] == [0, 5, 10, 15, 20]
  shards = [
    chunk.Shard(0, 'tfrecord', str(path), start, stop, first) for start, stop, first in parts
  ]
  ids = [i for shard in shards for columns in tfrecord.read(shard, 0, 100) for i in columns.ids]
  assert ids == [f'test-{n:07d}' for n in range(23)]


def test_records_of_different_kinds_are_read_one_by_one(encoded, tmp_path):
  import tensorflow as tf

  path = tmp_path / 'mixed.tfrecord'
  value = lambda kind, v: tf.train.Feature(**{f'{kind}_list': {'value': [v]}})
  records = [
    {'image': value('bytes', encoded[0]), 'id': value('bytes', b'a'), 'label': value('int64', 3)},
    {
      'image': value('bytes', encoded[1]),
      'id': value('int64', 17),
      'label': value('bytes', b'Coat'),
    },
    {'image': value('bytes', encoded[2]), 'weight': value('float', 0.5)},
    {'weight': value('float', 0.5)},
  ]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for features in records:
      writer.write(
        tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
      )
    writer.write(b'\xff\xff\xffnot an example')
  (columns,) = tfrecord.read(chunk.Shard(0, 'tfrecord', str(path)), 0, 100)
  assert columns.ids == ['a', '17', f'{path}#2']
  assert list(columns.encoded) == encoded[:3]
  assert list(columns.labels) == [3, b'Coat', None]
  assert [r.id for r in columns.rejects] == [f'{path}#3', f'{path}#4']


@pytest.mark.parametrize('damage', ['cut in a header', 'cut in a member', 'no end', 'header'])
def test_a_damaged_tar_is_read_up_to_there(damage, encoded, tmp_path):
  path = tmp_path / 'a.tar'
  collection._write_tar(str(path), ((n, data, n % 10) for n, data in enumerate(encoded[:20])))
  content = bytearray(path.read_bytes())
  begin = content.index(b'test-0000012.png')
  if damage == 'header':
    content[begin + 3] ^= 1
  else:
    del content[begin + {'cut in a header': 100, 'cut in a member': 700, 'no end': 0}[damage] :]
  path.write_bytes(content)
  columns = list(tar.read(chunk.Shard(0, 'tar', str(path)), 0, 7))
  ids = [i for part in columns for i in part.ids]
  (reject,) = [r for part in columns for r in part.rejects]
  assert ids == [f'{path}#test-{n:07d}' for n in range(12)]
  assert reject.id == f'{path}@{begin}'


def test_tar_long_names_folders_and_samples_without_an_image(encoded, tmp_path):
  import tarfile

  path, long_name = tmp_path / 'a.tgz', 'a/' + 'very-' * 40 + 'long'
  for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    with tarfile.open(path, 'w:gz', format=kind) as archive:
      folder = tarfile.TarInfo('a')
      folder.type = tarfile.DIRTYPE
      archive.addfile(folder)
      for name, content in (
        (f'{long_name}.png', encoded[0]),
        (f'{long_name}.cls', b'7'),
        ('lonely.json', b'{}'),
      ):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (columns,) = tar.read(chunk.Shard(0, 'tar', str(path)), 0, 100)
    assert columns.ids == [f'{path}#{long_name}']
    assert list(columns.labels) == [b'7']
    assert [(r.id, r.reason) for r in columns.rejects] == [
      (f'{path}#lonely', 'the sample has no image, only .json')
    ]


def test_an_idx_file_cut_short_is_read_up_to_there(exported, images, tmp_path):
  collection._write_idx(str(tmp_path), 'a', images[0][:100], images[1][:100])
  path = tmp_path / 'a-images-idx3-ubyte'
  path.write_bytes(path.read_bytes()[: 16 + 784 * 60 + 5])
  summary = kit.score(exported, path, tmp_path / 'out', '--chunk_images=25')
  assert (summary['images_scored'], summary['images_labelled'], summary['images_rejected']) == (
    60,
    60,
    2,
  )
  rejects = kit.rejects(tmp_path / 'out')
  assert [reject['id'] for reject in rejects] == [f'{path}@{16 + 784 * row}' for row in (60, 75)]
  assert rejects[0]['reason'] == 'the file is cut short: images 60 to 74 are not there'


def test_idx_files_as_published_are_labelled_by_their_names(exported, idx_dir, metrics, tmp_path):
  summary = kit.score(exported, f'{idx_dir}/t10k-*', tmp_path / 'out', '--precision=float32')
  assert summary['images_labelled'] == 10_000
  assert summary['accuracy'] == metrics['test_accuracy']


# --- a folder as it comes -------------------------------------------------------------------------------------------


def bad_files(good: bytes) -> dict[str, bytes]:
  """Twenty kinds of file that cannot be scored, by name."""
  noise = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
  grey = Image.fromarray(noise)
  flipped = bytearray(good)
  flipped[len(good) // 2] ^= 0x55
  cut = lambda kind: saved(grey.convert('RGB') if kind == 'WEBP' else grey, kind)[:-700]
  exploding = bombs()
  return {
    'empty.png': b'',
    'text.png': b'just some words\n',
    'html.jpg': b'<!doctype html><title>404</title>',
    'zeros.png': bytes(500),
    'cut.png': good[: len(good) // 2],
    'end missing.png': good[:-12],
    'header only.png': good[:33],
    'signature only.png': good[:8],
    'flipped.png': bytes(flipped),
    'no data.png': png(header(28, 28), (b'IEND', b'')),
    'cut.jpg': cut('JPEG'),
    'cut.gif': cut('GIF'),
    'cut.bmp': cut('BMP'),
    'cut.webp': cut('WEBP'),
    'bomb.png': exploding['png'],
    'bomb.webp': exploding['webp extended'],
    'bomb.jpg': exploding['jpeg'],
    'one colour.png': saved(Image.new('RGB', (90, 60), (10, 200, 30)), 'PNG'),
    'tiff.png': saved(grey, 'TIFF'),
    'gzip.png': gzip.compress(good),
  }


def test_a_folder_of_1000_good_and_200_bad_images(exported, encoded, tmp_path):
  expected = set()
  for n, data in enumerate(encoded):
    path = tmp_path / 'in' / f'{n % 7}' / f'good-{n:04d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  kinds = bad_files(encoded[0])
  assert len(kinds) == 20
  for repeat in range(10):
    for name, data in kinds.items():
      path = tmp_path / 'in' / f'{repeat % 7}' / f'{repeat} {name}'
      path.write_bytes(data)
      expected.add(str(path))
  summary = kit.score(exported, tmp_path / 'in' / '**', tmp_path / 'out', '--chunk_images=100')
  assert (summary['images_scored'], summary['images_rejected'], summary['images_seen']) == (
    1000,
    200,
    1200,
  )
  rejects = kit.rejects(tmp_path / 'out')
  assert {reject['id'] for reject in rejects} == expected
  assert all(reject['stage'] == 'decode' and len(reject['reason']) > 10 for reject in rejects)
  assert sum(summary['reject_reasons'].values()) <= 200
  assert (tmp_path / 'out' / '_SUCCESS').exists()
  ids = kit.predictions(tmp_path / 'out')['id'].to_pylist()
  assert all(pathlib.Path(name).read_bytes() in encoded for name in ids[:20])


def test_photos_of_the_test_images_come_back_in_their_class(exported, images, encoded, tmp_path):
  """Each of 500 images, negated, eight times as large, somewhere on a white canvas, as a JPEG."""
  random = np.random.default_rng(0)
  (tmp_path / 'plain').mkdir()
  (tmp_path / 'photos').mkdir()
  for n in range(500):
    (tmp_path / 'plain' / f'{n:04d}.png').write_bytes(encoded[n])
    large = Image.fromarray(255 - images[0][n]).resize((224, 224), Image.Resampling.BICUBIC)
    canvas = Image.new('RGB', (640, 480), 'white')
    canvas.paste(large, (int(random.integers(0, 416)), int(random.integers(0, 256))))
    canvas.save(tmp_path / 'photos' / f'{n:04d}.jpg', quality=90)
  kit.score(exported, tmp_path / 'plain', tmp_path / 'a', '--precision=float32')
  summary = kit.score(exported, tmp_path / 'photos', tmp_path / 'b', '--precision=float32')
  assert summary['images_converted'] == 500
  same = (kit.by_number(tmp_path / 'a')[0] == kit.by_number(tmp_path / 'b')[0]).mean()
  print(f'{100 * same:.1f} % of the photos have the class of the image')
  assert same >= 0.9


def test_a_manifest_names_files_wherever_they_are(exported, encoded, tmp_path):
  (tmp_path / 'in').mkdir()
  for n in range(5):
    (tmp_path / 'in' / f'{n}.png').write_bytes(encoded[n])
  lines = ['in/0.png', '', str(tmp_path / 'in' / '1.png'), 'in/2.png', 'in/missing.png', 'in/3.png']
  (tmp_path / 'list.txt').write_text('\n'.join(lines))
  (tmp_path / 'list.csv').write_text(
    'id,uri,label\r\na,in/0.png,Coat\r\n"b, c",in/1.png,3\r\nd,in/2.png,Wig\r\ne,in/3.png\r\n'
  )
  summary = kit.score(exported, tmp_path / 'list.txt', tmp_path / 'out', '--chunk_images=2')
  assert (summary['images_scored'], summary['images_rejected'], summary['accuracy']) == (4, 1, None)
  assert kit.predictions(tmp_path / 'out')['id'].to_pylist() == [
    line for line in lines if line and 'missing' not in line
  ]
  assert kit.rejects(tmp_path / 'out')[0]['reason'].startswith('FileNotFoundError')
  summary = kit.score(exported, tmp_path / 'list.csv', tmp_path / 'labelled')
  assert kit.predictions(tmp_path / 'labelled')['id'].to_pylist() == ['a', 'b, c', 'd', 'e']
  assert (summary['images_labelled'], summary['images_with_foreign_label']) == (2, 1)


def test_parquet_columns_are_found_named_and_carried_through(exported, encoded, tmp_path):
  table = pa.table({
    'picture': pa.array([*encoded[:5], None, b'bad'], pa.large_binary()),
    'sku': list(range(100, 107)),
    'label': ['Coat', 'Bag', None, 'Coat', '9', 'Bag', 'Bag'],
    'price': pa.array([1.5, None, 3, 4, 5, 6, 7]),
  })  # fmt: skip
  pq.write_table(table, tmp_path / 'a.parquet', row_group_size=3)
  flags = ('--image_column=picture', '--id_column=sku', '--carry=price,sku')
  summary = kit.score(exported, tmp_path / 'a.parquet', tmp_path / 'out', *flags)
  written = kit.predictions(tmp_path / 'out')
  assert written['id'].to_pylist() == ['100', '101', '102', '103', '104']
  assert written['price'].to_pylist() == [1.5, None, 3, 4, 5]
  assert written['sku'].to_pylist() == [100, 101, 102, 103, 104]
  assert (summary['images_labelled'], summary['images_rejected']) == (4, 2)
  assert [r['id'] for r in kit.rejects(tmp_path / 'out')] == ['105', '106']


def test_two_stars_cross_directories_and_also_none(exported, encoded, tmp_path):
  for name in ('a.png', 'x/b.png', 'x/y/c.png', 'x/[d]*.png', 'x/notes.txt'):
    path = tmp_path / 'in' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded[0])
  kit.score(exported, f'{tmp_path}/in/**/*.png', tmp_path / 'out')
  found = kit.predictions(tmp_path / 'out')['id'].to_pylist()
  assert [os.path.relpath(name, tmp_path / 'in') for name in found] == [
    'a.png',
    'x/[d]*.png',
    'x/b.png',
    'x/y/c.png',
  ]
  kit.score(exported, f'{tmp_path}/in/x/[d]*.png', tmp_path / 'verbatim')
  assert kit.predictions(tmp_path / 'verbatim')['id'].to_pylist() == [f'{tmp_path}/in/x/[d]*.png']
  kit.score(exported, [f'{tmp_path}/in/*.png', f'{tmp_path}/in/x/y'], tmp_path / 'two')
  assert len(kit.predictions(tmp_path / 'two')) == 2


# --- inputs that will not do ----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def place(encoded, tmp_path_factory) -> pathlib.Path:
  """One file of each kind, right and wrong."""
  home = tmp_path_factory.mktemp('place')
  for name in ('a.png', 'mystery.dat', 'b.png'):
    (home / name).write_bytes(encoded[0])
  tfrecord_file(home / 'a.tfrecord', encoded[:3])
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
    (['--input=empty.txt'], ['empty.txt', 'holds no images']),
    (['--input=a.idx'], ['a.idx', 'not an IDX file']),
    (['--input=list.csv'], ['list.csv', 'uri']),
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
    (['--input=a.png', '--input_format=tfrecords'], ['--input_format=tfrecords', 'tfrecord, tar']),
    (['--input=a.png', '--precision=float8'], ['--precision=float8', 'bfloat16']),
    (['--input=a.png', '--preprocess=yes'], ['--preprocess=yes', 'photo']),
    (['--input=a.png', '--max_pixels=1'], ['--max_pixels=1', '784']),
    (['--input=a.png', '--chunk_images=many'], ['--chunk_images=many', 'whole number']),
    (['--input=a.png', '--top_k=11'], ['--top_k=11', '10']),
    (['--input=a.png', '--max_reject_fraction=2'], ['--max_reject_fraction=2', '0 to 1']),
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
  import json

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


def test_a_large_photo_is_refused_when_the_user_says_so(exported, tmp_path):
  (tmp_path / 'in').mkdir()
  image = Image.new('RGB', (300, 200), 'white')
  ImageDraw.Draw(image).ellipse((50, 50, 200, 150), fill='navy')
  image.save(tmp_path / 'in' / 'a.png')
  summary = kit.score(exported, tmp_path / 'in', tmp_path / 'out', '--max_pixels=59999')
  assert (summary['images_scored'], summary['images_rejected']) == (0, 1)
  assert '300x200 is more than --max_pixels=59999' in kit.rejects(tmp_path / 'out')[0]['reason']
  assert kit.predictions(tmp_path / 'out').num_rows == 0
