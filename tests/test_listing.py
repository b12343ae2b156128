"""Which files an input names: real folders, patterns, links and names of any kind."""

import contextlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

import pytest
from absl import app
from PIL import Image

from batch import chunk, closing, names, source
from batch.readers import sniff
from benchmarks import collection
from storage import files
from tests import pictures, reader_kit

HIDDEN = ('.DS_Store', '._0.png', '.thumbnails/0.png')
OTHERS = ('README', 'README.md', 'labels.csv', 'Thumbs.db', '_SUCCESS', 'voc/0.xml', 'list.txt')


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
  """An empty directory, which is also the current one."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture(scope='module')
def jpeg() -> bytes:
  return pictures.saved(Image.new('L', (28, 28)), 'JPEG')


def put(content: bytes, *names_: str) -> None:
  for name in names_:
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def plan(*patterns: str, kind: str = 'auto', output: str = 'out') -> source.Plan:
  return source.plan(patterns, kind, reader_kit.settings(output=output))


def uris(found: source.Plan) -> list[str]:
  return [uri for shard in found.shards for uri in shard.uris or [shard.uri]]


@contextlib.contextmanager
def another_user() -> Iterator[None]:
  """Drops root's right to read everything."""
  user = os.geteuid()
  os.seteuid(user or 65534)
  try:
    yield
  finally:
    os.seteuid(user)


def read(found: source.Plan, **changes) -> tuple[list[str], list[chunk.Reject]]:
  parts = [
    part for shard in found.shards for part in source.read(shard, 0, reader_kit.settings(**changes))
  ]
  return [i for part in parts for i in part.ids], [r for part in parts for r in part.rejects]


@pytest.mark.parametrize('pattern', ['in', 'in/', 'in/**'])
def test_of_a_folder_the_images_are_read_and_everything_else_is_counted(pattern, home, jpeg):
  images = [f'in/{n}' for n in ('0.jpg', '1.jfif', '2.JPE', '3.tif', '4', '5.JPG_large', 'a/6.dat')]
  put(jpeg, *images)
  put(b'some text, and more', *[f'in/{name}' for name in (*HIDDEN, *OTHERS)])
  os.mkfifo('in/pipe.png')
  os.symlink('0.jpg', 'in/7.jpg')
  os.symlink('gone', 'in/8.jpg')
  found = plan(pattern)
  assert found.format == 'image'
  assert uris(found) == sorted([*images, 'in/7.jpg', 'in/8.jpg'])
  assert found.passed_over == {
    'hidden file': 2,
    'hidden directory': 1,
    'special file': 1,
    'file without an extension': 2,
    '.md file': 1,
    '.csv file': 1,
    '.txt file': 1,
    '.db file': 1,
    '.xml file': 1,
  }
  ids, rejects = read(found)
  assert len(ids) == 8
  assert rejects == [
    chunk.Reject('in/8.jpg', 'read', 'FileNotFoundError: No such file or directory')
  ]


def test_each_directory_is_read_once_whatever_links_lead_to_it(home, jpeg):
  put(jpeg, 'in/a/0.jpg', 'in/a/1.jpg', 'elsewhere/2.jpg', 'beside.jpg')
  links = {'latest': '.', 'a/up': '..', 'b': 'a', 'far': '../elsewhere', 'far2': 'far', 'me': 'me'}
  for name, target in links.items():
    os.symlink(target, f'in/{name}')
  os.symlink('..', 'in/top')  # what is beside the directory was not named
  expected = ['in/a/0.jpg', 'in/a/1.jpg', 'in/far/2.jpg', 'in/me']
  found = plan('in')
  assert uris(found) == expected
  assert found.passed_over == {'link to a directory': 5}
  assert uris(plan('in/**/*.jpg')) == expected[:3]
  assert uris(plan('in', './in/a', f'{home}/in/a/*.jpg')) == expected


