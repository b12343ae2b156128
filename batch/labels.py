"""The labels that images come with, as indices into the model's labels."""

import collections
import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app

from batch import chunk
from storage import files

Label = int | float | str | bytes | None

WHOLE_NUMBER = re.compile(r'([+-]?[0-9]{1,18})(\.0*)?')
SEPARATORS = re.compile(r'[\s_/.-]+')
HEADER_NAMES = {
  'value',
  'from',
  'id',
  'index',
  'key',
  'label',
  'name',
  'to',
  'class',
  'model_label',
}
MAX_FOREIGN = 20  # kinds of foreign label in the summary
MAX_FOREIGN_CHARACTERS = 100  # of each


class LabelIndex:
  """Finds labels, given as names or as integers, among the model's."""

  def __init__(
    self, labels: Sequence[str], label_map: Mapping[str, int] | None = None, offset: int = 0
  ):
    """Prepares the search.

    Args:
      labels: the model's.
      label_map: what `read_map` returns. Labels that it lacks are foreign.
      offset: the integer that stands for the model's first label. Unless it is 0, an integer is
        never the name of a label.
    """
    self._num_classes, self._map, self._offset = len(labels), label_map, offset
    self._exact = {name: index for index, name in enumerate(labels)}
    spellings = collections.Counter(map(_fold, labels))
    self._folded = {
      _fold(name): index for index, name in enumerate(labels) if spellings[_fold(name)] == 1
    }

  def to_indices(self, values: Sequence[Label] | None, count: int) -> np.ndarray:
    """Returns int32 (count,), with NO_LABEL and UNKNOWN_LABEL for those that are not the model's.

    Args:
      values: `count` labels; None if no image came with one.
      count: number of images.
    """
    if values is None:
      return np.full(count, chunk.NO_LABEL, np.int32)
    try:
      indices = {value: self.find(value) for value in set(values)}
    except TypeError:  # a list or a dict among them
      return self.to_indices([to_text(value) for value in values], count)
    return np.array([indices[value] for value in values], np.int32).reshape(count)

  def find(self, value: Label) -> int:
    """Returns the index of one label, NO_LABEL or UNKNOWN_LABEL."""
    written, text = _written(value), to_text(value)
    if not text:
      return chunk.NO_LABEL
    if self._map is not None:
      return self._map.get(text, chunk.NO_LABEL if text == '-1' else chunk.UNKNOWN_LABEL)
    number = int(text) if WHOLE_NUMBER.fullmatch(text) else None
    for name in (written, text):
      if name in self._exact and not (self._offset and number is not None):
        return self._exact[name]
    if number is None:
      return self._folded.get(_fold(text), chunk.UNKNOWN_LABEL)
    if 0 <= number - self._offset < self._num_classes:
      return number - self._offset
    return chunk.NO_LABEL if number == chunk.NO_LABEL else chunk.UNKNOWN_LABEL


def to_text(value: Any) -> str:
  """Returns a label as text: '7' for 7, 7.0, '7.0' and b'7'; '' for None and NaN."""
  text = _written(value)
  whole = WHOLE_NUMBER.fullmatch(text)
  return str(int(whole[1])) if whole else text


def _written(value: Any) -> str:
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ''
  if isinstance(value, bool | np.bool_):
    return str(int(value))
  text = value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)
  return text.strip()


def _fold(name: str) -> str:
  """Returns what different spellings of a name have in common."""
  return SEPARATORS.sub('', name.casefold())


def count_foreign(values: Sequence[Label] | None, indices: np.ndarray) -> dict[str, int]:
  """Returns how often each label that is not the model's occurs, the MAX_FOREIGN most frequent."""
  if values is None:
    return {}
  foreign = np.flatnonzero(indices == chunk.UNKNOWN_LABEL).tolist()
  texts = [to_text(values[row])[:MAX_FOREIGN_CHARACTERS] for row in foreign]
  # Those of text files and folders may have bytes that are not UTF-8, which JSON cannot.
  return most_frequent(
    collections.Counter(text.encode('utf-8', 'replace').decode() for text in texts)
  )


def most_frequent(counts: Mapping[str, int], limit: int = MAX_FOREIGN) -> dict[str, int]:
  """Returns the largest counts, largest first, ties by key."""
  by_count = sorted((-count, key) for key, count in counts.items())
  return {key: -negative for negative, key in by_count[:limit]}


def read_map(uri: str, labels: Sequence[str]) -> dict[str, int]:
  """Returns the model's index of each value in a --label_map, NO_LABEL for a value without one.

  The file is a JSON object of values and the model's labels, a JSON list of the labels for 0, 1 and
  so on, or CSV lines VALUE,LABEL. A label is a name or an index.

  Raises:
    app.UsageError: it is neither, or names labels that the model does not have.
  """
  with files.as_usage_error(f'--label_map={uri}'):
    content = files.read(uri)
  try:
    text = content.decode('utf-8-sig')
    pairs = _json_pairs(text) if text.lstrip()[:1] in ('{', '[') else _csv_pairs(text)
  except (ValueError, csv.Error) as error:
    raise app.UsageError(
      f'--label_map={uri}: {error}; pass a JSON object or CSV lines of a value and the '
      "model's label"
    ) from error
  return _to_map(pairs, LabelIndex(labels), labels, uri)


def _json_pairs(text: str) -> list[tuple[Any, Any]]:
  found = json.loads(text, object_pairs_hook=tuple)
  pairs = list(enumerate(found)) if isinstance(found, list) else list(found)
  if any(isinstance(target, tuple | list | float | bool) for _, target in pairs):
    raise ValueError('its labels are not all names or indices')
  return pairs


def _csv_pairs(text: str) -> list[tuple[str, str]]:
  first_line = text.lstrip().partition('\n')[0]
  delimiter = max(',;\t', key=first_line.count)
  rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
  if rows and {cell.strip().lower() for cell in rows[0]} <= HEADER_NAMES:
    del rows[0]
  wrong = next((row for row in rows if len(row) != 2), None)
  if wrong:
    raise ValueError(f'its line {delimiter.join(wrong)!r} is not a value and a label')
  return [(value, label) for value, label in rows]


def _to_map(
  pairs: Iterable[tuple[Any, Any]], index: LabelIndex, labels: Sequence[str], uri: str
) -> dict[str, int]:
  found: dict[str, int] = {}
  for value, label in pairs:
    key, target = to_text(value), index.find(label)
    if target == chunk.UNKNOWN_LABEL:
      raise app.UsageError(
        f'--label_map={uri}: {label!r} is not a label of the model; it has {", ".join(labels)}'
      )
    if found.setdefault(key, target) != target:
      raise app.UsageError(f'--label_map={uri}: gives {key!r} two labels; remove one')
    if to_text(label).isdecimal() and key in labels and labels.index(key) != target:
      raise app.UsageError(
        f'--label_map={uri}: {key!r} is a label of the model, but not its number {label}; write '
        'the value first, then the label'
      )
  if not found:
    raise app.UsageError(f'--label_map={uri}: is empty; give each value one of {", ".join(labels)}')
  return found
