"""How inputs are cut into shards: all cores get some, however few and large the files are."""

import dataclasses
import os
import pathlib
import pickle

import pytest

from batch import chunk, file_list, source
from tests import pictures, reader_kit

PHOTO_BYTES = 900_000


def make_files(folder: pathlib.Path, sizes: list[int]) -> None:
  """Makes files of these sizes that take no room on the disk; planning does not read them."""
  folder.mkdir()
  for number, size in enumerate(sizes):
    with open(folder / f'{number:06d}.jpg', 'wb') as file:
      os.truncate(file.fileno(), size)


@pytest.mark.parametrize(
  ('sizes', 'least', 'most'),
  [
    ([PHOTO_BYTES] * 64, 7, 9),
    ([PHOTO_BYTES] * 300, 30, 40),
    ([600] * 10_000, 3, 3),
    ([10**9] * 3, 3, 3),
    ([600] * 100 + [10**9] + [600] * 100, 3, 3),
    ([0], 1, 1),
  ],
  ids=['64 photos', '300 photos', 'small', 'huge', 'one huge', 'empty'],
)
def test_image_files_are_cut_by_bytes_and_number(sizes, least, most, tmp_path):
  make_files(tmp_path / 'pictures', sizes)
  plan = source.plan([str(tmp_path / 'pictures')], 'image', reader_kit.settings())
  named = [uri for shard in plan.shards for uri in shard.uris]
  assert named == [str(path) for path in sorted((tmp_path / 'pictures').iterdir())]
  assert least <= len(plan.shards) <= most
  assert max(len(shard.uris) for shard in plan.shards) <= 4096


@pytest.mark.parametrize(
  ('rows', 'shards'), [(1, 1), (64, 2), (300, 10), (10_000, 63), (300_000, 74)]
)
def test_manifests_are_cut_by_rows(rows, shards, tmp_path):
  names = [f'{number}.jpg' for number in range(rows)]
  (tmp_path / 'list.txt').write_text('\n'.join(names) + '\n')
  plan = source.plan([str(tmp_path / 'list.txt')], 'manifest', reader_kit.settings())
  assert plan.images == rows
  assert len(plan.shards) == shards
  starts = [shard.first_row for shard in plan.shards]
  assert starts == sorted(set(starts))
  text = (tmp_path / 'list.txt').read_bytes()
  cut = b''.join(text[shard.start : shard.stop] for shard in plan.shards)
  assert cut == text


def test_records_of_photos_are_cut_by_bytes(tmp_path):
  photo = pictures.saved(pictures.photograph(), 'PNG') + bytes(PHOTO_BYTES)
  path = tmp_path / 'photos.tfrecord'
  pictures.write_tfrecord(path, [photo] * 100)
  found = reader_kit.read_all(path)
  assert len(found.plan.shards) == 10
  assert len(set(found.ids)) == 100


def test_names_and_shards_are_kept_out_of_the_graph(tmp_path, monkeypatch):
  names = [b'a.png', b'two\nlines.png', b'not \xff UTF-8.png', 'größe.png'.encode()]
  (tmp_path / 'in').mkdir()
  for name in names:
    (tmp_path / 'in').joinpath(os.fsdecode(name)).touch()
  for number in range(5000):
    (tmp_path / 'in' / f'{"x" * 200}{number:05d}.png').touch()
  plan = source.plan([str(tmp_path / 'in')], 'image', reader_kit.settings())
  monkeypatch.setattr(file_list, 'MAX_BLOCKS', 3)
  found = [*plan.shards, chunk.Shard(len(plan.shards), 'tar', 'a.tar', 512, is_range=True)]
  everything = range(len(found))
  blocks = file_list.store(found, everything, str(tmp_path / 'out'))
  read = [shard for block in blocks for shard in file_list.read(block)]
  assert [dataclasses.replace(shard, uris=tuple(shard.uris)) for shard in read] == found
  assert sum(len(shard.uris) for shard in plan.shards) == 5004
  assert len(blocks) == 3
  assert len(pickle.dumps(blocks)) < 1000
  assert blocks == file_list.store(found, everything, str(tmp_path / 'out'))
  (last,) = file_list.store(found, everything[-1:], str(tmp_path / 'out'))
  assert list(file_list.read(last)) == found[-1:]
