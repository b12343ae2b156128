"""IDX files: as published, of other types, cut short, and with headers that lie."""

import bz2
import gzip
import os
import pathlib
import struct

import numpy as np
import pytest
import zstandard
from absl import app
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import source
from benchmarks import collection
from storage import files
from tests import reader_kit

ROWS = 60
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), np.uint8)
IMAGES, LABELS = 'a-images-idx3-ubyte', 'a-labels-idx1-ubyte'


def header(kind: int, *shape: int) -> bytes:
  """Returns the header of values of a type, by its code."""
  return struct.pack(f'>HBB{len(shape)}I', 0, kind, len(shape), *shape)


def write(path: pathlib.Path, *parts: bytes) -> pathlib.Path:
  content = b''.join(parts)
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
  return path


def pixels_of(found: reader_kit.Found) -> np.ndarray:
  return np.concatenate([part.pixels for part in found.chunks if part.pixels is not None])


def test_a_file_that_is_cut_after_it_was_planned(tmp_path):
  collection.write_idx(str(tmp_path), 'a', PIXELS, np.arange(ROWS) % 10)
  path = tmp_path / IMAGES
  options = reader_kit.settings(chunk_images=25)
  planned = source.reader('idx').plan(files.match(str(path)), options)
  assert (len(planned.shards), planned.images) == (3, ROWS)
  path.write_bytes(path.read_bytes()[: 16 + 784 * 30 + 5])
  found = [columns for shard in planned.shards for columns in source.read(shard, 0, options)]
  read_back = np.concatenate([columns.pixels for columns in found])
  np.testing.assert_array_equal(read_back[..., 0], PIXELS[:30])
  assert [label for columns in found for label in columns.labels] == [n % 10 for n in range(30)]
  rejects = [reject for columns in found for reject in columns.rejects]
  assert [reject.id for reject in rejects] == [f'{path}#{row}' for row in range(30, ROWS)]


@pytest.mark.parametrize(
  ('suffix', 'kind', 'dtype'), [('', 8, 'u1'), ('.gz', 8, 'u1'), ('', 0x0B, '>i2')]
)
def test_each_row_that_a_cut_file_lacks_is_a_reject(suffix, kind, dtype, tmp_path):
  content = PIXELS[:20].astype(dtype).tobytes()
  path = write(tmp_path / (IMAGES + suffix), header(kind, ROWS, 28, 28), content, b'abc')
  found = reader_kit.read_all(tmp_path, chunk_images=7)
  np.testing.assert_array_equal(pixels_of(found)[..., 0], PIXELS[:20])
  assert [reject.id for reject in found.rejects] == [f'{path}#{row}' for row in range(20, ROWS)]
  assert 'cut short' in found.rejects[0].reason
  assert found.plan.images == ROWS


def test_a_gzip_file_cut_short_gives_the_reason_for_each_row(tmp_path):
  path = write(tmp_path / f'{IMAGES}.gz', header(8, ROWS, 28, 28), PIXELS.tobytes())
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  found = reader_kit.read_all(tmp_path, chunk_images=7)
  assert 0 < len(found.ids) < ROWS
  assert found.seen() == ROWS
  assert 'gzip data is cut short' in found.rejects[0].reason


@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize('chunk_images', [4, 5])
def test_a_header_that_promises_two_billion_images_is_one_reject(suffix, chunk_images, tmp_path):
  lie = 0x7FFFFFFF
  write(tmp_path / (IMAGES + suffix), header(8, lie, 28, 28), PIXELS[:10].tobytes())
  found = reader_kit.read_all(tmp_path, chunk_images=chunk_images)
  np.testing.assert_array_equal(pixels_of(found)[..., 0], PIXELS[:10])
  assert len(found.rejects) == 1
  assert f'{lie - 10} images' in found.rejects[0].reason


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_images_beyond_the_number_in_the_header_are_rejects(suffix, tmp_path):
  path = write(tmp_path / (IMAGES + suffix), header(8, 10, 28, 28), PIXELS.tobytes())
  found = reader_kit.read_all(tmp_path, chunk_images=5)
  assert len(found.ids) == 10
  assert [reject.id for reject in found.rejects] == [f'{path}#{row}' for row in range(10, ROWS)]
  assert 'promises only 10 images' in found.rejects[0].reason


