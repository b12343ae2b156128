"""Each input format, and what its reader makes of damage."""

import io
import pathlib
import re
import tarfile

import pytest

from batch import chunk, readers, source
from benchmarks import collection
from tests import pictures, reader_kit


@pytest.fixture(scope='module')
def encoded() -> list[bytes]:
  """PNG files of noise."""
  return pictures.noise_pngs(200)


def read(
  path: pathlib.Path, kind: str, chunk_images: int = 7
) -> tuple[list[str], list[chunk.Reject]]:
  shard = chunk.Shard(0, kind, str(path))
  columns = list(source.read(shard, 0, reader_kit.settings(chunk_images=chunk_images)))
  return [i for part in columns for i in part.ids], [r for part in columns for r in part.rejects]


@pytest.mark.parametrize('damage', ['cut in a header', 'cut in a member', 'no end', 'header'])
def test_a_damaged_tar_is_read_up_to_there(damage, encoded, tmp_path):
  path = tmp_path / 'a.tar'
  collection.write_tar(str(path), ((n, data, n % 10) for n, data in enumerate(encoded[:20])))
  content = bytearray(path.read_bytes())
  begin = content.index(b'test-0000012.png')
  if damage == 'header':
    content[begin + 3] ^= 1
  else:
    del content[begin + {'cut in a header': 100, 'cut in a member': 700, 'no end': 0}[damage] :]
  path.write_bytes(content)
  ids, (reject,) = read(path, 'tar')
  assert ids == [f'{path}#test-{n:07d}' for n in range(12)]
  assert reject.id == f'{path}@{begin}'


def test_tar_long_names_folders_and_samples_without_an_image(encoded, tmp_path):
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
    (columns,) = source.read(chunk.Shard(0, 'tar', str(path)), 0, reader_kit.settings())
    assert columns.ids == [f'{path}#{long_name}']
    assert list(columns.labels) == [b'7']
    assert [(r.id, r.reason) for r in columns.rejects] == [
      (f'{path}#lonely', 'the sample has no image, only .json')
    ]


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
  assert source.guess_format(name) == kind
