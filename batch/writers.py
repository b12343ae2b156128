"""The writers of predictions, one per --output_format.

Another format is another entry of WRITERS; nothing else depends on which there are.
"""

import json
import math
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

# A row group is what an engine reads at once, and what is held in memory here.
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 1 << 17, 64 << 20
JSON_ROWS = 4096  # that are Python objects at a time


class Writer(Protocol):
  """Writes predictions to a file. The bytes depend on nothing but the predictions."""

  def write(self, predictions: pa.Table) -> None:
    """Appends the predictions of a chunk. All that have rows have the same columns."""

  def close(self) -> None:
    """Writes what is left."""


class Parquet:
  """Writes Parquet, with row groups of many chunks."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self._writer: pq.ParquetWriter | None = None
    self._held: list[pa.Table] = []

  def write(self, predictions: pa.Table) -> None:
    """Appends the predictions of a chunk. All that have rows have the same columns."""
    self._held.append(predictions)
    rows, size = sum(map(len, self._held)), sum(table.nbytes for table in self._held)
    if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
      self._write_row_group()

  def close(self) -> None:
    """Writes what is left."""
    if self._held:
      self._write_row_group()
    if self._writer:
      self._writer.close()

  def _write_row_group(self) -> None:
    filled = [table for table in self._held if len(table)] or self._held[:1]
    rows = pa.concat_tables(filled)
    self._held = []
    if self._writer is None:
      dictionaries = ['label', 'model_version']
      self._writer = pq.ParquetWriter(self._file, rows.schema, use_dictionary=dictionaries)
    if len(rows):
      self._writer.write_table(rows, row_group_size=len(rows))


class JsonLines:
  """Writes JSON, one line per image."""

  def __init__(self, file: BinaryIO):
    self._file = file

  def write(self, predictions: pa.Table) -> None:
    """Appends the predictions of a chunk."""
    for batch in predictions.to_batches(JSON_ROWS):
      for row in batch.to_pylist():
        self._file.write(_to_json(row).encode() + b'\n')

  def close(self) -> None:
    """Does nothing: all is written."""


WRITERS: dict[str, Callable[[BinaryIO], Writer]] = {'parquet': Parquet, 'jsonl': JsonLines}


def _to_json(row: dict[str, Any]) -> str:
  """Returns a row as JSON, which has neither bytes nor NaN: hexadecimal, and null."""
  try:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
  except ValueError:
    return json.dumps(_without_nan(row), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
  return value.hex() if isinstance(value, bytes) else str(value)


def _without_nan(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _without_nan(each) for name, each in value.items()}
  if isinstance(value, list):
    return [_without_nan(each) for each in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