@pytest.mark.parametrize(
  'content',
  [b'', b'\0\0\x08\x03\0\0', header(8, 5, 0, 28), header(8, 3, 65535, 65535), b'x' * 16],
)
def test_a_file_without_images_is_refused_or_one_reject_beside_others(content, tmp_path):
  write(tmp_path / 'a.idx', content)
  with pytest.raises(app.UsageError, match='is not an IDX file of images'):
    reader_kit.read_all(tmp_path / 'a.idx')
  write(tmp_path / 'b.idx', header(8, ROWS, 28, 28), PIXELS.tobytes())
  found = reader_kit.read_all(tmp_path)
  assert len(found.ids) == ROWS
  assert [reject.id for reject in found.rejects] == [str(tmp_path / 'a.idx')]


@pytest.mark.parametrize('rows', [0, ROWS])
def test_an_input_without_images_is_refused(rows, tmp_path):
  write(tmp_path / LABELS, header(8, ROWS), bytes(ROWS))
  if not rows:
    write(tmp_path / IMAGES, header(8, 0, 28, 28))
  with pytest.raises(app.UsageError, match='contains no images'):
    reader_kit.read_all(tmp_path)


@pytest.mark.parametrize(
  ('kind', 'dtype'), [(0x0B, '>i2'), (0x0C, '>i4'), (0x0D, '>f4'), (0x0E, '>f8')]
)
def test_pixels_of_other_types_are_read_if_they_are_whole_bytes(kind, dtype, tmp_path):
  values = PIXELS.astype(dtype)
  values[5, 3, 3] = -1
  values[6, 0, 0] = 256
  bad = [5, 6]
  if 'f' in dtype:
    values[7, 0, 0], values[8, 0, 0], values[9, 1, 1] = 0.5, np.nan, np.inf
    bad = [5, 6, 7, 8, 9]
  write(tmp_path / IMAGES, header(kind, ROWS, 28, 28), values.tobytes())
  write(tmp_path / LABELS, header(8, ROWS), bytes(range(ROWS)))
  found = reader_kit.read_all(tmp_path, chunk_images=50)
  good = [row for row in range(ROWS) if row not in bad]
  np.testing.assert_array_equal(pixels_of(found)[..., 0], PIXELS[good])
  assert found.labels == good
  assert [int(reject.id.split('#')[1]) for reject in found.rejects] == bad


def test_colour_images(tmp_path):
  colours = np.repeat(PIXELS[..., None], 3, axis=3)
  write(tmp_path / 'a.idx', header(8, ROWS, 28, 28, 3), colours.tobytes())
  np.testing.assert_array_equal(pixels_of(reader_kit.read_all(tmp_path)), colours)


def test_large_images_are_read_a_few_at_a_time(tmp_path):
  side = 2048
  path = write(tmp_path / 'a.idx', header(8, 20, side, side))
  os.truncate(path, 16 + 20 * side * side)
  assert [len(part.ids) for part in reader_kit.read_all(tmp_path).chunks] == [16, 4]