def test_names_are_literal_where_they_exist(home, jpeg):
  put(jpeg, 'in/a[1]/0.jpg', 'in/a1/1.jpg', 'in/*.jpg', 'in/x?.jpg', 'in/xy.jpg', 'in/**/2.jpg')
  assert uris(plan('in/a[1]')) == uris(plan('in/a[1]/*')) == ['in/a[1]/0.jpg']
  assert uris(plan('in/a[12]/*')) == ['in/a1/1.jpg']
  assert uris(plan('in/*.jpg')) == ['in/*.jpg']
  assert uris(plan('in/x?.jpg')) == ['in/x?.jpg']
  assert uris(plan('in/**')) == ['in/**/2.jpg']
  assert uris(plan('in/x*.jpg')) == ['in/x?.jpg', 'in/xy.jpg']
  assert len(uris(plan('in'))) == 6


def test_a_pattern_that_matches_directories_means_what_is_in_them(home, jpeg):
  put(jpeg, 'in/cat/0.jpg', 'in/dog/1.jpg')
  assert uris(plan('in/*')) == ['in/cat/0.jpg', 'in/dog/1.jpg']
  put(jpeg, 'in/2.jpg')
  found = plan('in/*')
  assert (uris(found), found.passed_over) == (['in/2.jpg'], {'directory': 2})


def test_a_name_that_is_not_utf8_has_an_id_that_tells_its_bytes(home, jpeg):
  name = os.fsdecode(b'in/100%/caf\xe9 \xc3\xa9.jpg')
  put(jpeg, name)
  (name_id,), _ = read(plan('in'))
  assert name_id == 'file:in/100%25/caf%E9 \u00e9.jpg'
  assert os.fsencode(names.from_uri(name_id)) == os.fsencode(name)
  put(f'{name_id}\n'.encode(), 'list.txt')
  assert read(plan('list.txt')) == ([name_id], [])
  assert names.exact('in/100%/x.jpg') == 'in/100%/x.jpg'


def test_several_formats_name_the_flag_and_the_flag_passes_over_the_others(home, jpeg):
  put(jpeg, 'in/0.jpg')
  put(b'', 'in/a.tar')
  for pattern in ('in', 'in/*'):
    with pytest.raises(app.UsageError, match=r'a\.tar.*--input_format=image or --input_format=tar'):
      plan(pattern)
    found = plan(pattern, kind='image')
    assert (uris(found), found.passed_over) == (['in/0.jpg'], {'.tar file': 1})


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    ('empty', '--input=empty: matches no file;'),
    ('hidden', r'--input=hidden: matches no file \(passed over: hidden file: 1\)'),
    ('notes', r'--input=notes: no file there .* \(passed over: \.md file: 1\)'),
    ('notes/a.md', r'notes/a\.md does not imply a format; pass --input_format'),
    ('pipe', 'pipe: is a pipe, a socket or a device'),
  ],
)
def test_an_input_that_holds_no_image_is_an_error(pattern, message, home, jpeg):
  os.mkdir('empty')
  os.mkfifo('pipe')
  put(jpeg, 'hidden/.0.jpg')
  put(b'text', 'notes/a.md')
  with pytest.raises((app.UsageError, OSError), match=message):
    plan(pattern)


def test_results_of_the_scorer_are_passed_over(home, jpeg):
  part = 'part-00000-of-00001'
  put(jpeg, 'in/0.jpg')
  put(b'{}', 'in/new/settings.json', f'in/new/predictions/{part}.parquet')
  put(b'{}', 'in/old/settings.json', f'in/old/counts/{part}.json', f'in/old/{part}.parquet')
  put(b'{}', 'in/left/settings.json', 'in/left/chunks/00000/000000-9-9-01234567-last.arrow')
  for output in ('in/new', './in/new/', f'{home}/in/new'):
    found = plan('in', output=output)
    assert uris(found) == ['in/0.jpg']
    assert found.passed_over == {"file of the scorer's results": 7}
  with pytest.raises(app.UsageError, match='--output=in: contains the input in'):
    plan('in', output='in')


