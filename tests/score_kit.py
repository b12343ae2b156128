"""What the scorer's tests share: running it, and reading its output."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch import main

ROOT = pathlib.Path(__file__).resolve().parent.parent
IN_PROCESS = ('--direct_running_mode=in_memory', '--direct_num_workers=1')
# Keys of summary.json that tell about one run of the command.
TIMINGS = {'wall_seconds', 'images_per_second', 'stage_seconds', 'images_scored_by_this_run'}


def flags_for(model, source, output, *flags: str) -> list[str]:
  """Returns the flags that score one or several sources."""
  sources = [source] if isinstance(source, str | pathlib.Path) else source
  return [
    f'--model={model}',
    *[f'--input={pattern}' for pattern in sources],
    f'--output={output}',
    *flags,
  ]


def score(model, source, output, *flags: str) -> dict:
  """Scores in this process, checks that every image is accounted for, and returns the summary."""
  summary = main.run(*main.parse(flags_for(model, source, output, *flags, *IN_PROCESS)))
  if '--output_format=jsonl' not in flags:
    check_books(output)
  return summary


def command(model, source, output, *flags: str) -> list[str]:
  """Returns the command that a user types."""
  return [sys.executable, '-m', 'batch.main', *flags_for(model, source, output, *flags)]


def score_outside(*args) -> subprocess.CompletedProcess:
  """Scores as a user does."""
  return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, check=False)


def check_books(output) -> None:
  """Asserts that every image seen is scored or rejected, and that no id occurs twice."""
  summary = json.loads((pathlib.Path(output) / 'summary.json').read_text())
  table, rejected = predictions(output), rejects(output)
  assert summary['images_seen'] == summary['images_scored'] + summary['images_rejected']
  assert (summary['images_scored'], summary['images_rejected']) == (table.num_rows, len(rejected))
  assert sum(summary['by_label'].values()) == table.num_rows
  assert sum(summary['confidence_histogram']['counts']) == table.num_rows
  ids = table['id'].to_pylist() + [reject['id'] for reject in rejected]
  assert len(set(ids)) == len(ids)


def predictions(output) -> pa.Table:
  """Returns all predictions, from Parquet."""
  return pq.read_table(pathlib.Path(output) / 'predictions')


def json_lines(output, folder: str) -> list[dict]:
  """Returns the rows of a folder of JSON lines."""
  paths = sorted((pathlib.Path(output) / folder).glob('*.jsonl'))
  return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def rejects(output) -> list[dict]:
  """Returns all rejects."""
  return json_lines(output, 'rejects')


def by_number(output) -> tuple[np.ndarray, np.ndarray]:
  """Returns predictions in the order of the number that each id ends in.

  Returns:
    label_index (N,) and probabilities (N, classes).
  """
  table = predictions(output)
  numbers = [int(re.findall(r'\d+', name)[-1]) for name in table['id'].to_pylist()]
  order = np.argsort(numbers)
  assert np.array_equal(np.sort(numbers), np.arange(len(numbers)))
  column = table['probabilities'].combine_chunks()
  probabilities = column.flatten().to_numpy().reshape(-1, column.type.list_size)
  return table['label_index'].to_numpy()[order], probabilities[order]


def chunks(output) -> list[pathlib.Path]:
  """Returns the chunks in the log of an unfinished run."""
  return sorted(pathlib.Path(output).glob('chunks/*/[0-9]*.arrow'))


def file_bytes(output, folder: str) -> dict[str, bytes]:
  """Returns files by name, except hidden ones, which a killed worker may leave."""
  paths = (pathlib.Path(output) / folder).iterdir()
  return {path.name: path.read_bytes() for path in paths if not path.name.startswith('.')}


def without_timings(summary: dict) -> dict:
  """Returns the summary without what differs between runs."""
  return {key: value for key, value in summary.items() if key not in TIMINGS}
