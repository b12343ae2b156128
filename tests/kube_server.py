"""A Kubernetes control plane of this machine's own. Its nodes are tests/kube_node.py's.

`make test-slow` has built it (scripts/kube.sh). docs/contributing-cluster.md starts it by hand:

python -m tests.kube_server FOLDER
"""

import argparse
import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.ports import free_ports
from tests.train_kit import CACHE, ROOT

SERVERS = CACHE / 'kube'
ETCD = shutil.which('etcd') or str(CACHE / 'debian/root/usr/bin/etcd')
KUBECTL = shutil.which('kubectl') or str(CACHE / 'kubectl')
# Those that the Jobs here have to do with: all of them take twice the time to start.
CONTROLLERS = (
  'job-controller',
  'garbage-collector-controller',
  'endpointslice-controller',
  'persistentvolume-binder-controller',
)
PROBES, PAUSE_SECONDS = 1200, 0.25
LOG_TAIL = 4000  # characters


class Server:
  """The server, once `running` has yielded it."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._port, self._etcd_port, self._etcd_peer_port = free_ports(3)
    self._token = secrets.token_hex()
    self._processes: dict[str, subprocess.Popen[bytes]] = {}

  def kubectl(self, *args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    """Returns what kubectl did on this server."""
    self._raise_if_ended()
    command = self.command(*args)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **kwargs)

  def command(self, *args: str) -> list[str]:
    """Returns kubectl's command line: it asks no other server, whatever KUBECONFIG names."""
    ours = (f'--kubeconfig={self._folder}/kubeconfig', f'--cache-dir={self._folder}/cache')
    return [KUBECTL, *ours, *args]

  def request(
    self, method: str, path: str, body: Any = None, kind: str = 'application/json'
  ) -> Any:
    """Returns the answer to one call of Kubernetes' API."""
    self._raise_if_ended()
    headers = {'Authorization': f'Bearer {self._token}', 'Content-Type': kind}
    content = None if body is None else json.dumps(body).encode()
    url = f'https://127.0.0.1:{self._port}{path}'
    request = urllib.request.Request(url, content, headers, method=method)
    context = ssl.create_default_context(cafile=f'{self._folder}/certificates/apiserver.crt')
    with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310
      return json.load(answer)

  def start(self, *flags: str) -> None:
    """Raises AssertionError, with the end of the log, where a process ends or never gets ready."""
    self._write_files()
    self._start('etcd', self._etcd_command())
    self._start('kube-apiserver', [*self._api_server_command(), *flags])
    self._wait_until_ready()  # and has made its certificate, which the others read
    self._start('kube-controller-manager', [*self._controller_manager_command(), *flags])
    self._start('kube-scheduler', [*self._client_command('kube-scheduler'), *flags])

  def _wait_until_ready(self) -> None:
    # Probes are counted, not seconds: what waits for a processor, or is stopped, is not late.
    for _ in range(PROBES):
      ready = self.kubectl('get', '--raw=/readyz', '--request-timeout=5s')
      if ready.returncode == 0:
        return
      time.sleep(PAUSE_SECONDS)
    raise AssertionError(f'not ready: {ready.stderr}\n{self._log_tail("kube-apiserver")}')

  def stop(self) -> None:
    for process in self._processes.values():
      process.kill()
      process.wait()

  def _start(self, name: str, command: list[str]) -> None:
    options = {'cwd': self._folder, 'env': {'PATH': os.environ['PATH']}}  # without etcd's ETCD_*
    with self._log(name).open('wb') as log:
      self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, **options)

  def _raise_if_ended(self) -> None:
    for name, process in self._processes.items():
      code = process.poll()
      assert code is None, f'{name} has ended with {code}:\n{self._log_tail(name)}'

  def _log(self, name: str) -> pathlib.Path:
    return self._folder / f'{name}.log'

  def _log_tail(self, name: str) -> str:
    return self._log(name).read_text(errors='replace')[-LOG_TAIL:]

  def _write_files(self) -> None:
    """Writes what the server reads: its one user, and a key for the tokens of service accounts."""
    user = f'{self._token},admin,admin\n'
    (self._folder / 'tokens.csv').write_text(user)
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
      serialization.Encoding.PEM,
      serialization.PrivateFormat.TraditionalOpenSSL,
      serialization.NoEncryption(),
    )
    (self._folder / 'accounts.key').write_bytes(key)
    (self._folder / 'kubeconfig').write_text(json.dumps(self._kubeconfig()))

  def _kubeconfig(self) -> dict:
    cluster = {
      'server': f'https://127.0.0.1:{self._port}',
      'certificate-authority': f'{self._folder}/certificates/apiserver.crt',  # signs itself
    }
    return {
      'apiVersion': 'v1',
      'kind': 'Config',
      'clusters': [{'name': 'test', 'cluster': cluster}],
      'users': [{'name': 'test', 'user': {'token': self._token}}],
      'contexts': [{'name': 'test', 'context': {'cluster': 'test', 'user': 'test'}}],
      'current-context': 'test',
    }

  def _etcd_command(self) -> list[str]:
    clients = f'http://127.0.0.1:{self._etcd_port}'
    peers = f'http://127.0.0.1:{self._etcd_peer_port}'
    return [
      ETCD,
      f'--data-dir={self._folder}/etcd',
      f'--listen-client-urls={clients}',
      f'--advertise-client-urls={clients}',
      f'--listen-peer-urls={peers}',
      f'--initial-advertise-peer-urls={peers}',
      f'--initial-cluster=default={peers}',
    ]

  def _api_server_command(self) -> list[str]:
    return [
      str(SERVERS / 'kube-apiserver'),
      f'--etcd-servers=http://127.0.0.1:{self._etcd_port}',
      '--bind-address=127.0.0.1',
      '--advertise-address=127.0.0.1',
      f'--secure-port={self._port}',
      f'--cert-dir={self._folder}/certificates',
      f'--token-auth-file={self._folder}/tokens.csv',
      '--authorization-mode=AlwaysAllow',
      f'--service-account-issuer=https://127.0.0.1:{self._port}',
      f'--service-account-signing-key-file={self._folder}/accounts.key',
      f'--service-account-key-file={self._folder}/accounts.key',
      '--service-cluster-ip-range=10.96.0.0/24',
      '--endpoint-reconciler-type=none',
      '--kubelet-preferred-address-types=Hostname',  # for a kubelet that is started by hand
    ]

  def _controller_manager_command(self) -> list[str]:
    return [
      *self._client_command('kube-controller-manager'),
      f'--controllers={",".join(CONTROLLERS)}',
      f'--service-account-private-key-file={self._folder}/accounts.key',
    ]

  def _client_command(self, name: str) -> list[str]:
    return [
      str(SERVERS / name),
      f'--kubeconfig={self._folder}/kubeconfig',
      '--leader-elect=false',
      '--secure-port=0',  # nobody asks it
    ]


@contextlib.contextmanager
def running(folder: pathlib.Path, *flags: str) -> Iterator[Server]:
  """Yields a server with `flags` beside the ones it needs, and stops it."""
  server = Server(folder)
  try:
    server.start(*flags)
    yield server
  finally:
    server.stop()


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('folder', type=pathlib.Path, help='a folder to make and to keep all in')
  kept = parser.parse_args().folder.resolve()
  kept.mkdir()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.default_int_handler)
  with contextlib.suppress(KeyboardInterrupt), running(kept):
    print(f'export KUBECONFIG={kept}/kubeconfig', flush=True)
    signal.pause()
