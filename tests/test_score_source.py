"""Whole inputs: folders as they come, manifests and tables."""

import gzip
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from benchmarks import collection
from tests import score_kit as kit
from tests.pictures import bombs, header, png, saved


@pytest.fixture(scope='session')
def images(tfds_dir) -> tuple[np.ndarray, np.ndarray]:
  """The test images, uint8 (10000, 28, 28), and their labels."""
  pixels, labels, _ = collection.test_images(tfds_dir)
  return pixels[..., 0], labels


@pytest.fixture(scope='session')
def encoded(images) -> list[bytes]:
  return [saved(image, 'PNG') for image in images[0][:1000]]


def test_idx_files_as_published_are_labelled_by_their_names(exported, idx_dir, metrics, tmp_path):
  summary = kit.score(exported, f'{idx_dir}/t10k-*', tmp_path / 'out', '--precision=float32')
  assert summary['images_labelled'] == 10_000
  assert summary['accuracy'] == metrics['test_accuracy']


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
    'heic.png': b'\0\0\0\x18ftypheic' + bytes(500),
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
  """Each of 500 images, eight times as large, somewhere on a canvas, as a JPEG.

  Every other one is negated, on a white canvas, and not on a black one.
  """
  random = np.random.default_rng(0)
  (tmp_path / 'plain').mkdir()
  (tmp_path / 'photos').mkdir()
  for n in range(500):
    (tmp_path / 'plain' / f'{n:04d}.png').write_bytes(encoded[n])
    seen = 255 - images[0][n] if n % 2 else images[0][n]
    large = Image.fromarray(seen).resize((224, 224), Image.Resampling.BICUBIC)
    canvas = Image.new('RGB', (640, 480), 'white' if n % 2 else 'black')
    canvas.paste(large, (int(random.integers(0, 416)), int(random.integers(0, 256))))
    canvas.save(tmp_path / 'photos' / f'{n:04d}.jpg', quality=90)
  kit.score(exported, tmp_path / 'plain', tmp_path / 'a', '--precision=float32')
  summary = kit.score(exported, tmp_path / 'photos', tmp_path / 'b', '--precision=float32')
  assert summary['images_converted'] == 500
  assert summary['images_by_background'] == {'light': 250, 'dark': 250}
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


def test_a_large_photo_is_refused_when_the_user_says_so(exported, tmp_path):
  (tmp_path / 'in').mkdir()
  image = Image.new('RGB', (300, 200), 'white')
  ImageDraw.Draw(image).ellipse((50, 50, 200, 150), fill='navy')
  image.save(tmp_path / 'in' / 'a.png')
  summary = kit.score(exported, tmp_path / 'in', tmp_path / 'out', '--max_pixels=59999')
  assert (summary['images_scored'], summary['images_rejected']) == (0, 1)
  assert '300x200 is more than --max_pixels=59999' in kit.rejects(tmp_path / 'out')[0]['reason']
  assert kit.predictions(tmp_path / 'out').num_rows == 0
