"""Manifests as spreadsheets, scripts and people write them, and what damage does to them."""

import bz2
import csv
import gzip
import io
import lzma
import pathlib
import random

import hypothesis
import pytest
import zstandard
from absl import app
from hypothesis import strategies

from batch import chunk, source
from batch.readers import image_files, stream, text
from storage import files
from tests import pictures, reader_kit

COUNT = 12
FIELDS = strategies.text(
  strategies.characters(codec='utf-8', exclude_characters='\0\ufeff'), min_size=1, max_size=12
)


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
  """A directory with a dozen pictures, which is also the current one."""
  monkeypatch.chdir(tmp_path)
  for n, content in enumerate(pictures.noise_pngs(COUNT)):
    (tmp_path / f'{n}.png').write_bytes(content)
  return tmp_path


class Result:
  """What came of a manifest: ids, labels, rejects and carried rows, in order."""

  def __init__(self, name: str, chunk_images: int = 4096, **changes):
    settings = reader_kit.settings(chunk_images=chunk_images, **changes)
    self.plan = source.plan([name], 'manifest', settings)
    parts = [part for shard in self.plan.shards for part in source.read(shard, 0, settings)]
    self.ids = [i for part in parts for i in part.ids]
    self.labels = [label for part in parts for label in part.labels or []]
    self.rejects: list[chunk.Reject] = [reject for part in parts for reject in part.rejects]
    self.carried = [row for part in parts if part.carried for row in part.carried.to_pylist()]
    assert len(self.ids) + len(self.rejects) == self.plan.images


def result(content: str | bytes, name: str = 'list.csv', chunk_images: int = 4096, **changes):
  encoded = content.encode() if isinstance(content, str) else content
  pathlib.Path(name).write_bytes(encoded)
  return Result(name, chunk_images, **changes)


def table(delimiter: str = ',', end: str = '\n') -> str:
  rows = ['uri,label', *[f'{n}.png,{n % 10}' for n in range(COUNT)]]
  return ''.join(row.replace(',', delimiter) + end for row in rows)


EVERY_WAY = {
  'comma.csv': table().encode(),
  'semicolon.csv': table(';').encode(),
  'tab.csv': table('\t').encode(),
  'tab.tsv': table('\t').encode(),
  'bar.csv': table('|').encode(),
  'windows.csv': table(end='\r\n').encode(),
  'mac.csv': table(end='\r').encode(),
  'marked.csv': table().encode('utf-8-sig'),
  'utf16.csv': table(';', '\r\n').encode('utf-16'),
  'big.csv': table().encode('utf-16-be'),
  'packed.csv.gz': gzip.compress(table().encode()),
  'excel.csv': b'sep=;\r\n' + table(';', '\r\n').encode(),
  'padded.csv': table().replace('\n', '\n\n ,\n').encode(),
  'headless.csv': table().partition('\n')[2].encode(),
  'open end.csv': table().rstrip('\n').encode(),
  'other names.csv': table().replace('uri,label', 'filename,class').encode(),
}


@pytest.mark.parametrize('chunk_images', [1, 5, 4096])
@pytest.mark.parametrize('name', EVERY_WAY)
def test_a_table_is_read_however_it_is_written(name, chunk_images, home):
  found = result(EVERY_WAY[name], name, chunk_images)
  assert found.ids == [f'{n}.png' for n in range(COUNT)]
  assert found.labels == [str(n % 10) for n in range(COUNT)]
  assert not found.rejects


@pytest.mark.parametrize(
  'content',
  [
    b'\xef\xbb\xbf0.png\n1.png\n',
    '0.png\r\n1.png\r\n'.encode('utf-16'),
    b'0.png\r1.png',
    b'\n0.png\n  \n# a comment\n1.png  \n',
    gzip.compress(b'0.png\n1.png\n', mtime=0),  # workers must collect the same names
  ],
)
def test_a_list_is_read_however_it_is_written(content, home):
  for chunk_images in (1, 4096):
    found = result(content, 'list.txt', chunk_images)
    assert (found.ids, found.rejects) == (['0.png', '1.png'], [])
  assert found.plan.passed_over == ({'comment line': 1} if b'#' in content else {})


