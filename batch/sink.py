"""The output directory: its ownership, and the files of each chunk.

A chunk writes, under its own name and in this order: its rejects, if it has any; its predictions,
by one of the `writers`; and counts/NAME.json, which marks the chunk as complete. A runner may
repeat a chunk at any time: the same files are written again, identical except for the timings among
the counts.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from absl import app

from batch import chunk, file_list, stats, summary, writers
from images import model_card
from storage import files

SETTINGS, SUMMARY, REPORT, SUCCESS = 'settings.json', 'summary.json', 'report.html', '_SUCCESS'
COUNTS, REJECTS = 'counts', 'rejects'
LAYOUT = 5  # of counts/ and of shards; raised if a run that was begun before could not be continued


def claim(output: str, facts: dict[str, Any], overwrite: bool, resume: bool) -> None:
  """Claims the directory for a run by recording the run's identity in settings.json.

  Raises:
    app.UsageError: it contains the results of another run.
    OSError: it cannot be written.
  """
  remedy = (
    'pass another --output, --overwrite to remove them, or --resume to continue a run with the '
    'same settings'
  )
  found = _top_level(output)
  if found and overwrite:
    _clear(output)
    found = _top_level(output)
    remedy = (
      'pass another --output: --overwrite removes only what a run of this scorer wrote, and this '
      'is something else'
    )
  if found and not (resume and SETTINGS in found):
    raise app.UsageError(f'--output={output}: already contains {", ".join(found[:3])}; {remedy}')
  settings = {**facts, 'layout': LAYOUT}
  if not found:
    files.write(files.join(output, SETTINGS), summary.to_json(settings))
  _check_same_run(output, settings, remedy)


def _clear(output: str) -> None:
  """Removes all results, the marks of completion first and settings.json last."""
  files.remove(files.join(output, name) for name in (SUCCESS, SUMMARY, REPORT))
  files.remove_folder(files.join(output, COUNTS))
  for writer in writers.WRITERS.values():
    writer(output).clear()
  files.remove_folder(files.join(output, REJECTS))
  files.remove(files.join(output, name) for name in (file_list.NAME, SETTINGS))


def _top_level(output: str) -> list[str]:
  """Returns the names in the directory, without empty folders."""
  prefix = files.join(output, '')
  return sorted({file.uri.removeprefix(prefix).split('/')[0] for file in files.list_files(output)})


def _check_same_run(output: str, settings: dict[str, Any], remedy: str) -> None:
  recorded = json.loads(files.read(files.join(output, SETTINGS)))
  if recorded.get('layout') != LAYOUT:
    raise app.UsageError(
      f'--output={output}: contains results of another version of the scorer; finish the run with '
      'that version, or pass another --output or --overwrite to remove them'
    )
  changed = [
    f'{key}={recorded.get(key)} (now {value})'
    for key, value in settings.items()
    if recorded.get(key) != value
  ]
  if changed:
    raise app.UsageError(f'--output={output}: contains a run with {", ".join(changed)}; {remedy}')


def committed(output: str, shard: chunk.Shard, writer: writers.Writer) -> Iterator[stats.Stats]:
  """Yields the stats of a shard's complete chunks, from its first to the one before a gap.

  A chunk whose predictions were removed later is not complete: it is scored again.
  """
  sequence = 0
  while True:
    name = shard.chunk_name(sequence)
    try:
      text = files.read(_counts_uri(output, name))
    except FileNotFoundError:
      return
    if not writer.has(name):
      return
    yield stats.Stats.from_json(json.loads(text))
    sequence += 1


def _counts_uri(output: str, name: str) -> str:
  return files.join(output, COUNTS, f'{name}.json')


def write(
  scored: chunk.Scored,
  counts: stats.Stats,
  output: str,
  writer: writers.Writer,
  card: model_card.ModelCard,
  top_k: int,
) -> None:
  """Writes a chunk's rejects, predictions and, last, its counts."""
  name = scored.chunk.name
  if scored.chunk.rejects:
    lines = [
      json.dumps({'id': r.id, 'stage': r.stage, 'reason': r.reason}, ensure_ascii=False)
      for r in scored.chunk.rejects
    ]
    files.write(files.join(output, REJECTS, f'{name}.jsonl'), '\n'.join(lines) + '\n')
  writer.write(name, prediction_table(scored, card, top_k))
  text = json.dumps(counts.to_json(), ensure_ascii=False)
  files.write(_counts_uri(output, name), text + '\n')


def prediction_table(scored: chunk.Scored, card: model_card.ModelCard, top_k: int) -> pa.Table:
  """Returns one row per image.

  The columns are id, label, label_index (int8, or wider if the model has more than 127 labels),
  confidence float32, probabilities float32[classes], model_version; top_labels and
  top_probabilities if `top_k`; then the carried columns.
  """
  probabilities, ids = scored.probabilities, scored.chunk.ids
  num_classes = len(card.labels)
  index = probabilities.argmax(axis=1).astype(np.min_scalar_type(-num_classes - 1))
  names = pa.array(card.labels)
  columns: dict[str, pa.Array] = {
    'id': pa.array(ids, pa.string()),
    'label': names.take(pa.array(index)),
    'label_index': pa.array(index),
    'confidence': pa.array(probabilities.max(axis=1, initial=0)),
    'probabilities': _fixed_size_list(pa.array(probabilities.ravel()), num_classes),
    'model_version': pa.array([card.version] * len(ids), pa.string()),
  }
  if top_k:
    top = np.argsort(-probabilities, axis=1, kind='stable')[:, :top_k]
    top_probabilities = np.take_along_axis(probabilities, top, axis=1)
    columns['top_labels'] = _fixed_size_list(names.take(pa.array(top.ravel())), top_k)
    columns['top_probabilities'] = _fixed_size_list(pa.array(top_probabilities.ravel()), top_k)
  table = pa.table(columns)
  if scored.chunk.carried is not None:
    for name in scored.chunk.carried.column_names:
      table = table.append_column(name, scored.chunk.carried[name])
  return table


def _fixed_size_list(values: pa.Array, size: int) -> pa.FixedSizeListArray:
  return pa.FixedSizeListArray.from_arrays(values, size)
