"""Row groups of Parquet files: what can be read of each, and why the rest cannot."""

import bisect
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from storage import files

BATCH_ROWS = 256  # few, so that a run of large pictures stays small; fewer would take longer
BATCH_BYTES = 16 << 20  # of a smaller row group, more rows are read at once
BUFFER_BYTES = 1 << 20  # of each column; without a buffer Arrow reads a whole row group of it
MAX_SINGLE_ROWS = 1 << 14
# What Arrow raises for damage. It takes malformed names for text.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


class NotParquet(Exception):
  """The file cannot be read as Parquet. The message is why, in one line."""


class _Watched:
  """A file that remembers the error of reading it, which Arrow's own errors would hide."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.error: Exception | None = None
    self.closed = False

  def read(self, size: int = -1) -> bytes:
    """Returns the next bytes."""
    try:
      return self._file.read(size)
    except Exception as error:
      self.error = error
      raise

  def seek(self, offset: int, whence: int = 0) -> int:
    """Moves to a position and returns it."""
    return self._file.seek(offset, whence)

  def tell(self) -> int:
    """Returns the position."""
    return self._file.tell()

  def readable(self) -> bool:
    """Returns True."""
    return True

  def close(self) -> None:
    """Leaves the file open: Arrow closes it with each of its readers."""

  def reason(self, error: Exception) -> str:
    """Returns what is wrong with the content, in one line.

    Raises:
      Exception: the error of reading the file, if that is what went wrong.
    """
    if self.error:
      raise self.error
    lines = str(error).splitlines()
    return lines[0].rstrip('.') if lines else type(error).__name__


class Table:
  """An open Parquet file.

  Attributes:
    schema: its columns, as Arrow's types.
    rows: the number of rows of each row group, as the file states them.
  """

  def __init__(self, file: BinaryIO):
    """Reads the footer.

    Raises:
      NotParquet: it has none, or one that is damaged.
    """
    self._file = _Watched(file)
    self._bytes = file.seek(0, os.SEEK_END)
    try:
      table = pq.ParquetFile(self._file)
      self._metadata = table.metadata
      # Not their column(), which ends the process if a column's statistics are damaged.
      groups = [self._metadata.row_group(i) for i in range(table.num_row_groups)]
      self.schema: pa.Schema = table.schema_arrow
      self.rows = [max(group.num_rows, 0) for group in groups]
      _ = self.schema.names, self.schema.metadata
    except DAMAGE as error:
      _refuse(self._file.reason(error), file)

  def groups_within(self, start: int, stop: int) -> tuple[int, int]:
    """Returns the first row group that begins in bytes `start` to `stop`, and the first after it.

    Where they begin is estimated from their sizes, for all ranges alike.
    """
    sizes = [max(self._metadata.row_group(i).total_byte_size, 0) for i in range(len(self.rows))]
    scale = self._bytes / max(sum(sizes), 1)
    begins = [before * scale for before in itertools.accumulate(sizes, initial=0)][:-1]
    first = bisect.bisect_left(begins, start)
    return first, bisect.bisect_left(begins, stop) if stop >= 0 else len(self.rows)

  def batches(
    self, group: int, columns: Sequence[str], max_rows: int
  ) -> Iterator[pa.RecordBatch | str]:
    """Yields the rows of a group and, if some of them cannot be read, at last the reason."""
    size = self._batch_rows(group, max_rows)
    done, reason = 0, ''
    for _ in range(2):
      try:
        for batch in self._read(group, columns, size, done):
          done += batch.num_rows
          yield batch
        reason = f'only {done} of {self.rows[group]} rows are there'
      except DAMAGE as error:
        reason = self._file.reason(error)
      if done >= self.rows[group]:
        return
      # Rows before the damage may be in a batch that could not be read as a whole.
      size = 1 + done // MAX_SINGLE_ROWS
    yield f'row group {group} of the file is damaged after its row {done}: {reason}'

  def _read(
    self, group: int, columns: Sequence[str], size: int, skip: int
  ) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a group after the first `skip`, `size` at a time."""
    table = pq.ParquetFile(
      self._file,
      metadata=self._metadata,
      buffer_size=BUFFER_BYTES,
      pre_buffer=False,  # which would read all of the group's columns before the first row
      page_checksum_verification=True,
    )
    for batch in table.iter_batches(size, row_groups=[group], columns=list(columns)):
      first, skip = min(skip, batch.num_rows), max(skip - batch.num_rows, 0)
      if first < batch.num_rows:
        yield batch.slice(first)

  def _batch_rows(self, group: int, max_rows: int) -> int:
    group_bytes = self._metadata.row_group(group).total_byte_size
    if group_bytes <= BATCH_BYTES:
      return max_rows
    row_bytes = group_bytes // max(self.rows[group], 1)
    return max(1, min(max_rows, BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))

  def read_paths(self, column: str) -> pa.ChunkedArray | None:
    """Returns a column of text, or None if it is damaged."""
    try:
      found = pq.ParquetFile(self._file, metadata=self._metadata).read(columns=[column])
      found = found.flatten()
      while pa.types.is_struct(found.schema.field(0).type):
        found = found.flatten()
      return found.column(0).cast(pa.large_string())
    except DAMAGE as error:
      self._file.reason(error)
      return None


def _refuse(reason: str, file: BinaryIO) -> NoReturn:
  """Raises NotParquet."""
  size = file.seek(0, 2)
  file.seek(max(size - 4, 0))
  if not size:
    reason = 'the file is empty'
  elif file.read(4) == b'PARE':
    reason = 'it is encrypted; decrypt it first'
  raise NotParquet(reason)


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Table]:
  """Yields the table of a file.

  Raises:
    NotParquet: it cannot be read as one.
  """
  with files.open_bytes(uri) as file:
    yield Table(file)
