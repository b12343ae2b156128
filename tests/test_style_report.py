"""scripts/style_report.py on small packages with one fault each, and on the product itself."""

import pathlib
import subprocess
import sys

import pytest

from tests.train_kit import ROOT

GOOD = '''"""A module."""


def double(value: int) -> int:
  """Returns twice the value."""
  return 2 * value


def halve(value: int) -> int:
  """Returns half the value."""
  return value // 2


def quadruple(value: int) -> int:
  """Returns four times the value."""
  return double(double(value))
'''
FAULTS = {
  'docstrings that open with a verb: 75 %': ('Returns half the value', 'Its half'),
  'public functions with one: 75 %': ('  """Returns half the value."""\n', ''),
  'import cycles: 1': (
    '  return 2 * value',
    '  from trainer import other\n  return other.two * value',
  ),
  'functions over 40 lines: 1': ('  return 2 * value', '  value += 1\n' * 40 + '  return value'),
  'files over 250 lines: 1': ('"""A module."""\n', '"""A module."""\n' + '\n' * 250),
  'lambdas per 1,000 lines:': ('  return value // 2', '  return (lambda: value // 2)()'),
}


def report(checkout: pathlib.Path, *flags: str) -> subprocess.CompletedProcess[str]:
  """Runs the script in a checkout."""
  command = [sys.executable, ROOT / 'scripts/style_report.py', *flags]
  return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """Returns a checkout without faults, in which trainer.other imports trainer.good."""
  (tmp_path / 'trainer').mkdir()
  (tmp_path / 'trainer/good.py').write_text(GOOD)
  other = 'from trainer.good import double\n\ntwo = 2\n\n\ndef one() -> int:\n  """Returns 1."""\n'
  (tmp_path / 'trainer/other.py').write_text(f'{other}  return double(1) // two\n')
  return tmp_path


def test_good_code_passes(checkout):
  result = report(checkout, '--check')
  assert (result.returncode, result.stderr) == (0, '')
  assert 'docstrings that open with a verb: 100 % (at least 97)' in result.stdout
  assert 'import cycles: 0' in result.stdout


@pytest.mark.parametrize('line', FAULTS)
def test_a_fault_fails_the_check_and_is_listed(line, checkout):
  before, after = FAULTS[line]
  assert before in GOOD
  (checkout / 'trainer/good.py').write_text(GOOD.replace(before, after))
  result = report(checkout, '--check')
  assert result.returncode == 1
  assert f'\n{line}' in f'\n{result.stdout}'
  assert 'trainer' in result.stdout.split(line)[1].splitlines()[1]
  assert report(checkout).returncode == 0
