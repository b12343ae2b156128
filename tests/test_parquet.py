"""Parquet tables of many writers, and damaged ones."""

import collections
import io
import json
import pathlib

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import app
from hypothesis import given, settings
from hypothesis import strategies as st

from batch import cutting, source
from batch.readers import parquet, row_groups
from images import decode
from storage import files
from tests import pictures, reader_kit

PNGS = pictures.noise_pngs(20)
STRUCTS = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def read(path: pathlib.Path, table: pa.Table, **changes) -> reader_kit.Found:
  """Writes a table as a.parquet and reads the folder."""
  path.mkdir(parents=True, exist_ok=True)
  pq.write_table(table, path / 'a.parquet', row_group_size=7)
  return reader_kit.read_all(path, **changes)


@pytest.mark.parametrize(
  'images',
  [
    pa.array(PNGS, pa.binary()),
    pa.array(PNGS, pa.large_binary()),
    pa.array(PNGS, pa.binary_view()),
    pa.array(PNGS, pa.binary()).dictionary_encode(),
    pa.array([list(png) for png in PNGS], pa.list_(pa.uint8())),
    pa.array([list(png) for png in PNGS], pa.large_list(pa.int32())),
    pa.array([{'bytes': png, 'path': None} for png in PNGS], STRUCTS),
    pa.array([{'bytes': png} for png in PNGS], pa.struct([('bytes', pa.large_binary())])),
  ],
  ids=str,
)
def test_every_type_of_image_column(images, tmp_path):
  found = read(tmp_path, pa.table({'image': images}))
  assert found.encoded == PNGS
  assert found.ids == [f'{tmp_path}/a.parquet#{row}' for row in range(20)]
  assert found.plan.images == 20


@pytest.mark.parametrize(
  ('ids', 'expected'),
  [
    (pa.array([b'sku-1', b'\xff\x00', b'']), ['sku-1', 'ff00', '']),
    (pa.array([1000.0, 2.5, None]), ['1000', '2.5', '']),
    (pa.array([2**60 + 1, -1, None]), [str(2**60 + 1), '-1', '']),
    (pa.array(['a', '', ' b'], pa.string_view()), ['a', '', ' b']),
    (pa.array(['a', 'a', None]).dictionary_encode(), ['a', 'a', '']),
    (pa.array([1, 2, 3], pa.int32()).cast(pa.decimal128(12, 2)), ['1', '2', '3']),
    (pa.array([0, 1, None], pa.date32()), ['1970-01-01', '1970-01-02', '']),
    (
      pa.array([b'\xff' * 16, None, None], pa.uuid()),
      ['ffffffff-' + 'ffff-' * 3 + 'f' * 12, '', ''],
    ),
    (
      pa.Array.from_buffers(pa.string(), 3, pa.array([b'\xffa', b'b', b'']).buffers()),
      ['\\xffa', 'b', ''],
    ),
  ],
  ids=str,
)
def test_ids_are_exact_and_never_empty(ids, expected, tmp_path):
  found = read(tmp_path, pa.table({'image': PNGS[:3], 'id': ids}))
  given_or_row = [name or f'{tmp_path}/a.parquet#{row}' for row, name in enumerate(expected)]
  assert found.ids == given_or_row


def test_paths_are_ids_only_if_no_two_are_equal(tmp_path):
  def structs(*paths: str | None) -> pa.Table:
    rows = [{'bytes': png, 'path': path} for png, path in zip(PNGS, paths)]
    return pa.table({'image': pa.array(rows, STRUCTS)})

  different = [*(f'{n}.png' for n in range(8)), '', None]
  found = read(tmp_path / 'a', structs(*different))
  assert found.ids == [*different[:8], *(f'{tmp_path}/a/a.parquet#{row}' for row in (8, 9))]
  found = read(tmp_path / 'b', structs(*different, '0.png'))
  assert found.ids == [f'{tmp_path}/b/a.parquet#{row}' for row in range(11)]
  pq.write_table(structs('7.png'), tmp_path / 'a' / 'b.parquet')
  assert reader_kit.read_all(tmp_path / 'a').ids[-1] == f'{tmp_path}/a/b.parquet#0'


