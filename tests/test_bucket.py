"""Files in a bucket, while one request in three fails, many of them after they took effect."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from google.cloud import storage

from batch import cutting
from storage import files, gcs_writer
from tests import bucket, pictures, reader_kit

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = 'gs://lookbook'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with bucket.serving_this_process(tmp_path_factory.mktemp('server'), every=3) as running:
    running.create('lookbook')
    yield running


def test_what_is_written_is_read_replaced_and_removed(server):
  before = server.counts()
  contents = {f'{HOME}/first/{n}.txt': b'x' * n for n in range(12)}
  for uri, content in contents.items():
    files.write(uri, content)
  assert {uri: files.read(uri) for uri in contents} == contents
  for uri in contents:
    files.write(uri, 'another ' + uri)
  assert all(files.read(uri).decode() == 'another ' + uri for uri in contents)
  assert [file.uri for file in files.list_files(f'{HOME}/first')] == sorted(contents)
  files.remove([f'{HOME}/first/3.txt', f'{HOME}/first/none.txt'])
  assert not files.exists(f'{HOME}/first/3.txt')
  assert files.exists(f'{HOME}/first/4.txt')
  files.remove_folder(f'{HOME}/first')
  assert files.list_files(f'{HOME}/first') == []
  failed = {when: server.counts()[when] - before.get(when, 0) for when in ('before', 'after')}
  assert min(failed.values()) >= 5, 'the test was spared the failures that it is about'


NAMES = (
  'a.png',
  'b[1].png',
  'x/a.png',
  'x/y/c.png',
  'x/y/d.jpg',
  '.hidden.png',
  'x/.y/e.png',
  'x/y/z/*.png',
  'v[1]/e.png',
  'v1/f.png',
  'w*/g?.png',
  'w*/gh.png',
)

PATTERNS = [
  '*.png',
  '**/*.png',
  '**',
  'x/**',
  'x/*',
  '?.png',
  '[!a]*.png',
  'x/y/[cd].*',
  'b[1].png',
  'x/y/z/*.png',
  '*/*.png',
  'x',
  'nothing/**',
  '.*',
  '**/y/*',
  'v[1]/*',
  'v[12]/*',
  'w*/*',
  'w*/g?.png',
  'w?/g*',
]


@pytest.fixture(scope='module')
def trees(server, tmp_path_factory) -> tuple[str, str]:
  """The same files on a disk and in a bucket."""
  homes = str(tmp_path_factory.mktemp('patterns')), f'{HOME}/patterns'
  for home in homes:
    for name in NAMES:
      files.write(files.join(home, name), name)
  return homes


@pytest.mark.parametrize('pattern', PATTERNS)
def test_a_pattern_names_the_same_files_in_a_bucket_as_on_a_disk(pattern, trees):
  found = [
    [(file.uri.removeprefix(home), file.size) for file in files.match(files.join(home, pattern))]
    for home in trees
  ]
  assert found[0] == found[1]
  assert bool(found[0]) == (pattern not in ('x', 'nothing/**'))


def test_a_folder_of_a_bucket_is_listed_as_on_a_disk(trees):
  for folder in ('', 'x', 'v[1]', 'w*', 'none'):
    found = []
    for home in trees:
      passed_over = files.Counts()
      inside = files.list_files(files.join(home, folder).rstrip('/'), passed_over)
      found.append([file.uri.removeprefix(home) for file in inside])
    assert found[0] == found[1]
  assert passed_over == {}
  hidden = [files.Counts() for _ in trees]
  for home, counts in zip(trees, hidden):
    files.list_files(home, counts)
  assert [sum(counts.values()) for counts in hidden] == [2, 2]


def test_large_content_goes_up_in_parts_and_arrives_whole(server):
  content, before = os.urandom(3 * gcs_writer.PART_BYTES + 12_345), server.counts()['writes']
  files.write(f'{HOME}/large', content)
  assert server.counts()['writes'] - before >= 5
  assert files.read(f'{HOME}/large') == content
  with files.open_bytes(f'{HOME}/large') as file:
    assert b''.join(iter(lambda: file.read(1 << 20), b'')) == content
    assert file.seek(-1000, os.SEEK_END) == len(content) - 1000
    assert file.read() == content[-1000:]
    assert (file.seek(123_456), file.read(10)) == (123_456, content[123_456:123_466])
  with pytest.raises(ValueError, match='more than 1000 bytes'):
    files.read(f'{HOME}/large', limit=1000)


def test_an_upload_that_is_killed_leaves_nothing(server):
  script = f"from storage import files; files.write('{HOME}/killed', bytes(400 << 20))"
  before = server.counts(every=0)['writes']
  process = subprocess.Popen([sys.executable, '-c', script], cwd=ROOT)
  while server.counts()['writes'] - before < 4:
    assert process.poll() is None
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  server.counts(every=3)
  assert not files.exists(f'{HOME}/killed')


def test_a_writer_that_meets_another_tries_again_and_then_says_so(server, monkeypatch):
  uri, others, found = f'{HOME}/contended', iter(range(100)), storage.Bucket.get_blob
  files.write(uri, 'first')

  def then_another_writes(times: int):
    def get_blob(self, name, **call):
      blob = found(self, name, **call)
      if (number := next(others)) < times:
        server.put('lookbook', name, f'of another, {number}'.encode())
      return blob

    return get_blob

  monkeypatch.setattr(storage.Bucket, 'get_blob', then_another_writes(1))
  files.write(uri, 'second')
  assert files.read(uri) == b'second'
  monkeypatch.setattr(storage.Bucket, 'get_blob', then_another_writes(100))
  with pytest.raises(OSError, match=f'{uri}: another process writes something else there too'):
    files.write(uri, 'third')
  assert files.read(uri).startswith(b'of another')


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(server):
  files.write(f'{HOME}/replaced', bytes(2 << 20))
  with files.open_bytes(f'{HOME}/replaced') as file:
    assert file.read(1000) == bytes(1000)
    files.write(f'{HOME}/replaced', b'x' * (2 << 20))
    with pytest.raises(files.Unavailable, match='was replaced'):
      file.read()


def test_a_folder_is_published_whole_in_place_of_another(server, tmp_path):
  for names in (('old', 'mark'), ('deep/er/new', 'mark')):
    source = tmp_path / names[0].replace('/', '-')
    for name in names:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_text(name)
    files.publish(str(source), f'{HOME}/folder', last='mark')
    assert {
      file.uri.removeprefix(f'{HOME}/folder/') for file in files.list_files(f'{HOME}/folder')
    } == {*names}
  times = {
    item['name']: item['timeCreated']
    for item in server.listing('lookbook')
    if item['name'].startswith('folder')
  }
  assert max(times, key=times.__getitem__) == 'folder/mark'
  with files.local_copy(f'{HOME}/folder') as copy:
    assert pathlib.Path(copy, 'deep/er/new').read_text() == 'deep/er/new'
  assert not os.path.exists(copy)


@pytest.mark.parametrize('kind', ['tfrecord', 'tar'])
def test_a_large_file_is_many_shards_as_on_a_disk(kind, server, tmp_path, monkeypatch):
  monkeypatch.setattr(cutting, 'MIN_SHARD_BYTES', 50_000)
  path = tmp_path / f'photos.{kind}'
  encoded = pictures.noise_pngs(40, (70, 70))
  if kind == 'tar':
    pictures.write_tar(path, {f'{number:02}.png': image for number, image in enumerate(encoded)})
  else:
    pictures.write_tfrecord(path, encoded)
  files.write(f'{HOME}/{path.name}', path.read_bytes())
  here, there = (reader_kit.read_all(where) for where in (path, f'{HOME}/{path.name}'))
  assert len(there.plan.shards) == len(here.plan.shards) > 3
  assert there.encoded == here.encoded == encoded
  assert [name.removeprefix(HOME) for name in there.ids] == [
    name.removeprefix(str(tmp_path)) for name in here.ids
  ]
