"""Small packages made on the spot, and an index on this machine that pip installs them from."""

import contextlib
import functools
import hashlib
import http.server
import importlib.metadata
import io
import os
import pathlib
import tarfile
import threading
import zipfile
from collections.abc import Iterator


class Index:
  """A folder served as an index. `asked` lists the requests: the page of NAME, or a file."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.asked: set[str] = set()

  def add(self, file: str) -> pathlib.Path:
    """Returns where a package's file goes; the server lists what is there."""
    page = self.folder / file.split('-')[0]
    page.mkdir(parents=True, exist_ok=True)
    return page / file

  def wheel(self, name: str, version: str, *metadata: str, source: str = '') -> pathlib.Path:
    """Writes a wheel with one module. `metadata` are more lines for its METADATA."""
    info = f'{name}-{version}.dist-info'
    described = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}', *metadata, '']
    files = {
      f'{name}/__init__.py': source,
      f'{info}/METADATA': '\n'.join(described),
      f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    files[f'{info}/RECORD'] = ''.join(f'{member},,\n' for member in [*files, f'{info}/RECORD'])
    path = self.add(f'{name}-{version}-py3-none-any.whl')
    with zipfile.ZipFile(path, 'w') as archive:
      for member, text in files.items():
        archive.writestr(member, text)
    return path

  def source(self, name: str, version: str) -> pathlib.Path:
    """Writes a package with only a setup.py, as old ones have, which has to be built first."""
    files = {
      'PKG-INFO': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
      'setup.py': 'from setuptools import setup\n'
      f'setup(name="{name}", version="{version}", py_modules=["{name}"])\n',
      f'{name}.py': '',
    }
    path = self.add(f'{name}-{version}.tar.gz')
    with tarfile.open(path, 'w:gz') as archive:
      for member, text in files.items():
        entry = tarfile.TarInfo(f'{name}-{version}/{member}')
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return path

  def installed(self, name: str) -> pathlib.Path:
    """Writes the wheel that a pure package of this environment came from."""
    package = importlib.metadata.distribution(name)
    path = self.add(f'{name}-{package.version}-py3-none-any.whl')
    with zipfile.ZipFile(path, 'w') as archive:
      for file in package.files or []:
        if (
          file.parts[0] != '..'
          and file.suffix != '.pyc'
          and file.name not in ('INSTALLER', 'REQUESTED')
        ):
          archive.write(str(file.locate()), str(file))
    return path


def lock(*packages: pathlib.Path) -> str:
  """Returns a lock file that pins these packages, laid out as uv writes it."""
  lines = []
  for path in sorted(packages):
    name, version = path.name.removesuffix('.tar.gz').split('-')[:2]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines.append(f'{name}=={version} \\\n    --hash=sha256:{digest}\n    # via the test\n')
  return ''.join(lines)


@contextlib.contextmanager
def serving(index: Index) -> Iterator[dict[str, str]]:
  """Yields the environment variables that make pip ask this index and no other."""

  class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
      index.asked.add(self.path.strip('/').split('/')[-1])
      super().do_GET()

    def log_message(self, *args: object) -> None:
      pass  # it would write to the tests' output

  handler = functools.partial(Handler, directory=str(index.folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
      **{name: value for name, value in os.environ.items() if not name.startswith('PIP_')},
      'PIP_CONFIG_FILE': os.devnull,
      'PIP_DISABLE_PIP_VERSION_CHECK': '1',
      'PIP_INDEX_URL': f'http://127.0.0.1:{server.server_port}',
      'PIP_NO_CACHE_DIR': '1',
      'PIP_NO_COMPILE': '1',
      'NO_PROXY': '127.0.0.1',
      'no_proxy': '127.0.0.1',
    }
    server.shutdown()
