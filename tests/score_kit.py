"""What the scorer's tests share: running it, and reading what it left."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent
IN_PROCESS = ('--direct_running_mode=in_memory', '--direct_num_workers=1')


def score(model, source, output, *flags) -> dict:
  """Runs the scorer in this process, checks that its books balance, and returns the summary."""
  from batch import main

  sources = [source] if isinstance(source, str | pathlib.Path) else source
  inputs = [f'--input={pattern}' for pattern in sources]
  summary = main.run([f'--model={model}', *inputs, f'--output={output}', *flags, *IN_PROCESS])
  check_books(output)
  return summary


def command(model, source, output, *flags) -> list[str]:
  return [
    sys.executable,
    '-m',
    'batch.main',
    f'--model={model}',
    f'--input={source}',
    f'--output={output}',
    *flags,
  ]


def score_outside(*args) -> subprocess.CompletedProcess:
  """Runs the scorer as a user does."""
  return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, check=False)


def check_books(output) -> None:
  """Every image seen is scored or rejected, and no id comes twice."""
  summary = json.loads((pathlib.Path(output) / 'summary.json').read_text())
  table, refused = predictions(output), rejects(output)
  assert summary['images_seen'] == summary['images_scored'] + summary['images_rejected']
  assert (summary['images_scored'], summary['images_rejected']) == (table.num_rows, len(refused))
  assert sum(summary['by_label'].values()) == table.num_rows
  assert sum(summary['confidence_histogram']['counts']) == table.num_rows
  ids = table['id'].to_pylist() + [reject['id'] for reject in refused]
  assert len(set(ids)) == len(ids)


def predictions(output) -> pa.Table:
  return pq.read_table(pathlib.Path(output) / 'predictions')


def rejects(output) -> list[dict]:
  paths = sorted((pathlib.Path(output) / 'rejects').glob('*.jsonl'))
  return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def by_number(output) -> tuple[np.ndarray, np.ndarray]:
  """label_index (N,) and probabilities (N, 10), in the order of the number that each id ends in."""
  table = predictions(output)
  numbers = [int(re.findall(r'\d+', name)[-1]) for name in table['id'].to_pylist()]
  order = np.argsort(numbers)
  assert np.array_equal(np.sort(numbers), np.arange(len(numbers)))
  probabilities = table['probabilities'].combine_chunks().flatten().to_numpy().reshape(-1, 10)
  return table['label_index'].to_numpy()[order], probabilities[order]


def file_bytes(output, folder: str) -> dict[str, bytes]:
  """The files by name, without the hidden one that a worker killed while it wrote may leave."""
  paths = (pathlib.Path(output) / folder).iterdir()
  return {path.name: path.read_bytes() for path in paths if not path.name.startswith('.')}
