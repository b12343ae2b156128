"""Damaged streams: every whole record or a reject, never an exception, a hang or much memory."""

import collections
import gzip
import pathlib
import random
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies

from batch import chunk, source
from batch.readers import records, stream
from benchmarks import collection
from tests import pictures, reader_kit

IMAGES = 8
MAX_PEAK_BYTES = 40 << 20
# Each example replaces the last one's file.
REPEATABLE = hypothesis.settings(
  deadline=None,
  derandomize=True,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
KINDS = {'a.tar': 'tar', 'a.tgz': 'tar', 'a.tfrecord': 'tfrecord', 'a.tfrecord.gz': 'tfrecord'}


@pytest.fixture(scope='module')
def contents(tmp_path_factory) -> dict[str, bytes]:
  """A small collection in each format."""
  home = tmp_path_factory.mktemp('contents')
  rows = [(n, data, n % 10) for n, data in enumerate(pictures.noise_pngs(IMAGES))]
  collection.write_tar(str(home / 'a.tar'), iter(rows))
  for name in ('a.tfrecord', 'a.tfrecord.gz'):
    collection.write_tfrecord(str(home / name), iter(rows))
  (home / 'a.tgz').write_bytes(gzip.compress((home / 'a.tar').read_bytes()))
  return {name: (home / name).read_bytes() for name in KINDS}


def read(path: pathlib.Path, kind: str) -> tuple[list[str], list[chunk.Reject]]:
  """Returns the ids of all images, and the rejects."""
  columns = list(source.read(chunk.Shard(0, kind, str(path)), 0, reader_kit.settings()))
  for part in columns:
    assert len(part.ids) == len(part.encoded or ()) == len(part.labels or part.ids)
  ids = [name for part in columns for name in part.ids]
  rejects = [reject for part in columns for reject in part.rejects]
  assert len({*ids, *(reject.id for reject in rejects)}) == len(ids) + len(rejects)
  head, find_codec = (
    path.read_bytes()[:16],
    {'tar': stream.find_codec}.get(kind, records.find_codec),
  )
  if head and not find_codec(head):
    check_ranges(path, kind, max(path.stat().st_size // 5, 1), columns)
  return ids, rejects


def check_ranges(path: pathlib.Path, kind: str, step: int, whole: list[chunk.ReadImages]) -> None:
  """Asserts that a file in ranges has exactly what it has as a whole."""
  shards = reader_kit.in_ranges(path, kind, step)
  found = [part for shard in shards for part in source.read(shard, 0, reader_kit.settings())]
  for name in ('ids', 'encoded', 'labels', 'rejects'):
    expected = [item for part in whole for item in getattr(part, name) or ()]
    assert [item for part in found for item in getattr(part, name) or ()] == expected
  counts = [
    sum(map(collections.Counter, (part.passed_over for part in parts)), collections.Counter())
    for parts in (found, whole)
  ]
  assert counts[0] == counts[1]


@pytest.mark.parametrize('name', KINDS)
@hypothesis.given(data=strategies.data())
@hypothesis.settings(REPEATABLE, max_examples=150)
def test_one_byte_changed_costs_at_most_what_it_is_in(name, data, contents, tmp_path):
  content = bytearray(contents[name])
  place = data.draw(strategies.integers(0, len(content) - 1))
  content[place] ^= data.draw(strategies.integers(1, 255))
  path = tmp_path / name
  path.write_bytes(content)
  ids, rejects = read(path, KINDS[name])
  if name.endswith('gz'):
    assert len(ids) + len(rejects) <= IMAGES + 1
  else:  # a picture's own bytes are checked when it is decoded; a label may be what changed
    assert IMAGES - 1 <= len(ids) <= IMAGES + 1
    assert len(rejects) <= 2


@pytest.mark.parametrize('name', KINDS)
@hypothesis.given(data=strategies.data())
@hypothesis.settings(REPEATABLE, max_examples=60)
def test_a_file_cut_anywhere_is_read_up_to_there(name, data, contents, tmp_path):
  path = tmp_path / name
  path.write_bytes(contents[name])
  whole, _ = read(path, KINDS[name])
  cut = data.draw(strategies.integers(0, len(contents[name]) - 1))
  path.write_bytes(contents[name][:cut])
  ids, rejects = read(path, KINDS[name])
  assert ids == whole[: len(ids)]
  assert len(rejects) <= 1
  assert rejects or cut == 0 or len(ids) == IMAGES or name == 'a.tfrecord'


@pytest.mark.parametrize('kind', ['tar', 'tfrecord'])
@hypothesis.given(
  content=strategies.lists(
    strategies.one_of(
      strategies.binary(max_size=600),
      strategies.sampled_from(
        [bytes(512), b'ustar\0' + b'00', b'\x1f\x8b\x08', b'\x78\x9c', bytes(4096), b'\xff' * 12]
      ),
    ),
    max_size=12,
  ).map(b''.join)
)
@hypothesis.settings(
  deadline=None,
  derandomize=True,
  max_examples=300,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_bytes_are_images_or_rejects(kind, content, tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(content)
  read(path, kind)


@pytest.mark.parametrize('name', KINDS)
def test_changes_in_many_places_take_little_memory(name, contents, tmp_path):
  changed = random.Random(0)
  path = tmp_path / name
  tracemalloc.start()
  for _ in range(150):
    content = bytearray(contents[name])
    for _ in range(changed.randrange(1, 60)):
      content[changed.randrange(len(content))] = changed.choice((0, 255, 128, 48, 55))
    path.write_bytes(content)
    read(path, KINDS[name])
  assert tracemalloc.get_traced_memory()[1] < MAX_PEAK_BYTES
  tracemalloc.stop()