def test_rows_may_contain_line_breaks_within_quotes(home):
  content = 'uri,id,label\r\n"0.png","one\r\ntwo, ""three""",1\r\n1.png,b,2\r\n'
  expected = [row[1] for row in csv.reader(io.StringIO(content, newline=''))][1:]
  for chunk_images in (1, 9):
    assert result(content, chunk_images=chunk_images).ids == expected


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('bad\rline,1', 'No such file'),
    ('"' + 'x' * 140_000 + '",2', 'names a file with 140000 characters'),
    ('x' * (text.MAX_ROW_BYTES + 9), f'more than {text.MAX_ROW_BYTES} bytes'),
    ('"0.png,1', 'a quote is opened and not closed'),
    ('a,b.png,3', 'the row has 3 fields'),
    (',3', 'the row names no image'),
    ('0.png\0,3', 'has a null character'),
    ('missing.png,3', 'No such file'),
    ('.,3', 'Is a directory'),
    ('https://host/a.png,3', 'files are local or gs://'),
    (r'C:\pictures\a.png,3', 'a path on Windows'),
    ('file://host/a.png,3', 'another machine'),
  ],
)
def test_a_bad_row_affects_only_itself(line, reason, home):
  rows = table().splitlines(keepends=True)
  for chunk_images in (1, 5, 4096):
    found = result(''.join([*rows[:5], line + '\n', *rows[5:]]), chunk_images=chunk_images)
    assert found.ids == [f'{n}.png' for n in range(COUNT)]
    assert found.labels == [str(n % 10) for n in range(COUNT)]
    assert len(found.rejects) == 1
    assert reason in found.rejects[0].reason


def test_a_damaged_gzip_file_is_read_up_to_there(home):
  chosen = random.Random(0).choices(range(COUNT), k=20_000)
  whole = b'uri\n' + b''.join(b'%d.png\n' % n for n in chosen)
  found = result(gzip.compress(whole)[:-2000], 'list.csv.gz', 1000)
  assert 1000 < len(found.ids) < 20_000
  assert found.ids == [f'{n}.png' for n in chosen[: len(found.ids)]]
  assert [reject.id for reject in found.rejects] == [f'list.csv.gz#{len(found.ids)}']
  assert 20 <= len(found.plan.shards) <= 66


def test_a_file_without_random_access_becomes_a_bounded_number_of_shards(home):
  lines = ''.join(f'{n % COUNT}.png\n' for n in range(1000)).encode()
  assert len(result(lines, 'list.txt', 3).plan.shards) == 334
  found = result(gzip.compress(lines), 'list.txt.gz', 3)
  assert len(found.plan.shards) <= 64
  assert found.ids == lines.decode().split()


@pytest.mark.parametrize('skip', range(4))
def test_a_shard_is_resumed_after_any_number_of_rows(skip, home):
  settings = reader_kit.settings()
  result('uri\n0.png\nmissing.png\n1.png\n')
  (shard,) = source.plan(['list.csv'], 'auto', settings).shards
  parts = list(source.read(shard, skip, settings))
  left = ['0.png', 'missing.png', '1.png'][skip:]
  assert [i for part in parts for i in part.ids] == [name for name in left if name[0] != 'm']
  assert sum(len(part.rejects) for part in parts) == left.count('missing.png')


