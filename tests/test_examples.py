"""What is found in tf.train.Example: pictures, ids and labels, in each record for itself."""

import gzip
import pathlib
import zlib

import pytest
import tensorflow as tf
from absl import app

from batch import chunk, source
from batch.readers import example as example_reader
from storage import files
from tests import pictures, reader_kit


@pytest.fixture(scope='module')
def encoded() -> list[bytes]:
  """PNG files of noise."""
  return pictures.noise_pngs(60)


def feature(value) -> tf.train.Feature:
  """Returns a feature of one value or a list of them."""
  values = value if isinstance(value, list) else [value]
  kind = {bytes: 'bytes', int: 'int64', float: 'float'}[type(values[0])]
  return tf.train.Feature(**{f'{kind}_list': {'value': values}})


def example(features: dict) -> bytes:
  """Returns a serialised tf.train.Example."""
  found = {key: feature(value) for key, value in features.items()}
  return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write(path: pathlib.Path, records: list[bytes], compression: str = '') -> str:
  """Writes a TFRecord file and returns its path."""
  with tf.io.TFRecordWriter(str(path), compression) as writer:
    for record in records:
      writer.write(record)
  return str(path)


def read(path: str, **changes) -> chunk.ReadImages:
  """Plans and reads a file, of one chunk."""
  settings = reader_kit.settings(**changes)
  (shard,) = source.reader('tfrecord').plan(files.match(path), settings).shards
  (columns,) = source.read(shard, 0, settings)
  return columns


def test_the_first_record_does_not_decide_for_the_others(encoded, tmp_path):
  full = [{'image/encoded': encoded[i], 'id': b'k%d' % i, 'label': i % 10} for i in range(1, 20)]
  for name, first in (
    ('no label', {'image/encoded': encoded[0], 'id': b'k0'}),
    ('no id', {'image/encoded': encoded[0], 'label': 3}),
    ('another key', {'image': encoded[0], 'id': b'k0'}),
    ('another label', {'image/encoded': encoded[0], 'label': b'Coat'}),
  ):
    path = write(tmp_path / f'{name}.tfrecord', list(map(example, [first, *full])))
    columns = read(path)
    assert columns.ids == ['k0' if 'id' in first else f'{path}#0', *(f'k{i}' for i in range(1, 20))]
    assert list(columns.encoded) == encoded[:20]
    assert list(columns.labels)[1:] == [i % 10 for i in range(1, 20)]
    assert columns.labels[0] in {'no id': [3], 'another label': [b'Coat']}.get(name, [None, -1])


def test_a_record_without_an_image_is_a_reject(encoded, tmp_path):
  records = [{'image': image, 'label': 1} for image in encoded[:30]]
  for place in (0, 17):
    path = write(
      tmp_path / f'{place}.tfrecord',
      list(map(example, [*records[:place], {'note': b'header'}, *records[place:]])),
    )
    columns = read(path)
    assert list(columns.encoded) == encoded[:30]
    assert columns.ids == [f'{path}#{row}' for row in range(31) if row != place]
    assert [(r.id, r.reason) for r in columns.rejects] == [
      (f'{path}#{place}', 'the record has no image among its features note')
    ]


@pytest.mark.parametrize('everywhere', [True, False])
def test_two_pictures_in_a_record_are_two_images(everywhere, encoded, tmp_path):
  def record(i: int) -> bytes:
    several = everywhere or i == 13
    return example({'image': encoded[i : i + 2] if several else encoded[i], 'label': i % 10})

  path = write(tmp_path / 'a.tfrecord', [record(i) for i in range(20)])
  columns = read(path)
  wanted = [
    (f'{path}#{i}#{j}' if everywhere or i == 13 else f'{path}#{i}', encoded[i + j], i % 10)
    for i in range(20)
    for j in range(2 if everywhere or i == 13 else 1)
  ]
  assert list(zip(columns.ids, columns.encoded, columns.labels)) == wanted


def test_a_picture_in_another_feature_is_an_image_unless_one_is_named(encoded, tmp_path):
  records = [{'image/encoded': image, 'label': 1} for image in encoded[:20]]
  records[11]['preview'] = encoded[30]
  path = write(tmp_path / 'a.tfrecord', list(map(example, records)))
  columns = read(path)
  assert columns.ids[11:13] == [f'{path}#11#0', f'{path}#11#1']
  assert list(columns.encoded) == [*encoded[:12], encoded[30], *encoded[12:20]]
  columns = read(path, image_column='image/encoded')
  assert list(columns.encoded) == encoded[:20]
  assert columns.passed_over == {'picture in another feature': 1}