@pytest.mark.parametrize(
  ('name', 'content', 'labels', 'passed_over'),
  [
    (LABELS, header(8, ROWS) + bytes(range(ROWS)), list(range(ROWS)), {}),
    ('a-labels-idx1-int', header(12, 60) + np.arange(60, dtype='>i4').tobytes(), [*range(60)], {}),
    (
      'a-labels-idx2-int.gz',  # QMNIST's
      header(12, ROWS, 8) + np.arange(ROWS * 8, dtype='>i4').tobytes(),
      list(range(0, ROWS * 8, 8)),
      {},
    ),
    (LABELS, header(8, ROWS) + bytes(range(40)), [*range(40), *[None] * 20], {}),
    (
      LABELS,
      header(8, 100) + bytes(100),
      [None] * ROWS,
      {'label file of another length than its images': 1},
    ),
    (LABELS, b'not IDX', [None] * ROWS, {'label file that is not IDX': 1}),
    (
      'b-labels-idx1-ubyte',
      header(8, 5) + bytes(5),
      [None] * ROWS,
      {'label file without images': 1},
    ),
  ],
)
def test_labels_are_those_of_the_file_or_said_to_be_unusable(
  name, content, labels, passed_over, tmp_path
):
  write(tmp_path / IMAGES, header(8, ROWS, 28, 28), PIXELS.tobytes())
  write(tmp_path / name, content)
  found = reader_kit.read_all(tmp_path, chunk_images=50)
  assert found.labels == labels
  assert found.plan.passed_over == passed_over
  missing = sum(part.passed_over.get('missing label', 0) for part in found.chunks)
  assert missing == (20 if None in labels and not passed_over else 0)
  assert not found.rejects


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_any_damage_is_a_whole_row_or_a_reject(tmp_path_factory, data):
  rows = data.draw(st.integers(0, 9))
  content = bytearray(header(8, rows, 3, 2) + bytes(range(rows * 6)))
  if data.draw(st.booleans()):
    # Not the two higher bytes of the number of rows: a million rejects take seconds.
    place = data.draw(st.sampled_from([at for at in range(len(content)) if at not in (4, 5)]))
    content[place] = data.draw(st.integers(0, 255))
  content = bytes(content)[: data.draw(st.integers(0, len(content)))]
  suffix = data.draw(st.sampled_from(['', '.gz']))
  path = write(tmp_path_factory.mktemp('idx') / f'a.idx{suffix}', content)
  try:
    found = reader_kit.read_all(path, chunk_images=data.draw(st.sampled_from([4, 4096])))
  except app.UsageError:
    return
  assert found.ids == [f'{path}#{row}' for row in range(len(found.ids))]
  assert found.seen() == found.plan.images or suffix or found.rejects


@pytest.mark.parametrize(
  ('suffix', 'compress'),
  [
    ('.gz', gzip.compress),
    ('.bz2', bz2.compress),
    ('.zst', zstandard.compress),
    ('', bz2.compress),
  ],
)
def test_a_compressed_file_is_one_shard_of_all_images(suffix, compress, tmp_path):
  path = tmp_path / f'{IMAGES}{suffix}'
  path.write_bytes(compress(header(8, ROWS, 28, 28) + PIXELS.tobytes()))
  labels = [row % 10 for row in range(ROWS)]
  (tmp_path / f'{LABELS}{suffix}').write_bytes(compress(header(8, ROWS) + bytes(labels)))
  found = reader_kit.read_all(path, chunk_images=7)
  assert len(found.plan.shards) == 1
  assert (len(found.ids), found.labels, found.rejects) == (ROWS, labels, [])
  assert np.array_equal(np.concatenate([part.pixels for part in found.chunks])[..., 0], PIXELS)


def test_each_shard_reads_its_own_images_only(tmp_path, monkeypatch):
  rows = 5000
  content = header(8, rows, 28, 28) + bytes(rows * 784)
  (tmp_path / IMAGES).write_bytes(content)
  (tmp_path / LABELS).write_bytes(header(8, rows) + bytes(rows))
  sizes = reader_kit.count_reads(monkeypatch)
  settings_ = reader_kit.settings(chunk_images=100)
  shards = source.plan([str(tmp_path / IMAGES)], 'idx', settings_).shards
  assert len(shards) == 50
  assert sum(len(part.ids) for each in shards for part in source.read(each, 0, settings_)) == rows
  assert 0 < sum(sizes) < 2 * len(content)
