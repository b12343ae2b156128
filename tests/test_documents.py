"""What the documents tell people to type exists: modules, their flags and make's targets."""

import functools
import importlib.util
import re
import subprocess
import sys

import pytest

from tests.train_kit import ROOT

PAGES = sorted(f'docs/{path.name}' for path in ROOT.glob('docs/*.md'))
DOCUMENTS = ('README.md', 'CONTRIBUTING.md', 'Makefile', *PAGES)
OURS = ('trainer', 'batch', 'benchmarks', 'tests')
PROGRAM = re.compile(r'python3? -m ([a-z_.]+)([^`\n|;&#>]*)')
TARGET = re.compile(r'(?:^    |^# |`)make ([a-z-]+)', re.MULTILINE)
FLAG = re.compile(r'(?<!\S)--([A-Za-z_]+)')


def text_of(document: str) -> str:
  """Returns the text with continued lines joined."""
  return re.sub(r'\\\n\s*', '', (ROOT / document).read_text())


@functools.cache
def known_flags(module: str) -> frozenset[str]:
  """Returns the flags that --help lists, and for the scorer Beam's, which pass through."""
  command = [sys.executable, '-m', module, '--help']
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  listed = {'help', *re.findall(r'--(?:\[no\])?([A-Za-z_]+)', result.stdout)}
  passed_on = {'batch.main': beam_flags, 'benchmarks.seeds': trainer_flags}.get(module)
  return frozenset(listed | passed_on() if passed_on else listed)


def beam_flags() -> frozenset[str]:
  from apache_beam.options.pipeline_options import PipelineOptions

  return frozenset(PipelineOptions().get_all_options())


def trainer_flags() -> frozenset[str]:
  return known_flags('trainer.main')


def commands(document: str) -> list[tuple[str, str]]:
  """Returns (module, its arguments) of the programs that a document starts."""
  return sorted(set(PROGRAM.findall(text_of(document))))


@pytest.mark.parametrize('document', [name for name in DOCUMENTS if commands(name)])
def test_programs_and_their_flags_exist(document):
  for module, arguments in commands(document):
    assert importlib.util.find_spec(module), f'{document}: python -m {module}'
    if module.split('.')[0] in OURS:
      unknown = set(FLAG.findall(arguments)) - known_flags(module)
      assert not unknown, f'{document}: python -m {module} has no --{", --".join(unknown)}'


@pytest.mark.parametrize('document', [name for name in DOCUMENTS if TARGET.search(text_of(name))])
def test_targets_exist(document):
  targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
  assert set(TARGET.findall(text_of(document))) <= targets


def test_documents_name_programs_and_targets():
  """Looks for what they are known to name, lest the tests above look at nothing."""
  scored = ''.join(arguments for _, arguments in commands('docs/scoring.md'))
  assert '--setup_file=./setup.py' in scored
  assert '--finished=runs/seed' in dict(commands('Makefile'))['benchmarks.seeds']
  assert {'run', 'test'} <= set(TARGET.findall(text_of('README.md')))