def test_rows_without_bytes_are_read_at_their_path_or_rejected(tmp_path):
  tmp_path.joinpath('x.png').write_bytes(PNGS[0])
  rows = [
    {'bytes': None, 'path': 'x.png'},
    {'bytes': None, 'path': 'none.png'},
    {'bytes': None, 'path': 'hf://datasets/x.png'},
    {'bytes': None, 'path': None},
    None,
  ]
  table = pa.table({'image': pa.array(rows, STRUCTS), 'id': [0, 1, 2, 3, 4]})
  pq.write_table(table, tmp_path / 'a.parquet')
  found = reader_kit.read_all(tmp_path / 'a.parquet')
  assert (found.ids, found.encoded) == (['0'], [PNGS[0]])
  reasons = [reject.reason for reject in found.rejects]
  assert 'cannot be read: FileNotFoundError' in reasons[0]
  assert 'neither local nor gs://' in reasons[1]
  assert reasons[2:] == ['the picture is null'] * 2


def test_a_list_of_images_is_each_of_them(tmp_path):
  rows = [PNGS[:2], [], None, [PNGS[2], None], [PNGS[3]]]
  table = pa.table({
    'image': pa.array(rows, pa.list_(pa.binary())),
    'label': ['a', 'b', 'c', 'd', 'e'],
    'n': [0, 1, 2, 3, 4],
  })  # fmt: skip
  found = read(tmp_path, table, carry=('n',), chunk_images=2)
  assert found.encoded == PNGS[:4]
  assert [name.split('#')[1] for name in found.ids] == ['0[0]', '0[1]', '3[0]', '4[0]']
  assert found.labels == ['a', 'a', 'd', 'e']
  assert [n for part in found.chunks for n in part.carried['n'].to_pylist()] == [0, 0, 3, 4]
  assert [reject.id.split('#')[1] for reject in found.rejects] == ['1', '2', '3[1]']
  assert found.plan.images is None


def test_columns_inside_structs_and_names_with_dots(tmp_path):
  items = [{'image': png, 'x': {'label': n % 10}} for n, png in enumerate(PNGS)]
  table = pa.table({'item': items, 'a.b': [f'id {n}' for n in range(20)]})
  names = {'image_column': 'item.image', 'label_column': 'item.x.label', 'id_column': 'a.b'}
  found = read(tmp_path, table, **names, carry=('item.x.label',))
  assert (found.encoded, found.labels) == (PNGS, [n % 10 for n in range(20)])
  assert found.ids == [f'id {n}' for n in range(20)]
  assert found.chunks[0].carried.column_names == ['item.x.label']
  with pytest.raises(app.UsageError, match=r'--label_column=item\.y: .* only item, item\.image'):
    reader_kit.read_all(tmp_path, **{**names, 'label_column': 'item.y'})


def test_sparks_images_are_their_pixels(tmp_path):
  grey = np.arange(784, dtype=np.uint8).reshape(28, 28)
  image = {'origin': 'f/a.png', 'height': 28, 'width': 28, 'nChannels': 1, 'mode': 0}
  bad = {'origin': 'f/b.png', 'height': -1, 'width': -1, 'nChannels': -1, 'mode': -1, 'data': b''}
  rows = [{**image, 'data': grey.tobytes()}, bad]
  found = read(tmp_path, pa.table({'image': rows}))
  decoded = decode.decode(found.encoded, 'none', 10**6, (28, 28, 1))
  assert (decoded.reasons, decoded.converted, found.ids) == ({}, 0, ['f/a.png'])
  np.testing.assert_array_equal(decoded.pixels[0, ..., 0], grey)
  (reject,) = found.rejects
  assert reject.id == 'f/b.png'
  assert reject.reason.startswith('Spark could not decode it')


