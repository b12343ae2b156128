"""What a figure was measured on: processor, instructions, GPUs, versions, date and commit.

  python -m benchmarks.machine           prints it as one JSON line
  python -m benchmarks.machine --kind    prints only the kind, the name of a folder of results

The kind is what determines TensorFlow's speed on a CPU: amx, avx512-bf16, avx512, avx2, otherwise
the architecture's name. The kind of a machine with GPUs ends in -gpu, so that its figures are never
mixed with a CPU's.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata

from benchmarks import arguments

PACKAGES = (
  'tensorflow',
  'keras',
  'tensorflow-datasets',
  'apache-beam',
  'numpy',
  'opencv-python-headless',
  'pyarrow',
)
CPUINFO = pathlib.Path('/proc/cpuinfo')


def facts() -> dict:
  """Returns what a program prints with its figures, ready for JSON."""
  text = CPUINFO.read_text() if CPUINFO.exists() else ''
  instructions = instruction_sets(text)
  gpus = gpu_names()
  return {
    'kind': kind(instructions, gpus),
    'cpu': _field(text, 'model name') or platform.machine(),
    'cores': len(os.sched_getaffinity(0)),
    **instructions,
    'gpus': gpus,
    'python': platform.python_version(),
    'versions': {name: metadata.version(name) for name in PACKAGES},
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'git_commit': _git_commit(),
  }


def instruction_sets(cpuinfo: str) -> dict[str, bool]:
  """Returns which relevant instruction sets the text of /proc/cpuinfo lists."""
  flags = set(_field(cpuinfo, 'flags').split())
  return {
    'avx2': 'avx2' in flags,
    'avx512': 'avx512f' in flags,
    'avx512_bf16': 'avx512_bf16' in flags,
    'amx': 'amx_bf16' in flags,
  }


def kind(instructions: dict[str, bool], gpus: list[str]) -> str:
  """Returns the name of the machine's kind, by the best instructions that it has."""
  best = platform.machine().lower()
  for name in ('avx2', 'avx512', 'avx512_bf16', 'amx'):
    if instructions[name]:
      best = name.replace('_', '-')
  return f'{best}-gpu' if gpus else best


def gpu_names() -> list[str]:
  """Returns the NVIDIA GPUs that programs started here may use, without asking TensorFlow."""
  hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')
  if hidden or not shutil.which('nvidia-smi'):
    return []
  query = ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']
  result = subprocess.run(query, capture_output=True, text=True, check=False)
  return result.stdout.splitlines() if result.returncode == 0 else []


def _field(cpuinfo: str, name: str) -> str:
  """Returns the first processor's value of a line in /proc/cpuinfo, or an empty string."""
  found = re.search(rf'^{name}\s*:\s*(.*)$', cpuinfo, re.MULTILINE)
  return found[1].strip() if found else ''


def _git_commit() -> str | None:
  """Returns the commit of this code, with -dirty appended if a Python file differs from it."""
  try:
    commit = _git('rev-parse', 'HEAD').stdout.strip()
    changed = _git('diff', '--name-only', 'HEAD', '--', ':/*.py').stdout
  except (OSError, subprocess.CalledProcessError):
    return os.environ.get('LOOKBOOK_COMMIT')
  return f'{commit}-dirty' if changed else commit


def _git(*arguments: str) -> subprocess.CompletedProcess:
  here = pathlib.Path(__file__).parent
  return subprocess.run(['git', *arguments], cwd=here, capture_output=True, text=True, check=True)


def main(argv: list[str] | None = None) -> None:
  """Prints the facts, or only the kind."""
  parser = arguments.Parser(__doc__)
  parser.add_argument('--kind', action='store_true', help='print only the kind')
  only_kind = parser.parse_args(argv).kind
  found = facts()
  print(found['kind'] if only_kind else json.dumps(found))


if __name__ == '__main__':
  main(sys.argv[1:])