def test_a_directory_that_cannot_be_read_is_an_error_and_a_file_is_a_reject(
  home, jpeg, monkeypatch
):
  put(jpeg, 'in/0.jpg', 'in/locked/1.jpg', 'in/lost+found/2.jpg')
  scandir, opened = os.scandir, os.stat

  def locked(path):
    """Lists no directory whose name begins with lo."""
    if os.path.basename(path.rstrip('/')) in refused:
      raise PermissionError(13, 'Permission denied', path)
    return scandir(path)

  refused = ['lost+found']
  monkeypatch.setattr(os, 'scandir', locked)
  assert uris(plan('in')) == ['in/0.jpg', 'in/locked/1.jpg']
  refused.append('locked')
  with pytest.raises(PermissionError, match='in/locked/: the directory cannot be read'):
    plan('in')
  found = plan('in/0.jpg')

  def refuse(path, *args, **kwargs):
    """Refuses a file."""
    if path == 'in/0.jpg':
      raise PermissionError(13, 'Permission denied', path)
    return opened(path, *args, **kwargs)

  monkeypatch.setattr(os, 'stat', refuse)
  assert read(found)[1] == [chunk.Reject('in/0.jpg', 'read', 'PermissionError: Permission denied')]


def test_pipes_and_devices_are_never_opened(home):
  os.mkfifo('pipe.png')
  put(b'pipe.png\n/dev/zero\n', 'list.txt')
  _, rejects = read(plan('list.txt'))
  assert [reject.id for reject in rejects] == ['pipe.png', '/dev/zero']
  assert all('is a pipe, a socket or a device' in reject.reason for reject in rejects)
  assert stat.S_ISFIFO(os.stat('pipe.png').st_mode)
  with pytest.raises(OSError, match='is a pipe'):
    files.read('pipe.png')


@pytest.mark.parametrize(
  'kind', ['PNG', 'JPEG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM', 'ICO', 'AVIF']
)
def test_what_pillow_writes_is_known_by_its_content(kind):
  if kind not in Image.SAVE:
    Image.init()
  content = pictures.saved(Image.new('RGB', (32, 32), 'red'), kind)
  assert sniff.is_image(content[: sniff.HEAD_BYTES])


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'BMW builds cars',
    b'P1 is a label',
    b'II. Chapter',
    b'<?xml version="1.0"?><a/>',
    b'\0' * 99,
  ],
)
def test_text_is_not_taken_for_an_image(content):
  assert not sniff.is_image(content)


def test_what_was_passed_over_is_said_in_one_line():
  counts = {'hidden file': 2, '.md file': 1, 'link to a directory': 2, 'hidden directory': 3}
  assert closing.format_counts(counts) == (
    '2 hidden files, 1 .md file, 2 links to a directory, 3 hidden directories'
  )


@pytest.mark.parametrize('pattern', ['{}/in', '{}/in/**/*.png', '{}/in/*/*.png'])
def test_a_link_to_what_cannot_be_reached_is_an_error(pattern, jpeg):
  with another_user(), tempfile.TemporaryDirectory() as home:
    put(jpeg, f'{home}/in/0.png', f'{home}/disk/2023/1.png')
    os.symlink(f'{home}/disk/2023', f'{home}/in/2023')
    os.chmod(f'{home}/disk', 0)
    try:
      with pytest.raises(OSError, match=f'^{home}/in/2023: what this link leads to .* permit it'):
        plan(pattern.format(home))
    finally:
      os.chmod(f'{home}/disk', 0o700)


WRITERS = {
  'a.tfrecord': collection.write_tfrecord,
  'a.tar': collection.write_tar,
  'a.parquet': collection.write_parquet,
}


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('link', ['0', 'z'])
def test_a_link_that_leads_nowhere_beside_archives_is_a_reject(name, link, home, jpeg):
  (home / 'in').mkdir()
  gone = f'in/{link}.{name}'
  os.symlink('not-fetched', gone)
  with pytest.raises(app.UsageError, match=f'{gone}: the link leads nowhere; get the file'):
    plan('in')
  WRITERS[name](f'in/{name}', iter([(0, jpeg, 1)]))
  found = reader_kit.read_all('in')
  assert len(found.ids) == 1
  assert [(reject.id, reject.stage) for reject in found.rejects] == [(gone, 'read')]
  assert 'the link leads nowhere' in found.rejects[0].reason