def test_paths_are_found_where_they_are(home):
  names_ = ['sub/a.png', ' b.png', '50%.png', '#c.png', 'back\\slash.png', 'x, y.png']
  (home / 'sub').mkdir()
  for name in names_:
    (home / name).write_bytes((home / '0.png').read_bytes())
  lines = [*names_, '0.png ', r'sub\a.png', str(home / '1.png'), f'file://{home}/50%25.png']
  lines += ['file:sub/a.png', f'file://localhost{home}/0.png', './0.png']
  found = result('\n'.join(lines), 'list.txt')
  assert (found.ids, found.rejects) == ([*names_, '0.png', *lines[7:]], [])
  (home / 'lists').mkdir()
  elsewhere = ''.join(f'{n}.png\n' for n in range(3))
  assert len(result(elsewhere, 'lists/a.txt').rejects) == 3
  assert len(result(elsewhere, 'lists/a.txt', root=str(home)).ids) == 3
  assert len(result('sub/a.png\n', 'lists/b.csv', image_column='1', root='.').ids) == 1


def test_columns_are_named_numbered_and_carried(home):
  flags = {'image_column': 'picture', 'id_column': 'sku', 'label_column': 'kind'}
  content = 'sku,picture,kind,price\na,0.png,3,1.5\nb,missing.png,4,2\nc,1.png,,\n ,2.png\n'
  found = result(content, carry=('price', 'sku'), **flags)
  assert (found.ids, found.labels) == (['a', 'c', '2.png'], ['3', None, None])
  assert found.carried == [
    {'price': '1.5', 'sku': 'a'},
    {'price': '', 'sku': 'c'},
    {'price': None, 'sku': ' '},
  ]
  assert found.rejects[0].reason == 'FileNotFoundError: No such file or directory at missing.png'
  numbers = {'image_column': '2', 'id_column': '1', 'label_column': '3'}
  found = result('a,0.png,3,x\nb,1.png,4,y\n', carry=('4',), **numbers)
  assert (found.ids, found.labels) == (['a', 'b'], ['3', '4'])
  assert found.carried == [{'4': 'x'}, {'4': 'y'}]


@pytest.mark.parametrize(
  ('content', 'flags', 'message'),
  [
    (
      'name,kind\nx,1\n',
      {},
      'none of its columns is known to name images: name, kind; .*--image_c',
    ),
    ('id,label\nx,1\n', {}, 'none of its columns is known to name images: id, label'),
    ('uri,label\nx,1\n', {'label_column': 'k'}, '--label_column=k: .* only uri, label;'),
    ('uri,label\nx,1\n', {'carry': ('price',)}, '--carry=price: .* only uri, label;'),
    ('uri,label\nx,1\n', {'carry': ('label',)}, '--carry=label: predictions have a column'),
    ('a.png,1,train\n', {}, r'has no header; .* 1 \(a\.png\), 2 \(1\), 3 \(train\)'),
    ('a.png,b.png\n', {}, 'has no header; name its columns by their numbers'),
    ('a.png,1\n', {'image_column': 'uri'}, '--image_column=uri: .* has no header; name a column'),
    ('', {}, 'contains no images'),
    ('uri,label\n0.png,1\n'.encode('utf-32'), {}, 'is UTF-32; save it as UTF-8'),
    ('uri,label\n', {}, 'contains no images'),
  ],
)
def test_columns_are_never_guessed(content, flags, message, home):
  with pytest.raises(app.UsageError, match=message):
    result(content, **flags)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
  rows=strategies.lists(strategies.tuples(FIELDS, FIELDS), min_size=1, max_size=9),
  delimiter=strategies.sampled_from(',;\t|'),
  end=strategies.sampled_from(['\n', '\r\n']),
)
def test_rows_are_those_of_pythons_csv_module(rows, delimiter, end):
  # The module puts no quotes around a lone carriage return of its own accord.
  quoting = (
    csv.QUOTE_ALL if any('\r' in field for row in rows for field in row) else csv.QUOTE_MINIMAL
  )
  written = io.StringIO()
  writer = csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting)
  writer.writerows(rows)
  content = written.getvalue().encode()
  found = text.table_rows(text.lines([content[:7], content[7:]], b'\n', 0), delimiter)
  parsed = [(tuple(text.fields(row.text, delimiter)), row.end) for row in found]
  reference = list(csv.reader(io.StringIO(content.decode(), newline=''), delimiter=delimiter))
  assert [fields for fields, _ in parsed] == [tuple(row) for row in reference]
  assert parsed[-1][1] == len(content)


