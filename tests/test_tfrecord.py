"""TFRecord files of tf.train.Example, and what their reader makes of damage."""

import contextlib
import pathlib
import struct
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from batch import chunk, source
from batch.readers import protobuf
from benchmarks import collection
from tests import pictures, reader_kit


@pytest.fixture(scope='module')
def encoded() -> list[bytes]:
  """PNG files of noise."""
  return pictures.noise_pngs(200)


def tfrecord_file(path: pathlib.Path, encoded: list[bytes]) -> list[int]:
  """Writes a file and returns where its records begin."""
  collection.write_tfrecord(str(path), ((n, data, n % 10) for n, data in enumerate(encoded)))
  if path.suffix == '.gz':
    return []
  content, offsets, position = path.read_bytes(), [], 0
  while position < len(content):
    offsets.append(position)
    position += 16 + struct.unpack_from('<Q', content, position)[0]
  return offsets


def read(
  path: pathlib.Path, kind: str, chunk_images: int = 7
) -> tuple[list[str], list[chunk.Reject]]:
  shard = chunk.Shard(0, kind, str(path))
  columns = list(source.read(shard, 0, reader_kit.settings(chunk_images=chunk_images)))
  return [i for part in columns for i in part.ids], [r for part in columns for r in part.rejects]


def test_a_broken_checksum_rejects_one_tfrecord_record(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  content = bytearray(path.read_bytes())
  content[offsets[5] + 100] ^= 1
  path.write_bytes(content)
  ids, rejects = read(path, 'tfrecord')
  assert ids == [f'test-{n:07d}' for n in range(20) if n != 5]
  assert [(r.id, r.reason) for r in rejects] == [
    (f'{path}@{offsets[5]}', 'the checksum of a record is wrong')
  ]


@pytest.mark.parametrize('byte', [0, 3, 6, 9])
def test_a_broken_length_rejects_one_tfrecord_record(byte, encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  content = bytearray(path.read_bytes())
  content[offsets[12] + byte] ^= 1
  path.write_bytes(content)
  ids, rejects = read(path, 'tfrecord')
  if byte == 9:  # of the length's checksum: the data's shows that the length is right
    assert len(ids) == 20
  else:
    assert ids == [f'test-{n:07d}' for n in range(20) if n != 12]
    (reject,) = rejects
    assert reject.id == f'{path}@{offsets[12]}'
    assert reject.reason == (
      f'the checksum of a record length is wrong: {offsets[13] - offsets[12]} bytes to the next '
      'are unreadable'
    )


def test_a_huge_length_takes_no_memory(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  tfrecord_file(path, encoded[:3])
  header = struct.pack('<Q', 10 << 30)
  crc = google_crc32c.value(header)
  masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
  good = path.read_bytes()
  path.write_bytes(good + header + struct.pack('<I', masked) + bytes(5 << 20) + good)
  tracemalloc.start()
  ids, (reject,) = read(path, 'tfrecord')
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert (len(ids), reject.id) == (3, f'{path}@{len(good)}')
  assert reject.reason == 'the file is cut short within a record'
  assert peak < 20 << 20


def test_a_tfrecord_cut_short_is_read_up_to_there(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  offsets = tfrecord_file(path, encoded[:20])
  for cut in (offsets[9] + 5, offsets[9] + 12, offsets[9] + 60, offsets[10] - 1):
    path.write_bytes(path.read_bytes()[:cut])
    ids, rejects = read(path, 'tfrecord')
    assert len(ids) == 9
    assert [r.id for r in rejects] == [f'{path}@{offsets[9]}']
    tfrecord_file(path, encoded[:20])


def test_a_gzip_tfrecord_cut_short_is_read_up_to_there(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord.gz'
  tfrecord_file(path, encoded[:200])
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  ids, (reject,) = read(path, 'tfrecord', 50)
  assert 80 < len(ids) < 120
  assert ids == [f'test-{n:07d}' for n in range(len(ids))]
  assert 'cut short' in reject.reason
  damaged = bytearray(content)
  damaged[len(content) // 2] ^= 0xFF
  path.write_bytes(damaged)
  ids, rejects = read(path, 'tfrecord', 50)
  assert ids[:80] == [f'test-{n:07d}' for n in range(80)]
  assert rejects


def test_ranges_of_a_tfrecord_file_count_their_records_whatever_is_in_them(encoded, tmp_path):
  path = tmp_path / 'a.tfrecord'
  tfrecord_file(path, encoded[:3])
  whole_file = path.read_bytes()  # in a record, where a range may begin, it looks like records
  feature = {'image': tf.train.Feature(bytes_list={'value': [encoded[0] + whole_file * 5]})}
  record = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(9):
      writer.write(record)
  shards = reader_kit.in_ranges(path, 'tfrecord', len(record) // 3)
  settings = reader_kit.settings()
  read = [part for shard in shards for part in source.read(shard, 0, settings)]
  assert [name for part in read for name in part.ids] == [f'{path}#{n}' for n in range(9)]
  assert len(read) > 5


def test_records_of_different_kinds_are_read_one_by_one(encoded, tmp_path):
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
  (columns,) = source.read(chunk.Shard(0, 'tfrecord', str(path)), 0, reader_kit.settings())
  assert columns.ids == ['a', '17', f'{path}#2']
  assert list(columns.encoded) == encoded[:3]
  assert list(columns.labels) == [3, b'Coat', None]
  assert [r.id for r in columns.rejects] == [f'{path}#3', f'{path}#4']


@pytest.mark.parametrize(
  'record',
  [b'\xff', b'\x0a\x05', b'\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f', b'\x0b', b'\x80' * 12],
)
def test_hostile_bytes_are_no_example(record):
  with pytest.raises(ValueError, match=r'not a tf\.train\.Example'):
    protobuf.parse(record)


def test_random_bytes_raise_nothing_but_value_errors():
  random = np.random.default_rng(0)
  good = tf.train.Example(
    features=tf.train.Features(
      feature={'id': tf.train.Feature(int64_list=tf.train.Int64List(value=[-3, 1 << 62]))}
    )
  ).SerializeToString()
  assert protobuf.parse(good) == {'id': [-3, 1 << 62]}
  for _ in range(2000):
    record = bytearray(good)
    record[random.integers(len(record))] = random.integers(256)
    with contextlib.suppress(ValueError):
      protobuf.parse(bytes(record[: random.integers(1, len(record) + 1)]))