def test_a_table_without_rows_is_no_collection(tmp_path):
  image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
  with pytest.raises(app.UsageError, match='contains no images'):
    read(tmp_path, pa.table({'image': pa.array([], image)}))


def test_hugging_faces_class_labels_are_names(tmp_path):
  label = {'names': ['zebra', 'Coat'], '_type': 'ClassLabel'}
  features = {'photo': {'_type': 'Image'}, 'label': label}
  metadata = {'huggingface': json.dumps({'info': {'features': features}})}
  table = pa.table({'photo': PNGS[:5], 'label': [0, 1, -1, 2, None]})
  table = table.replace_schema_metadata(metadata)
  found = read(tmp_path, table)
  assert found.labels == ['zebra', 'Coat', -1, '2 without a name in the file', None]
  assert read(tmp_path, table, label_offset=1).labels == [0, 1, -1, 2, None]


def test_pandas_and_duckdb(tmp_path):
  frame = pd.DataFrame({
    'image': PNGS,
    'label': pd.Categorical(['Coat', 'Bag'] * 10),
    'id': [float(n) for n in range(20)],
  })  # fmt: skip
  frame.loc[3, 'id'] = None
  (tmp_path / 'pandas').mkdir()
  frame.to_parquet(tmp_path / 'pandas' / 'a.parquet')
  duckdb.sql('select image, label::varchar as label, id::hugeint as id from frame').write_parquet(
    str(tmp_path / 'duckdb.parquet'), row_group_size=2048
  )
  duckdb.sql('select *, label::varchar as kind from frame').write_parquet(
    str(tmp_path / 'parts'), partition_by=['kind']
  )
  for path in (tmp_path / 'pandas', tmp_path / 'duckdb.parquet'):
    found = reader_kit.read_all(path)
    assert (found.encoded, found.labels) == (PNGS, ['Coat', 'Bag'] * 10)
    assert [found.ids[n] for n in (0, 19)] == ['0', '19']
    assert found.ids[3].endswith('#3')
  found = reader_kit.read_all(tmp_path / 'parts', label_column='kind', carry=('kind',))
  assert sorted(zip(found.encoded, found.labels)) == sorted(zip(PNGS, ['Coat', 'Bag'] * 10))
  assert [
    kind for part in found.chunks for kind in part.carried['kind'].to_pylist()
  ] == found.labels


@pytest.mark.parametrize('column', ['id', 'label'])
def test_a_column_of_lists_is_said_to_be_unusable_or_refused(column, tmp_path):
  table = pa.table({'image': PNGS, column: [[n] for n in range(20)]})
  found = read(tmp_path, table)
  assert found.labels == [None] * 20
  assert list(found.plan.passed_over) == [f'{column} column of type list<element: int64>']
  with pytest.raises(app.UsageError, match=f'--{column}_column={column}: .* it is list'):
    read(tmp_path, table, **{f'{column}_column': column})


@pytest.mark.parametrize(
  ('columns', 'changes', 'said'),
  [
    (['n'], {}, 'has no column of images, only n; name one with --image_column'),
    (['image', 'n'], {'id_column': 'sku'}, '--id_column=sku: .* only image, n; pass one'),
    (['image', 'n'], {'image_column': 'n'}, '--image_column=n: .* it is int64; .* of image, n'),
    (['image', 'label', 'label'], {}, 'several columns called label'),
    (['image', 'id', 'n'], {'id_column': 'n', 'carry': ('id',)}, '--carry=id: predictions have'),
  ],
)
def test_columns_that_will_not_do_are_refused(columns, changes, said, tmp_path):
  values = [pa.array(PNGS) if name == 'image' else pa.array(range(20)) for name in columns]
  with pytest.raises(app.UsageError, match=said):
    read(tmp_path, pa.Table.from_arrays(values, columns), **changes)


