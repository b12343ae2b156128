"""What .ci/run says of skipped tests, and what it ends with: over a project of two small tests."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.train_kit import ROOT

MAKEFILE = f"""
check:
	true
test:
	{sys.executable} -m pytest -q -p no:cacheprovider test_fast.py
test-slow:
	{sys.executable} -m pytest -q -p no:cacheprovider test_long.py
"""
SKIPPED = "import pytest\n@pytest.mark.skip(reason='no moon tonight')\ndef test_tide():\n  pass\n"
PASSED = 'def test_sun():\n  pass\n'
FAILED = 'def test_rain():\n  assert False\n'


@pytest.fixture
def project(tmp_path) -> pathlib.Path:
  shutil.copytree(ROOT / '.ci', tmp_path / '.ci')
  (tmp_path / '.venv/bin').mkdir(parents=True)
  (tmp_path / '.venv/bin/python').symlink_to(sys.executable)
  (tmp_path / 'Makefile').write_text(MAKEFILE)
  return tmp_path


def run(project: pathlib.Path, fast: str, long: str) -> subprocess.CompletedProcess:
  (project / 'test_fast.py').write_text(fast)
  (project / 'test_long.py').write_text(long)
  environment = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST')}
  return subprocess.run([project / '.ci/run'], env=environment, capture_output=True, text=True)


def test_skips_are_the_last_lines(project):
  result = run(project, SKIPPED + PASSED, PASSED)
  assert result.returncode == 0, result.stderr
  assert '1 passed, 1 skipped' in result.stdout
  assert result.stdout.splitlines()[-2:] == [
    'make test skipped test_fast.test_tide: no moon tonight',
    'make test-slow skipped no test',
  ]


def test_a_failure_is_the_exit_code_and_ends_the_run(project):
  result = run(project, FAILED + SKIPPED, PASSED)
  assert result.returncode != 0
  assert '1 failed, 1 skipped' in result.stdout
  assert 'passed' not in result.stdout  # the long tests were not begun
  assert result.stdout.splitlines()[-1] == 'make test skipped test_fast.test_tide: no moon tonight'
  assert run(project, PASSED, FAILED).returncode != 0
