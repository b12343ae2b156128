"""The README's table of results: a column a kind of processor, from whatever was measured."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.train_kit import ROOT

DATES = r'20\d\d-\d\d-\d\d'


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """A folder with the README and the results of one kind, as if measured on one day."""
  shutil.copy(ROOT / 'README.md', tmp_path)
  folder = tmp_path / 'benchmarks/results/avx512-bf16'
  shutil.copytree(ROOT / 'benchmarks/results/avx512-bf16', folder)
  rewrite(folder, DATES, '2026-11-23')
  rewrite(folder, '"cpu": ".*?"', '"cpu": "A Processor"')
  return tmp_path


def rewrite(folder: pathlib.Path, pattern: str, replacement: str) -> None:
  for path in folder.iterdir():
    path.write_text(re.sub(pattern, replacement, path.read_text()))


def drawn(checkout: pathlib.Path) -> list[list[str]]:
  """Draws the table and returns its cells, a list a row, without the line below the header."""
  draw(checkout, 0)
  text = (checkout / 'README.md').read_text()
  lines = text.split('<!-- results -->\n')[1].split('<!-- end of results -->')[0].splitlines()
  rows = [line.strip('| ').split(' | ') for line in lines]
  assert rows[1] == ['---'] * len(rows[0])
  return [rows[0], *rows[2:]]


def draw(checkout: pathlib.Path, status: int) -> str:
  command = [sys.executable, ROOT / 'scripts/readme_results.py']
  result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
  assert result.returncode == status, result.stderr
  return result.stderr


def add_kind(checkout: pathlib.Path, kind: str, day: str) -> pathlib.Path:
  """Adds another kind with the same figures, measured on that day."""
  results = checkout / 'benchmarks/results'
  folder = shutil.copytree(results / 'avx512-bf16', results / kind)
  rewrite(folder, 'avx512-bf16', kind)
  rewrite(folder, DATES, day)
  return folder


def test_table_has_a_column_a_kind(checkout):
  (header, *one), before = drawn(checkout), (checkout / 'README.md').read_text()
  assert header == ['what', 'AVX512-BF16, A Processor, 2 cores, 2026-11-23', 'command']
  add_kind(checkout, 'avx2', '2026-11-25')
  (header, *two), after = drawn(checkout), (checkout / 'README.md').read_text()
  assert header[1:3] == [
    'AVX2, A Processor, 2 cores, 2026-11-25',
    'AVX512-BF16, A Processor, 2 cores, 2026-11-23',
  ]
  assert [[row[0], row[2], row[3]] for row in two] == one
  assert [row[1] for row in two] == [row[2] for row in two]
  assert after.split('<!-- end of results -->')[1] == before.split('<!-- end of results -->')[1]


def test_table_of_what_is_there(checkout):
  """A figure that is missing is a dash; one that is older than its column has its date."""
  folder = add_kind(checkout, 'avx2', '2026-11-25')
  (folder / 'best.json').unlink()
  seeds = (folder / 'seeds.json').read_text()
  (folder / 'seeds.json').write_text(seeds.replace('2026-11-25', '2026-11-24'))
  header, *rows = drawn(checkout)
  assert header[1] == 'AVX2, A Processor, 2 cores, 2026-11-24, 2026-11-25'
  by_name = {row[0].split(',')[0]: row for row in rows}
  assert by_name['The `best` network'][1] == '-'
  assert by_name['The same'][1] == f'{by_name["The same"][2]} (2026-11-24)'
  assert not [row for row in rows if row[0] != by_name['The same'][0] and '2026' in row[1]]


def test_table_refuses_figures_of_another_kind(checkout):
  folder = add_kind(checkout, 'avx2', '2026-11-25')
  shutil.copy(checkout / 'benchmarks/results/avx512-bf16/train.json', folder)
  assert 'avx2/train.json: is of kind avx512-bf16; move it to' in draw(checkout, 1)


def test_readme_has_the_table_of_its_results(checkout):
  """Nobody edits the table by hand."""
  shutil.rmtree(checkout / 'benchmarks/results')
  shutil.copytree(ROOT / 'benchmarks/results', checkout / 'benchmarks/results')
  drawn(checkout)
  assert (checkout / 'README.md').read_text() == (ROOT / 'README.md').read_text()
