"""How scripts/venv.sh installs a lock file, from an index that has newer releases than the lock."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import package_index
from tests.train_kit import ROOT

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "project"
version = "1.0"
dependencies = ["frame"]
[tool.setuptools]
packages = []
"""
TOO_NEW = 'raise ImportError("this release does not do what the locked one does")'


class Project:
  """Returns a project that needs `frame`, which needs `lens[zoom]` and, as source only, `mount`."""

  def __init__(self, folder: pathlib.Path, index: package_index.Index):
    (folder / 'scripts').symlink_to(ROOT / 'scripts')
    (folder / 'pyproject.toml').write_text(PYPROJECT)
    self.folder, self.index = folder, index
    self.packages = {
      'frame': index.wheel('frame', '1.0', 'Requires-Dist: lens[zoom]', 'Requires-Dist: mount'),
      'glass': index.wheel('glass', '1.0'),
      'lens': index.wheel(
        'lens', '1.0', 'Provides-Extra: zoom', 'Requires-Dist: glass; extra == "zoom"'
      ),
      'mount': index.source('mount', '1.0'),
      **{name: index.installed(name) for name in ('packaging', 'setuptools', 'wheel')},
    }

  def publish(self) -> None:
    """Writes a newer release of everything to the index."""
    for name in self.packages:
      self.index.wheel(name, '999', 'Provides-Extra: zoom', source=TOO_NEW)

  def lock(self) -> None:
    (self.folder / 'some.lock').write_text(package_index.lock(*self.packages.values()))

  def install(
    self, environment: dict[str, str], python: str = sys.executable
  ) -> subprocess.CompletedProcess:
    command = ['scripts/venv.sh', python, 'some.lock']
    return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

  def versions(self) -> dict[str, str]:
    """What is in .venv, and of which version; pip itself left out."""
    command = [
      '.venv/bin/python',
      '-m',
      'pip',
      'list',
      '--format=json',
      '--disable-pip-version-check',
    ]
    result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
    return {
      one['name']: one['version'] for one in json.loads(result.stdout) if one['name'] != 'pip'
    }

  def locked(self) -> dict[str, str]:
    """What should be there."""
    files = {name: path.name.removesuffix('.tar.gz') for name, path in self.packages.items()}
    return {'project': '1.0', **{name: file.split('-')[1] for name, file in files.items()}}


@pytest.fixture
def project(tmp_path) -> Project:
  (tmp_path / 'project').mkdir()
  return Project(tmp_path / 'project', package_index.Index(tmp_path / 'index'))


@pytest.fixture
def environment(project) -> Iterator[dict[str, str]]:
  with package_index.serving(project.index) as environment:
    yield environment


def test_newer_releases_change_nothing(project, environment):
  project.publish()
  project.lock()
  result = project.install(environment)
  assert result.returncode == 0, result.stderr
  assert project.versions() == project.locked()
  assert project.index.asked == {
    *project.packages,
    *(path.name for path in project.packages.values()),
  }

  project.index.asked.clear()
  assert project.install(environment).returncode == 0
  assert project.index.asked == set()  # the same again can be done without a network


def test_an_incomplete_lock_is_said_in_a_line(project, environment):
  del project.packages['lens']
  project.lock()
  result = project.install(environment)
  assert result.returncode != 0
  assert result.stderr.splitlines()[-1] == (
    'install.sh: some.lock is not complete: frame 1.0 requires lens, which is not installed: '
    'make lock writes it again'
  )


def test_a_package_with_another_hash_is_refused(project, environment):
  project.lock()
  project.index.wheel('lens', '1.0', source='print("not what was locked")')
  result = project.install(environment)
  assert result.returncode != 0
  assert 'DO NOT MATCH THE HASHES' in result.stderr
  assert 'lens' not in project.versions()


def test_what_has_left_the_lock_leaves_the_environment(project, environment):
  """`rim` does, which wants the `glass` of old."""
  project.packages['rim'] = project.index.wheel('rim', '1.0', 'Requires-Dist: glass<1.1')
  project.lock()
  assert project.install(environment).returncode == 0
  assert project.versions() == project.locked()

  del project.packages['rim']
  project.packages['glass'] = project.index.wheel('glass', '1.1')
  project.lock()
  activated = str(
    project.folder / '.venv/bin/python'
  )  # what python3 is there while .venv is activated
  result = project.install(environment, python=activated)
  assert result.returncode == 0, result.stderr
  assert project.versions() == project.locked()
