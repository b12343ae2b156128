"""The lock files pin all that each Python needs, with the hash of a wheel that fits it on Linux."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from tests.train_kit import ROOT

pytestmark = pytest.mark.slow  # the package index is asked

SOURCES = {
  'google-apitools',
  'promise',
}  # there is no wheel of them: the locked setuptools builds one


def pins(lock: str) -> dict[tuple[str, str], set[str]]:
  """Returns the hashes of each name and version that a lock file pins."""
  found: dict[tuple[str, str], set[str]] = {}
  for name, version, hashes in re.findall(
    r'^([\w.-]+)==(\S+)((?:.*\\\n)+.*)', lock, flags=re.MULTILINE
  ):
    found.setdefault((name, version), set()).update(re.findall(r'sha256:(\w{64})', hashes))
  return found


def wanted(lock: pathlib.Path, python: str, answer: pathlib.Path) -> list[dict]:
  """Returns what uv resolves a lock file's packages to, extras too, for this Python."""
  command = [
    sys.executable, '-m', 'uv', 'pip', 'compile', str(lock), f'--output-file={answer}', '--quiet',
    '--no-config',
    '--format=pylock.toml', f'--python-version={python}', '--python-platform=x86_64-manylinux_2_28',
    '--only-binary=:all:', *(f'--no-binary={name}' for name in SOURCES),
  ]  # fmt: skip
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return tomllib.loads(answer.read_text())['packages']


def lacking(lock: pathlib.Path, python: str, scratch: pathlib.Path) -> set[str]:
  """Returns the packages whose pin, or hash of a file for this Python, a lock file lacks."""
  pinned = pins(lock.read_text())
  names = set()
  for package in wanted(lock, python, scratch / 'pylock.toml'):
    files = [package['sdist']] if package['name'] in SOURCES else package['wheels']
    hashes = {file['hashes']['sha256'] for file in files}
    if not hashes & pinned.get((package['name'], package['version']), set()):
      names.add(package['name'])
  return names


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
@pytest.mark.parametrize(
  'name', ['requirements', 'requirements-dev', 'requirements-gpu', 'requirements-sbom']
)
def test_a_lock_lacks_nothing(name, python, tmp_path):
  assert lacking(ROOT / f'{name}.lock', python, tmp_path) == set()


def test_what_a_lock_lacks_is_found(tmp_path):
  """Removes the pin of one package and replaces the hashes of another: both are found."""
  lock = (ROOT / 'requirements-sbom.lock').read_text()
  gone = re.sub(r'^sortedcontainers==(.*\\\n)+.*\n', '', lock, flags=re.MULTILINE)
  other = re.sub(
    r'^(lxml==.*\\\n)(.*\\\n)*.*\n', rf'\1  --hash=sha256:{"0" * 64}\n', gone, flags=re.MULTILINE
  )
  (tmp_path / 'some.lock').write_text(other)
  assert lacking(tmp_path / 'some.lock', '3.12', tmp_path) == {'lxml', 'sortedcontainers'}
