"""The writers of predictions, one per --output_format.

Another format is another entry of WRITERS; nothing else depends on which there are.
"""

import functools
import json
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from storage import files

FOLDER = 'predictions'


class Writer(Protocol):
  """Writes the predictions of a run. Each worker has one."""

  def write(self, name: str, predictions: pa.Table) -> None:
    """Writes the predictions of the chunk `name`. Writing them again must change nothing."""

  def has(self, name: str) -> bool:
    """Returns whether the predictions of the chunk `name` are written."""

  def clear(self) -> None:
    """Removes the predictions of all chunks."""


class FileWriter:
  """Writes one file per chunk."""

  def __init__(self, output: str, suffix: str, encode: Callable[[pa.Table], bytes]):
    """Takes the extension of the files, and what returns the content of one."""
    self._folder, self._suffix, self._encode = files.join(output, FOLDER), suffix, encode

  def write(self, name: str, predictions: pa.Table) -> None:
    """Writes predictions/NAME.SUFFIX."""
    files.write(self._uri(name), self._encode(predictions))

  def has(self, name: str) -> bool:
    """Returns whether predictions/NAME.SUFFIX exists."""
    return files.exists(self._uri(name))

  def clear(self) -> None:
    """Removes the folder."""
    files.remove_folder(self._folder)

  def _uri(self, name: str) -> str:
    return files.join(self._folder, f'{name}.{self._suffix}')


def to_parquet(predictions: pa.Table) -> bytes:
  """Returns a Parquet file with one row group."""
  buffer = pa.BufferOutputStream()
  pq.write_table(predictions, buffer, use_dictionary=['label', 'model_version'])
  return buffer.getvalue().to_pybytes()


def to_jsonl(predictions: pa.Table) -> bytes:
  """Returns JSON, one line per image."""
  rows = predictions.to_pylist()
  lines = [json.dumps(row, ensure_ascii=False, default=str) + '\n' for row in rows]
  return ''.join(lines).encode()


WRITERS: dict[str, Callable[[str], Writer]] = {
  'parquet': functools.partial(FileWriter, suffix='parquet', encode=to_parquet),
  'jsonl': functools.partial(FileWriter, suffix='jsonl', encode=to_jsonl),
}