def test_what_writers_put_beside_a_table_is_passed_over(tmp_path):
  (tmp_path / '_delta_log').mkdir()
  (tmp_path / '_temporary' / '0').mkdir(parents=True)
  table = pa.table({'image': PNGS})
  for name in ('_delta_log/1.checkpoint.parquet', '_temporary/0/part-0.parquet'):
    pq.write_table(table, tmp_path / name)
  pq.write_table(pa.table({'image': pa.array([], pa.binary())}), tmp_path / 'empty.parquet')
  pq.write_table(pa.table({'name': ['a']}), tmp_path / 'names.parquet')
  for name in ('_SUCCESS', '_metadata', '.a.parquet.crc'):
    (tmp_path / name).write_bytes(b'')
  found = read(tmp_path, table)
  assert found.encoded == PNGS
  assert found.plan.passed_over['Parquet file without a column of images'] == 1
  assert found.plan.passed_over['metadata file'] >= 2


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'', 'the file is empty'),
    (b'PAR1 no', 'smaller than the minimum'),
    (b'PAR1' + bytes(99) + b'PAR1', 'thrift'),
    (b'PARE' + bytes(99) + b'\x10\0\0\0PARE', 'it is encrypted'),
    (PNGS[0], 'not a parquet file'),
  ],
)
def test_a_file_that_is_not_parquet_is_refused_or_one_reject_beside_others(
  content, reason, tmp_path
):
  (tmp_path / 'b.parquet').write_bytes(content)
  with pytest.raises(app.UsageError, match=f'cannot be read as Parquet .*{reason}'):
    reader_kit.read_all(tmp_path)
  table = pa.table({'image': PNGS, 'n': range(20)})
  found = read(tmp_path, table, carry=('n',))
  assert found.encoded == PNGS
  assert [reject.id for reject in found.rejects] == [str(tmp_path / 'b.parquet')]
  assert len({part.carried.schema for part in found.chunks}) == 1


def test_files_that_planning_does_not_open_are_read_alike(tmp_path, monkeypatch):
  for name in 'ab':
    table = pa.table({'image': PNGS, 'n': [f'{name}{n}' for n in range(20)]})
    pq.write_table(table, tmp_path / f'{name}.parquet', row_group_size=3)
  (tmp_path / 'broken.parquet').write_bytes(b'PAR1 no')
  pq.write_table(table.slice(0, 0), tmp_path / 'empty.parquet')
  pq.write_table(pa.table({'name': ['a']}), tmp_path / 'names.parquet')
  pq.write_table(table.drop_columns('n'), tmp_path / 'other.parquet')
  with pytest.raises(app.UsageError, match='--carry=n'):
    reader_kit.read_all(tmp_path, carry=('n',))
  every = reader_kit.read_all(tmp_path)
  monkeypatch.setattr(parquet, 'SAMPLE_FILES', 1)
  monkeypatch.setattr(cutting, 'MIN_SHARD_BYTES', 2000)
  found = reader_kit.read_all(tmp_path)
  assert sum(shard.is_range for shard in found.plan.shards) > 4
  assert sorted(found.ids) == sorted(every.ids)
  assert found.rejects == every.rejects
  passed_over = sum(
    (collections.Counter(part.passed_over) for part in found.chunks), collections.Counter()
  )
  assert passed_over + collections.Counter(found.plan.passed_over) == every.plan.passed_over
  (tmp_path / 'names.parquet').unlink()
  rejects = reader_kit.read_all(tmp_path, carry=('n',)).rejects
  assert [pathlib.Path(reject.id).stem for reject in rejects] == ['broken', 'other']


