"""The writers of predictions, one class per --output_format.

Another format is another class in WRITERS; nothing else depends on which there are.
"""

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
  """Writes one file per chunk; a subclass specifies its format."""

  suffix: str

  def __init__(self, output: str):
    self._folder = files.join(output, FOLDER)

  def write(self, name: str, predictions: pa.Table) -> None:
    """Writes predictions/NAME.SUFFIX."""
    files.write(self._uri(name), self.encode(predictions))

  def has(self, name: str) -> bool:
    """Returns whether predictions/NAME.SUFFIX exists."""
    return files.exists(self._uri(name))

  def clear(self) -> None:
    """Removes the folder."""
    files.remove_folder(self._folder)

  def encode(self, predictions: pa.Table) -> bytes:
    """Returns the content of a file."""
    raise NotImplementedError

  def _uri(self, name: str) -> str:
    return files.join(self._folder, f'{name}.{self.suffix}')


class ParquetWriter(FileWriter):
  """Writes Parquet."""

  suffix = 'parquet'

  def encode(self, predictions: pa.Table) -> bytes:
    """Returns a Parquet file with one row group."""
    buffer = pa.BufferOutputStream()
    pq.write_table(predictions, buffer, use_dictionary=['label', 'model_version'])
    return buffer.getvalue().to_pybytes()


class JsonlWriter(FileWriter):
  """Writes JSON lines."""

  suffix = 'jsonl'

  def encode(self, predictions: pa.Table) -> bytes:
    """Returns one line per image."""
    rows = predictions.to_pylist()
    lines = [json.dumps(row, ensure_ascii=False, default=str) + '\n' for row in rows]
    return ''.join(lines).encode()


WRITERS: dict[str, Callable[[str], Writer]] = {'parquet': ParquetWriter, 'jsonl': JsonlWriter}
