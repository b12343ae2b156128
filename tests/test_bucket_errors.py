"""What is wrong with a bucket is one line that names the remedy."""

import base64
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import google_crc32c
import pytest
from absl import app

from batch import chunk, source
from storage import files, gcs
from tests import bucket, reader_kit

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = 'gs://lookbook'


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  with bucket.serving_this_process(tmp_path_factory.mktemp('server'), every=3) as running:
    running.create('lookbook')
    yield running


def refusal(do, *args) -> str:
  with pytest.raises((OSError, files.Unavailable), match='gs://') as caught:
    do(*args)
  assert '\n' not in str(caught.value)
  return f'{type(caught.value).__name__}: {caught.value}'


def test_a_name_that_will_not_do(server):
  for do in (files.list_files, files.match, lambda uri: files.write(uri, b'')):
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
    workdir.check_writable('gs://no-such-bucket/run')
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
  """Gives every request for an object the same answer."""

  status, digest = 200, ''
  permissions: tuple[str, ...] = ()  # for the bucket
  refused: tuple[str, ...] = ()  # objects

  def do_GET(self) -> None:
    if '/iam/testPermissions' in self.path:
      self.answer(200, {'permissions': list(self.permissions)})
      return
    if 'Metadata-Flavor' in self.headers:  # of a virtual machine, which has no token
      self.answer(200 if self.path == '/' else 404, {})
      return
    name = self.path.partition('?')[0].rpartition('/')[2]
    if name in self.refused:
      self.answer(403, {'error': {'message': 'no'}})
      return
    if 'alt=media' not in self.path and self.status == 200:
      self.answer(200, {})
      return
    self.send_response(self.status)
    self.send_header('Content-Length', '7')
    self.send_header('X-Goog-Hash', f'crc32c={self.digest}')
    self.end_headers()
    self.wfile.write(b'content')

  def answer(self, status: int, said: dict) -> None:
    content = json.dumps(said).encode()
    self.send_response(status)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Metadata-Flavor', 'Google')
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_) -> None: ...


@pytest.fixture
def answering(monkeypatch):
  """A server of which a test says what it answers."""
  with http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), type('Handler', (Answering,), {})
  ) as running:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{running.server_port}')
    monkeypatch.setitem(gcs.CALL, 'retry', gcs.CALL['retry'].with_timeout(1))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.RequestHandlerClass
    running.shutdown()


@pytest.mark.parametrize(
  ('status', 'expected'),
  [
    (401, 'PermissionError: gs://lookbook/x: there are no Google credentials'),
    (403, 'PermissionError: gs://lookbook/x: permission denied; give the account'),
    (429, 'Unavailable: gs://lookbook/x: Cloud Storage is not responding'),
    (503, 'Unavailable: gs://lookbook/x: Cloud Storage is not responding'),
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
  said = refusal(files.read, 'gs://lookbook/x')
  assert said.startswith('Unavailable')
  assert 'its content arrived with crc32c' in said


def test_an_object_that_may_not_be_read_is_a_reject_unless_it_is_all_of_them(
  answering, monkeypatch
):
  def read(*names: str) -> chunk.ReadImages:
    uris = tuple(f'gs://lookbook/{name}' for name in names)
    shard = chunk.Shard(0, 'image', uris[0], uris=uris)
    (found,) = source.read(shard, 0, reader_kit.settings())
    return found

  monkeypatch.setattr(gcs, '_last_read', {})
  answering.refused = ('x', 'y', 'z')
  with pytest.raises(files.Unavailable, match='permission denied; give the account'):
    read('x', 'y')
  answering.permissions = ('storage.objects.get',)
  found = read('x', 'y')
  assert [reject.id for reject in found.rejects] == ['gs://lookbook/x', 'gs://lookbook/y']
  assert all(reject.reason.startswith('PermissionError') for reject in found.rejects)
  answering.permissions = ()  # for all objects; some may be read nonetheless
  assert read('a').ids == ['gs://lookbook/a']
  assert len(read('x').rejects) == 1
  answering.refused = ('a', 'x', 'y', 'z')
  with pytest.raises(files.Unavailable, match='permission denied; give the account'):
    read('x', 'y')


def test_a_token_that_cannot_be_renewed_is_no_property_of_an_object(answering, tmp_path):
  script = "from storage import files; files.read('gs://lookbook/x')"
  environment = {
    **{name: os.environ[name] for name in ('PATH', 'PYTHONPATH') if name in os.environ},
    'HOME': str(tmp_path),
    'GCE_METADATA_HOST': (machine := os.environ['STORAGE_EMULATOR_HOST'].removeprefix('http://')),
    'GCE_METADATA_IP': machine,
    'NO_PROXY': '127.0.0.1',
  }
  result = subprocess.run(
    [sys.executable, '-c', script], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  said = result.stderr.splitlines()[-1]
  assert 'Unavailable: gs://lookbook/x: Google refuses the credentials' in said
  assert 'run `gcloud auth application-default login`, or run as a service account' in said
