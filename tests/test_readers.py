"""Each input format, and what its reader makes of damage."""

import pathlib
import re

import pytest

from batch import chunk, listing, readers, source
from tests import reader_kit


def read(
  path: pathlib.Path, kind: str, chunk_images: int = 7
) -> tuple[list[str], list[chunk.Reject]]:
  shard = chunk.Shard(0, kind, str(path))
  columns = list(source.read(shard, 0, reader_kit.settings(chunk_images=chunk_images)))
  return [i for part in columns for i in part.ids], [r for part in columns for r in part.rejects]


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