@hypothesis.settings(
  deadline=None,
  max_examples=200,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.example(name='packed.csv.gz', cut=None, changes={43: 1}, chunk_images=1)
@hypothesis.given(
  name=strategies.sampled_from(list(EVERY_WAY)),
  cut=strategies.none() | strategies.integers(0, 400),
  changes=strategies.dictionaries(
    strategies.integers(0, 400), strategies.integers(0, 255), max_size=3
  ),
  chunk_images=strategies.integers(1, 5),
)
def test_damage_never_raises_and_every_row_is_accounted_for(name, cut, changes, chunk_images, home):
  content = bytearray(EVERY_WAY[name][:cut])
  for place, byte in changes.items():
    if place < len(content):
      content[place] = byte
  try:
    whole = result(bytes(content), name)
  except app.UsageError:
    return
  in_parts = Result(name, chunk_images)
  assert (in_parts.ids, in_parts.labels) == (whole.ids, whole.labels)
  assert in_parts.rejects == whole.rejects
  if not name.endswith('.gz'):  # in which a changed byte may repeat a part of the text
    assert len(whole.ids) + len(whole.rejects) <= COUNT + 3
  untouched = not changes or min(changes) > len(content) - 60
  if name in ('comma.csv', 'semicolon.csv') and untouched and len(content) > 100:
    assert whole.ids[:3] == ['0.png', '1.png', '2.png']


@hypothesis.settings(
  deadline=None,
  max_examples=200,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
  content=strategies.binary(max_size=300)
  | strategies.text('"\r\n,;\t|#ab.png0\0 ', max_size=300).map(str.encode),
  name=strategies.sampled_from(['a.csv', 'a.txt', 'a.tsv']),
)
def test_any_bytes_are_rows_or_an_error_in_one_line(content, name, home):
  try:
    whole = result(content, name)
  except app.UsageError:
    return
  in_parts = Result(name, 1)
  assert (in_parts.ids, in_parts.rejects) == (whole.ids, whole.rejects)
  for found in [*whole.ids, *[reject.id for reject in whole.rejects]]:
    assert found
    assert found.encode()


COMPRESSORS = {
  'gz': gzip.compress,
  'bz2': bz2.compress,
  'xz': lzma.compress,
  'zst': zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize('suffix', COMPRESSORS)
@pytest.mark.parametrize('name', ['list.txt', 'table.csv'])
def test_a_compressed_manifest_is_read_to_its_end_by_all_shards(suffix, name, home):
  names = [f'{n % COUNT}.png' for n in range(400)]
  content = '\n'.join([*(['uri'] if name.endswith('csv') else []), *names])
  (home / f'{name}.{suffix}').write_bytes(COMPRESSORS[suffix](content.encode()))
  found = reader_kit.read_all(f'{name}.{suffix}', chunk_images=16)
  assert len(found.plan.shards) > 1
  assert (found.ids, found.rejects) == (names, [])


def test_large_files_are_read_a_few_at_a_time(home, monkeypatch):
  large, reads = 60, []
  read = files.read

  def counted(uri: str, limit: int | None = None) -> bytes:
    if uri.endswith('.png'):
      reads.append(uri)
    return read(uri, limit)

  for n in range(large):
    (home / f'{n}.png').write_bytes(bytes(10_000))
  monkeypatch.setattr(files, 'read', counted)
  monkeypatch.setattr(stream, 'CHUNK_BYTES', 40_000)  # four files
  (home / 'list.txt').write_text(''.join(f'{n}.png\n' for n in range(large)))
  settings = reader_kit.settings()
  ids = []
  for shard in source.plan(['list.txt'], 'manifest', settings).shards:
    for part in source.read(shard, 0, settings):
      ids += part.ids
      # The chunk, a round as large as one, and of files that turned out larger one per thread.
      assert len(reads) <= len(ids) + 4 + image_files.LOCAL_THREADS
  assert ids == [f'{n}.png' for n in range(large)] == reads
