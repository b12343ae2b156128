"""Files in a bucket, where one request in three fails, many of them after they took effect."""

import base64
import http.server
import os
import pathlib
import signal
import subprocess
import sys
import threading

import google_crc32c
import pytest
from absl import app
from google.cloud import storage

from storage import files, gcs
from tests import bucket

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = 'gs://lookbook'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with (
    bucket.serving(tmp_path_factory.mktemp('server'), every=3) as running,
    pytest.MonkeyPatch.context() as patch,
  ):
    for name, value in running.environment().items():
      patch.setenv(name, value)
    gcs._client_of.cache_clear()
    running.create('lookbook')
    yield running
  gcs._client_of.cache_clear()


def test_what_is_written_is_read_replaced_and_removed(server):
  before = server.counts()
  contents = {f'{HOME}/first/{n}.txt': b'x' * n for n in range(12)}
  for uri, content in contents.items():
    files.write(uri, content)
  assert {uri: files.read(uri) for uri in contents} == contents
  for uri in contents:
    files.write(uri, 'another ' + uri)
  assert all(files.read(uri).decode() == 'another ' + uri for uri in contents)
  assert [file.uri for file in files.under(f'{HOME}/first')] == sorted(contents)
  files.remove([f'{HOME}/first/3.txt', f'{HOME}/first/none.txt'])
  assert not files.exists(f'{HOME}/first/3.txt')
  assert files.exists(f'{HOME}/first/4.txt')
  files.remove_folder(f'{HOME}/first')
  assert files.under(f'{HOME}/first') == []
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
)


@pytest.fixture(scope='module')
def trees(server, tmp_path_factory) -> tuple[str, str]:
  """The same files on a disk and in a bucket."""
  homes = str(tmp_path_factory.mktemp('patterns')), f'{HOME}/patterns'
  for home in homes:
    for name in NAMES:
      files.write(files.join(home, name), name)
  return homes


@pytest.mark.parametrize('pattern', ['*.png', '**/*.png', '**', 'x/**', 'x/*', '?.png', '[!a]*.png', 'x/y/[cd].*',
                                     'b[1].png', 'x/y/z/*.png', '*/*.png', 'x', 'nothing/**', '.*', '**/y/*',
                                     ])  # fmt: skip
def test_a_pattern_names_the_same_files_in_a_bucket_as_on_a_disk(pattern, trees):
  found = [
    [(file.uri.removeprefix(home), file.size) for file in files.match(files.join(home, pattern))]
    for home in trees
  ]
  assert found[0] == found[1]
  assert bool(found[0]) == (pattern not in ('x', 'nothing/**'))


def test_large_content_goes_up_in_parts_and_arrives_whole(server):
  content, before = os.urandom(3 * gcs.PART_BYTES + 12_345), server.counts()['writes']
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
  with pytest.raises(OSError, match=f'{uri}: another process writes it too'):
    files.write(uri, 'third')
  assert files.read(uri).startswith(b'of another')


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(server):
  files.write(f'{HOME}/replaced', bytes(2 << 20))
  with files.open_bytes(f'{HOME}/replaced') as file:
    assert file.read(1000) == bytes(1000)
    files.write(f'{HOME}/replaced', b'x' * (2 << 20))
    with pytest.raises(OSError, match='was replaced'):
      file.read()


def test_a_folder_is_published_whole_in_place_of_another(server, tmp_path):
  for names in (('old', 'mark'), ('deep/er/new', 'mark')):
    source = tmp_path / names[0].replace('/', '-')
    for name in names:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_text(name)
    files.publish(str(source), f'{HOME}/folder', last='mark')
    assert {file.uri.removeprefix(f'{HOME}/folder/') for file in files.under(f'{HOME}/folder')} == {
      *names
    }
  times = {
    item['name']: item['timeCreated']
    for item in server.listing('lookbook')
    if item['name'].startswith('folder')
  }
  assert max(times, key=times.__getitem__) == 'folder/mark'
  with files.local_copy(f'{HOME}/folder') as copy:
    assert pathlib.Path(copy, 'deep/er/new').read_text() == 'deep/er/new'
  assert not os.path.exists(copy)


# --- what is wrong, in one line --------------------------------------------------------------------------------------