def test_an_interrupted_file_of_several_pictures_a_record_goes_on_in_place(encoded, tmp_path):
  path = write(tmp_path / 'a.tfrecord', [example({'image': encoded[i : i + 2]}) for i in range(20)])
  settings = reader_kit.settings(chunk_images=5)
  shard = chunk.Shard(0, 'tfrecord', path)
  whole = list(source.read(shard, 0, settings))
  assert [len(columns.ids) for columns in whole] == [10] * 4
  assert [c.ids for c in source.read(shard, 20, settings)] == [c.ids for c in whole[2:]]


@pytest.mark.parametrize(
  ('given', 'label'),
  [
    (3.0, 3),
    (0.5, '0.5'),
    (float('nan'), 'nan'),
    (b'Coat', b'Coat'),
    (b'7', b'7'),
    (0, 0),
    ([4, 4], 4),
    ([4, 5], '4, 5'),
    (-1, -1),
  ],
)
def test_labels_of_every_type(given, label, encoded, tmp_path):
  path = write(tmp_path / 'a.tfrecord', [example({'image': i, 'label': given}) for i in encoded])
  (found,) = set(read(path).labels)
  assert found in ({None, -1} if label == -1 else {label})


def test_features_of_slim_and_object_detection_are_known(encoded, tmp_path):
  slim = [{'image/encoded': i, 'image/class/label': 5, 'image/format': b'png'} for i in encoded]
  assert set(read(write(tmp_path / 'slim.tfrecord', list(map(example, slim)))).labels) == {5}
  detection = [
    {
      'image/encoded': encoded[0],
      'image/filename': b'0.png',
      'image/source_id': b'17',
      'image/object/class/text': [b'Bag', b'Bag'],
      'image/object/class/label': [9, 9],
    },
    {
      'image/encoded': encoded[1],
      'image/source_id': b'18',
      'image/object/class/text': [b'Bag', b'Coat'],
    },
  ]
  columns = read(write(tmp_path / 'detection.tfrecord', list(map(example, detection))))
  assert columns.ids == ['0.png', '18']
  assert list(columns.labels) == [b'Bag', "b'Bag', b'Coat'"]


def test_named_features_are_read_and_unknown_ones_refused(encoded, tmp_path):
  records = [
    {'png': i, 'image': b'no', 'name': b'n%d' % n, 'kind': n} for n, i in enumerate(encoded)
  ]
  path = write(tmp_path / 'a.tfrecord', list(map(example, records)))
  columns = read(path, image_column='png', id_column='name', label_column='kind')
  assert list(columns.encoded) == encoded
  assert columns.ids == [f'n{n}' for n in range(60)]
  assert list(columns.labels) == list(range(60))
  for name in ('image_column', 'id_column', 'label_column'):
    with pytest.raises(app.UsageError, match=f'--{name}=x: .* no such feature, only image, kind'):
      read(path, **{name: 'x'})
  with pytest.raises(app.UsageError, match='has no feature image with an image, only image, kind'):
    read(write(tmp_path / 'b.tfrecord', [example({'image': 5, 'kind': 3})]), image_column='image')


def test_numbers_are_the_names_that_tfds_keeps_beside_the_file(encoded, tmp_path):
  (tmp_path / 'label.labels.txt').write_text('Sandal\nCoat\n')
  path = write(
    tmp_path / 'a.tfrecord',
    [example({'image': image, 'label': n % 3}) for n, image in enumerate(encoded)],
  )
  labels = list(read(path).labels)
  assert labels == ['Sandal', 'Coat', '2, which has no name'] * 20
  mixed = [example({'image': encoded[0]}), example({'image': encoded[1:3], 'label': 0})]
  assert list(read(write(tmp_path / 'b.tfrecord', mixed)).labels) == [None, 'Sandal', 'Sandal']


@pytest.mark.parametrize(
  ('name', 'compression'),
  [('a.tfrecord.gz', 'GZIP'), ('a.tfrecord', 'GZIP'), ('a.tfrecord', 'ZLIB')],
)
def test_compressed_files_are_read_whatever_their_name(name, compression, encoded, tmp_path):
  path = write(tmp_path / name, [example({'image': i}) for i in encoded], compression)
  assert list(read(path).encoded) == encoded


