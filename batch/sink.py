"""The output directory: whose it is, what of a run is left to do, and what a chunk writes there.

A chunk is complete when it is in the log of `chunk_log`, and ends in one of the `parts`.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from absl import app

from batch import chunk, chunk_log, file_list, parts, stats, summary
from images import model_card
from storage import files

SETTINGS, SUMMARY, REPORT, SUCCESS = 'settings.json', 'summary.json', 'report.html', '_SUCCESS'
LAYOUT = 7  # of chunks/ and of shards; raised if a run that was begun before could not be continued


class Left(NamedTuple):
  """What is left of a run.

  Attributes:
    shards: the numbers of shards that are not scored to their end.
    scored: number of images that are scored already; None if all are, and parts are made of them.
  """

  shards: list[int]
  scored: int | None


def claim(
  output: str, facts: dict[str, Any], overwrite: bool, resume: bool
) -> Sequence[files.File]:
  """Claims the directory for a run by recording the run's identity in settings.json.

  Returns:
    What is there of the run. This is the only listing that a resumed run makes before it scores.

  Raises:
    app.UsageError: it contains the results of another run.
    OSError: it cannot be written.
  """
  remedy = (
    'pass another --output, --overwrite to remove them, or --resume to continue a run with the '
    'same settings'
  )
  there = files.list_files(output)
  if there and overwrite:
    _clear(output)
    there = files.list_files(output)
    remedy = (
      'pass another --output: --overwrite removes only what a run of this scorer wrote, and this '
      'is something else'
    )
  found = _top_level(output, there)
  if found and not (resume and SETTINGS in found):
    raise app.UsageError(f'--output={output}: already contains {", ".join(found[:3])}; {remedy}')
  settings = {**facts, 'layout': LAYOUT}
  if not found:
    files.write(files.join(output, SETTINGS), summary.to_json(settings))
  _check_same_run(output, settings, remedy)
  return there


def _clear(output: str) -> None:
  """Removes all results, the marks of completion first and settings.json last."""
  files.remove(files.join(output, name) for name in (SUCCESS, SUMMARY, REPORT))
  parts.clear(output)
  files.remove_folder(files.join(output, chunk_log.FOLDER))
  files.remove(files.join(output, name) for name in (file_list.NAME, SETTINGS))


def _top_level(output: str, found: Sequence[files.File]) -> list[str]:
  """Returns the names in the directory, without empty folders."""
  prefix = files.join(output, '')
  return sorted({file.uri.removeprefix(prefix).split('/')[0] for file in found})


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


def left_of(num_shards: int, output: str, output_format: str, found: Sequence[files.File]) -> Left:
  """Returns what is left to do; nothing once parts are decided.

  Parts without a decision, which an interrupted --overwrite may leave, are removed.

  Args:
    num_shards: how many there are.
    output: the directory.
    output_format: that of the predictions.
    found: what `claim` returned.

  Raises:
    app.UsageError: all are scored, and results were removed since.
  """
  if any(file.uri == files.join(output, parts.PLAN) for file in found):
    parts.check(output, found, output_format)
    return Left([], None)
  if {*_top_level(output, found)} & {parts.COUNTS, parts.PREDICTIONS, parts.REJECTS}:
    parts.clear(output)
  complete = chunk_log.parse(found)
  return Left(
    [number for number in range(num_shards) if not chunk_log.is_complete(complete.get(number, []))],
    sum(entry.scored for entries in complete.values() for entry in entries),
  )


def write(scored: chunk.Scored, output: str, card: model_card.ModelCard, top_k: int) -> stats.Stats:
  """Writes a chunk, and returns what was counted in it."""
  lines = [
    json.dumps({'id': r.id, 'stage': r.stage, 'reason': r.reason}, ensure_ascii=False) + '\n'
    for r in scored.chunk.rejects
  ]
  counts = stats.chunk_stats(scored)
  content = chunk_log.Content(
    prediction_table(scored, card, top_k), ''.join(lines).encode(), counts
  )
  chunk_log.write(output, scored.chunk.place, content)
  return counts


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