def refusal(do, *args) -> str:
  with pytest.raises(OSError, match='gs://') as caught:
    do(*args)
  assert '\n' not in str(caught.value)
  return f'{type(caught.value).__name__}: {caught.value}'


def test_a_name_that_will_not_do(server):
  for do in (files.under, files.match, lambda uri: files.write(uri, b'')):
    said = refusal(do, 'gs://no-such-bucket/x')
    assert said.startswith('FileNotFoundError')
    assert 'there is no bucket gs://no-such-bucket' in said
  assert (
    refusal(files.read, f'{HOME}/none')
    == f'FileNotFoundError: {HOME}/none: there is no such object; correct the name'
  )
  assert refusal(files.open_bytes, f'{HOME}/none').startswith('FileNotFoundError')
  for uri in (HOME, 'gs://$(BUCKET)/x', 'gs:///x'):
    assert 'write gs://BUCKET/NAME' in refusal(files.read, uri)
  assert 'files are local or gs://' in refusal(files.read, 's3://bucket/x')


def test_both_commands_refuse_it_before_any_work(server, tmp_path, capsys):
  from batch import main
  from trainer import workdir

  with pytest.raises(
    app.UsageError,
    match=r'--workdir=gs://no-such-bucket/run: cannot be written.*there is no bucket',
  ):
    workdir.check('gs://no-such-bucket/run', {})
  assert (
    main.cli(['--model=gs://no-such-bucket/1', '--input=a.png', f'--output={tmp_path}/out']) == 64
  )
  assert 'no-such-bucket' in (said := capsys.readouterr().err)
  assert said.count('\n') == 1


def test_without_credentials_it_says_how_to_get_them(tmp_path):
  script = "from storage import files; files.read('gs://lookbook/x')"
  clean = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(('GOOGLE_', 'STORAGE_'))
  }
  environment = {
    **clean,
    'HOME': str(tmp_path),
    'CLOUDSDK_CONFIG': str(tmp_path),
    'NO_GCE_CHECK': 'true',
  }
  result = subprocess.run(
    [sys.executable, '-c', script], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert (
    'PermissionError: gs://lookbook/x: there are no Google credentials here; run `gcloud auth'
    in result.stderr
  )


class Answering(http.server.BaseHTTPRequestHandler):
  """Gives every request the same answer."""

  status, digest = 200, ''

  def do_GET(self) -> None:
    self.send_response(self.status)
    self.send_header('Content-Length', '7')
    self.send_header('X-Goog-Hash', f'crc32c={self.digest}')
    self.end_headers()
    self.wfile.write(b'content')

  def log_message(self, *_) -> None: ...


@pytest.fixture
def answering(monkeypatch):
  """A server of which a test says what it answers."""
  with http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), type('Handler', (Answering,), {})
  ) as running:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{running.server_port}')
    monkeypatch.setitem(gcs.CALL, 'retry', gcs.RETRY.with_timeout(1))
    gcs._client_of.cache_clear()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.RequestHandlerClass
    running.shutdown()
  gcs._client_of.cache_clear()


@pytest.mark.parametrize(
  ('status', 'expected'),
  [
    (401, 'PermissionError: gs://lookbook/x: there are no Google credentials'),
    (403, 'PermissionError: gs://lookbook/x: permission denied; give the account'),
    (429, 'Unavailable: gs://lookbook/x: Cloud Storage does not answer'),
    (503, 'Unavailable: gs://lookbook/x: Cloud Storage does not answer'),
    (400, 'OSError: gs://lookbook/x: 400'),
  ],
)
def test_an_answer_becomes_an_error_that_says_what_to_do(status, expected, answering):
  answering.status = status
  assert refusal(files.read, 'gs://lookbook/x').startswith(expected)


def test_content_that_is_not_what_was_kept_is_refused(answering):
  answering.digest = base64.b64encode(google_crc32c.Checksum(b'content').digest()).decode()
  assert files.read('gs://lookbook/x') == b'content'
  answering.digest = base64.b64encode(google_crc32c.Checksum(b'c0ntent').digest()).decode()
  assert 'its content came with crc32c' in refusal(files.read, 'gs://lookbook/x')
