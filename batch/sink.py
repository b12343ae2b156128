"""The output directory: whose it is, and what a chunk leaves in it.

A chunk writes up to three files under its own name: rejects/NAME.jsonl where it has any, counts/NAME.json, and last
predictions/NAME.parquet, which says that the others are whole. Written again they are the same in the same place, but
for the seconds among the counts, so a runner may repeat a chunk as often as it likes.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import app

from batch import chunk, summary
from storage import files

SETTINGS, SUMMARY, REPORT, SUCCESS = 'settings.json', 'summary.json', 'report.html', '_SUCCESS'
FOLDERS = ('predictions', 'rejects', 'counts')


def claim(output: str, settings: dict[str, Any], overwrite: bool, resume: bool) -> None:
  """Makes the directory this run's.

  Raises:
    app.UsageError: it holds another run's results.
    OSError: it cannot be written.
  """
  remedy = 'pass another --output, --overwrite to remove them, or --resume to continue a run with the same settings'
  held = _held(output)
  if held and overwrite:
    files.remove(files.join(output, name) for name in (SUCCESS, SUMMARY, REPORT))
    for folder in FOLDERS:
      files.remove_folder(files.join(output, folder))
    files.remove([files.join(output, SETTINGS)])
    held = _held(output)
    remedy = 'pass another --output: --overwrite removes what a run of this scorer wrote, and this is something else'
  if held and not (resume and SETTINGS in held):
    raise app.UsageError(f'--output={output}: already holds {", ".join(held[:3])}; {remedy}')
  if not held:
    files.write(files.join(output, SETTINGS), summary.dumps(settings))
  before = json.loads(files.read(files.join(output, SETTINGS)))
  changed = [
    f'{key}={before.get(key)} (now {value})'
    for key, value in settings.items()
    if before.get(key) != value
  ]
  if changed:
    raise app.UsageError(f'--output={output}: holds a run with {", ".join(changed)}; {remedy}')


def _held(output: str) -> list[str]:
  """The first level of what the directory holds, of files only."""
  inside = files.join(output, '')
  return sorted({file.uri.removeprefix(inside).split('/')[0] for file in files.list_files(output)})


def predictions_uri(output: str, name: str, output_format: str) -> str:
  return files.join(output, 'predictions', f'{name}.{output_format}')


def committed(output: str, name: str, output_format: str) -> summary.Stats | None:
  """What a chunk counted, if all of it is written."""
  if not files.exists(predictions_uri(output, name, output_format)):
    return None
  return json.loads(files.read(files.join(output, 'counts', f'{name}.json')))


def write(
  scored: chunk.Scored,
  counts: summary.Stats,
  output: str,
  output_format: str,
  labels: list[str],
  version: str,
  top_k: int,
) -> None:
  """Writes a chunk's rejects, counts and predictions, in this order."""
  name = scored.chunk.name
  if scored.chunk.rejects:
    lines = [
      json.dumps({'id': r.id, 'stage': r.stage, 'reason': r.reason}, ensure_ascii=False)
      for r in scored.chunk.rejects
    ]
    files.write(files.join(output, 'rejects', f'{name}.jsonl'), '\n'.join(lines) + '\n')
  files.write(
    files.join(output, 'counts', f'{name}.json'), json.dumps(counts, ensure_ascii=False) + '\n'
  )
  table = predictions(scored, labels, version, top_k)
  content = _jsonl(table) if output_format == 'jsonl' else _parquet(table)
  files.write(predictions_uri(output, name, output_format), content)


def predictions(scored: chunk.Scored, labels: list[str], version: str, top_k: int) -> pa.Table:
  """One row an image: id, label, label_index int8, confidence float32, probabilities float32[10], model_version;
  top_labels and top_probabilities where `top_k`; then the columns carried through.
  """
  probabilities, ids = scored.probabilities, scored.chunk.ids
  classes = probabilities.shape[1]
  index = probabilities.argmax(axis=1).astype(np.int8)
  names = pa.array(labels)
  columns: dict[str, pa.Array] = {
    'id': pa.array(ids, pa.string()),
    'label': names.take(pa.array(index)),
    'label_index': pa.array(index),
    'confidence': pa.array(probabilities.max(axis=1, initial=0)),
    'probabilities': pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), classes),
    'model_version': pa.array([version] * len(ids), pa.string()),
  }
  if top_k:
    order = np.argsort(-probabilities, axis=1, kind='stable')[:, :top_k]
    likeliest = np.take_along_axis(probabilities, order, axis=1)
    columns['top_labels'] = pa.FixedSizeListArray.from_arrays(
      names.take(pa.array(order.ravel())), top_k
    )
    columns['top_probabilities'] = pa.FixedSizeListArray.from_arrays(
      pa.array(likeliest.ravel()), top_k
    )
  table = pa.table(columns)
  for name in scored.chunk.carried.column_names if scored.chunk.carried is not None else ():
    table = table.append_column(name, scored.chunk.carried[name])  # type: ignore[index]
  return table


def _parquet(table: pa.Table) -> bytes:
  buffer = pa.BufferOutputStream()
  pq.write_table(table, buffer, use_dictionary=['label', 'model_version'])
  return buffer.getvalue().to_pybytes()


def _jsonl(table: pa.Table) -> str:
  return ''.join(
    json.dumps(row, ensure_ascii=False, default=str) + '\n' for row in table.to_pylist()
  )