def test_a_damaged_page_costs_the_rest_of_its_row_group_only(tmp_path):
  rows, path = 3000, tmp_path / 'a.parquet'
  images = [PNGS[n % 20] for n in range(rows)]
  pq.write_table(
    pa.table({'image': images, 'id': [f'i{n}' for n in range(rows)]}),
    path,
    row_group_size=1500,
    use_dictionary=False,
    compression='none',
    data_page_size=50_000,
    write_batch_size=10,
    write_page_checksum=True,
  )
  content = bytearray(path.read_bytes())
  content[content.index(PNGS[11], len(content) // 4) + 100] ^= 1
  path.write_bytes(content)
  found = reader_kit.read_all(path)
  lost = len(found.rejects)
  assert 0 < lost < 1500
  assert found.seen() == rows
  kept = [*range(1500 - lost), *range(1500, rows)]
  assert found.ids == [f'i{n}' for n in kept]
  assert found.encoded == [images[n] for n in kept]
  assert [reject.id for reject in found.rejects] == [
    f'{path}#{n}' for n in range(1500 - lost, 1500)
  ]
  assert 'row group 0 of the file is damaged' in found.rejects[0].reason


def test_large_pictures_are_read_a_few_at_a_time(tmp_path):
  large = [bytes([n]) * (8 << 20) for n in range(20)]
  pq.write_table(pa.table({'image': large}), tmp_path / 'a.parquet')
  with row_groups.opened(str(tmp_path / 'a.parquet')) as table:
    sizes = [batch.num_rows for batch in table.batches(0, ['image'], 4096)]
  assert max(sizes) <= 2
  assert sum(sizes) == 20
  found = reader_kit.read_all(tmp_path)
  assert [len(part.ids) for part in found.chunks] == [8, 8, 4]


def test_a_large_row_group_is_not_read_as_a_whole(tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  table = pa.table({'image': [random.bytes(1 << 16) for _ in range(400)]})
  # Pages end after a batch: by default they have 1,024 rows, however large these are.
  pq.write_table(table, tmp_path / 'a.parquet', write_batch_size=16, use_dictionary=False)
  sizes = []

  class Recorded(io.FileIO):
    def read(self, size: int = -1) -> bytes:
      content = super().read(size)
      sizes.append(len(content))
      return content

  monkeypatch.setattr(files, 'open_bytes', Recorded)
  assert reader_kit.read_all(tmp_path / 'a.parquet').seen() == 400
  assert max(sizes) < 3 << 20


def test_an_outage_while_a_table_is_read_is_not_damage(tmp_path, monkeypatch):
  pq.write_table(pa.table({'image': PNGS}), tmp_path / 'a.parquet')
  options = reader_kit.settings()
  (shard,) = source.plan([str(tmp_path)], 'auto', options).shards
  content = (tmp_path / 'a.parquet').read_bytes()

  class Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
      if self.tell() < 1000:  # the footer is read first
        raise files.Unavailable('try again later')
      return super().read(size)

  monkeypatch.setattr(files, 'open_bytes', lambda uri: Failing(content))
  with pytest.raises(files.Unavailable, match='try again later'):
    list(source.read(shard, 0, options))


def tables() -> list[bytes]:
  """Returns small Parquet files of 40 rows."""
  images = [b'png' + bytes([n]) * n for n in range(40)]
  structs = [{'bytes': image, 'path': str(n)} for n, image in enumerate(images)]
  contents = []
  for table, options in (
    (pa.table({'image': images, 'id': range(40)}), {'row_group_size': 10}),
    (pa.table({'image': structs, 'label': [1.0] * 40}), {'compression': 'none'}),
    (pa.table({'image': [[image] for image in images]}), {'use_dictionary': False}),
  ):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    contents.append(buffer.getvalue())
  return contents


@given(st.data(), st.sampled_from(tables()))
@settings(deadline=None, max_examples=100)
def test_any_damage_is_a_whole_row_or_a_reject(tmp_path_factory, data, content):
  content = bytearray(content)
  content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
  if data.draw(st.integers(0, 3)) == 0:
    content = content[: data.draw(st.integers(0, len(content)))]
  path = tmp_path_factory.mktemp('table') / 'a.parquet'
  path.write_bytes(content)
  try:
    found = reader_kit.read_all(path, chunk_images=16)
  except app.UsageError:
    return
  assert found.seen() == found.plan.images or found.plan.images is None
  assert all(found.ids)