def test_gzip_files_one_after_the_other_are_one(encoded, tmp_path):
  path = pathlib.Path(write(tmp_path / 'plain', [example({'image': i}) for i in encoded]))
  content = path.read_bytes()
  packed = tmp_path / 'a.tfrecord.gz'
  packed.write_bytes(gzip.compress(content[: len(content) // 2]) + bytes(100))
  with packed.open('ab') as file:
    file.write(gzip.compress(content[len(content) // 2 :]))
  assert list(read(str(packed)).encoded) == encoded


def test_a_record_length_that_looks_like_gzip_is_none(encoded, tmp_path):
  bare = len(example({'image': b''}))
  fill = next(
    n
    for n in range(0x088B1F - bare - 40, 0x088B1F)
    if len(example({'image': bytes(n)})) == 0x088B1F
  )
  path = write(
    tmp_path / 'a.tfrecord', [example({'image': encoded[0] + bytes(fill - len(encoded[0]))})]
  )
  assert pathlib.Path(path).read_bytes()[:3] == b'\x1f\x8b\x08'
  assert len(read(path).ids) == 1


def test_a_sequence_example_is_a_reject_with_a_reason(encoded, tmp_path):
  context = tf.train.Features(feature={'label': feature(3)})
  frames = tf.train.FeatureLists(
    feature_list={'frames': tf.train.FeatureList(feature=[feature(i) for i in encoded[:5]])}
  )
  sequence = tf.train.SequenceExample(context=context, feature_lists=frames).SerializeToString()
  path = write(tmp_path / 'a.tfrecord', [example({'image': encoded[0]}), sequence])
  columns = read(path)
  assert columns.ids == [f'{path}#0']
  assert 'tf.train.SequenceExample' in columns.rejects[0].reason


def test_empty_files_are_no_shards_and_other_files_are_refused(encoded, tmp_path):
  settings = reader_kit.settings()
  plan = source.reader('tfrecord').plan
  (tmp_path / 'a.tfrecord').write_bytes(b'')
  (tmp_path / 'b.tfrecord').write_bytes(gzip.compress(b''))
  (tmp_path / 'c.tfrecord').write_bytes(zlib.compress(b''))
  empty = files.match(str(tmp_path / '*'))
  assert plan(empty, settings).shards == []
  with pytest.raises(app.UsageError, match='contains no images'):
    source.plan([str(tmp_path)], 'auto', settings)
  write(tmp_path / 'd.tfrecord', [example({'image': encoded[0]})])
  (shard,) = plan(files.match(str(tmp_path / '*')), settings).shards
  assert shard.uri == f'{tmp_path}/d.tfrecord'
  for number, content in enumerate((b'PK\x03\x04' + bytes(100), b'id,label\n' * 50)):
    path = tmp_path / f'{number}.tfrecord'
    path.write_bytes(content)
    with pytest.raises(app.UsageError, match=f'{number}.tfrecord: is not a TFRecord file'):
      plan(files.match(str(path)), settings)
  write(tmp_path / 'e.tfrecord', [b'\xff\xff'])
  with pytest.raises(app.UsageError, match=r'its records are not tf\.train\.Example'):
    plan(files.match(str(tmp_path / 'e.tfrecord')), settings)


def test_a_damaged_key_costs_one_record(encoded, tmp_path):
  records = [example({'image': image, 'label': 3}) for image in encoded[:20]]
  records[5] = records[5].replace(b'label', b'la\xa9el').replace(b'image', b'labe\xa9')
  path = write(tmp_path / 'a.tfrecord', records)
  columns = read(path)
  assert columns.ids == [f'{path}#{row}' for row in range(20) if row != 5]
  assert [(r.id, r.reason) for r in columns.rejects] == [
    (f'{path}#5', 'the record is not a tf.train.Example')
  ]


@pytest.mark.parametrize('caption', [b'', b'a caption of some length'])
def test_what_few_records_have_is_found_whatever_their_size(
  caption, encoded, tmp_path, monkeypatch
):
  """Those in the sample have longer names, so that the others are not longer by what they add."""
  added = {  # none of them is in the sample, which is every sixth
    3: {'image/class/label': 7},
    14: {'image/class/text': b'Coat'},
    25: {'image/source_id': b'an id'},
    35: {'image': encoded[0]},
    47: {'another': encoded[1]},
  }
  records = []
  for i, picture in enumerate(encoded[:50]):
    features = {'image/encoded': picture, 'caption': caption * 9}
    if i in added:
      features.update(added[i])
      assert i % (50 // example_reader.SAMPLE_RECORDS)
    else:
      features['image/filename'] = b'%d' % i * 100
    records.append(example(features))
  path = write(tmp_path / 'a.tfrecord', records)
  together, parse = [], tf.io.parse_example
  monkeypatch.setattr(tf.io, 'parse_example', lambda *args: together.append(1) or parse(*args))
  columns = read(path)
  labels = dict(zip(columns.ids, columns.labels or []))
  assert together == ([] if caption else [1])  # captions may be pictures
  assert len(columns.ids) == len(set(columns.ids)) == 52
  assert labels[f'{path}#3'] == 7
  assert labels[f'{path}#14'] == b'Coat'
  assert {'an id', f'{path}#35#0', f'{path}#35#1', f'{path}#47#0', f'{path}#47#1'} <= set(labels)
  assert sum(label not in (None, -1, b'') for label in labels.values()) == 2
