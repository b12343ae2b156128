"""Each input format, and what its reader makes of damage."""

import pathlib
import re
import struct

import numpy as np
import pytest
from absl import app

from batch import chunk, listing, readers, source
from benchmarks import collection
from storage import files
from tests import reader_kit


def read(
  path: pathlib.Path, kind: str, chunk_images: int = 7
) -> tuple[list[str], list[chunk.Reject]]:
  shard = chunk.Shard(0, kind, str(path))
  columns = list(source.read(shard, 0, reader_kit.settings(chunk_images=chunk_images)))
  return [i for part in columns for i in part.ids], [r for part in columns for r in part.rejects]


def test_an_idx_file_cut_short_is_read_up_to_there(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)
  collection.write_idx(str(tmp_path), 'a', pixels, np.arange(100) % 10)
  path = tmp_path / 'a-images-idx3-ubyte'
  settings = reader_kit.settings(chunk_images=25)
  planned = source.reader('idx').plan(files.match(str(path)), settings)
  assert (len(planned.shards), planned.images) == (4, 100)
  path.write_bytes(path.read_bytes()[: 16 + 784 * 60 + 5])
  found = [columns for shard in planned.shards for columns in source.read(shard, 0, settings)]
  read_back = np.concatenate([columns.pixels for columns in found])
  np.testing.assert_array_equal(read_back[..., 0], pixels[:60])
  assert [label for columns in found for label in columns.labels] == [n % 10 for n in range(60)]
  rejects = [reject for columns in found for reject in columns.rejects]
  assert [reject.id for reject in rejects] == [f'{path}@{16 + 784 * row}' for row in (60, 75)]
  assert rejects[0].reason == 'the file is cut short: images 60 to 74 are not there'


@pytest.mark.parametrize(
  'header', [b'', b'\0\0\x08\x03\0\0', struct.pack('>IIII', 0x0803, 5, 0, 28), b'x' * 16]
)
def test_an_idx_file_that_is_none_is_refused(header, tmp_path):
  (tmp_path / 'a.idx').write_bytes(header)
  with pytest.raises(app.UsageError, match='is not an IDX file of uint8 images'):
    source.reader('idx').plan(files.match(str(tmp_path / 'a.idx')), reader_kit.settings())


@pytest.mark.parametrize('kind', readers.READERS)
def test_every_format_defines_what_a_reader_has_to(kind):
  module = source.reader(kind)
  assert re.compile(module.FILE_NAME)
  assert callable(module.plan)
  assert callable(module.read)


@pytest.mark.parametrize(
  ('name', 'kind'),
  [
    ('a/B.PNG', 'image'),
    ('fashion_mnist-test.tfrecord-00000-of-00001', 'tfrecord'),
    ('a.tfrecords.gz', 'tfrecord'),
    ('a.tgz', 'tar'),
    ('t10k-images-idx3-ubyte.gz', 'idx'),
    ('a.pq', 'parquet'),
    ('list.csv', 'manifest'),
    ('a.png.zip', ''),
    ('tar', ''),
  ],
)
def test_a_file_name_implies_the_format(name, kind):
  assert listing.guess_format(name) == kind
