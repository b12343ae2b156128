"""Rows of a table as pictures with their ids and labels, and these as chunks."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batch import chunk
from batch.readers import image_files, table_fields, table_values
from batch.readers.table_layout import Layout
from storage import files


class Row(NamedTuple):
  """A picture, or the reason why there is none; `place` is its row in `batch`."""

  id: str
  content: bytes | str
  label: Any = None
  batch: pa.RecordBatch | None = None
  place: int = 0

  def num_bytes(self) -> int:
    """Returns the size of the picture."""
    return len(self.content)


def to_rows(
  batch: pa.RecordBatch,
  first: int,
  constant: Mapping[str, str | None],
  shard: chunk.Shard,
  layout: Layout,
) -> Iterator[Row]:
  """Yields the pictures in a batch.

  Args:
    batch: consecutive rows of the shard's file.
    first: the number in the file of the first of them.
    constant: columns that the batch lacks, and their value in all rows.
    shard: what is read.
    layout: the columns of the file.
  """
  batch = _with_constants(batch, constant)
  lengths, values = table_values.unnested(table_fields.column(batch, layout.image))
  contents, paths = table_values.to_pictures(values)
  pictures = [
    _content_at(path, shard.uri) if content is None else content
    for content, path in zip(contents, paths)
  ]
  rows = range(batch.num_rows)
  labels = [None] * len(rows)
  if layout.label:
    labels = table_values.to_labels(table_fields.column(batch, layout.label), layout.label_names)
  carried = batch if layout.carry else None
  if lengths is None:
    names = _ids(batch, layout, paths if shard.path_is_id else None, shard.uri, first)
    yield from map(Row, names, pictures, labels, itertools.repeat(carried), rows)
    return
  names = _ids(batch, layout, None, shard.uri, first)
  found = iter(pictures)
  for row in rows:
    if not lengths[row]:
      yield Row(names[row], 'the row has no picture')
    for number in range(lengths[row]):
      yield Row(f'{names[row]}[{number}]', next(found), labels[row], carried, row)


def _with_constants(batch: pa.RecordBatch, constant: Mapping[str, str | None]) -> pa.RecordBatch:
  columns = dict(zip(batch.schema.names, batch.columns))
  if len(columns) < batch.num_columns or not constant:
    return batch
  for name, value in constant.items():
    columns[name] = pa.array([value] * batch.num_rows, pa.string())
  return pa.RecordBatch.from_pydict(columns)


def _ids(
  batch: pa.RecordBatch, layout: Layout, paths: Sequence[str] | None, uri: str, first: int
) -> list[str]:
  """Returns the rows' ids, else their paths, else uri#row."""
  given = paths
  if layout.id:
    given = table_values.to_ids(table_fields.column(batch, layout.id))
  numbers = range(first, first + batch.num_rows)
  if given is None:
    return [f'{uri}#{row}' for row in numbers]
  return [name or f'{uri}#{row}' for name, row in zip(given, numbers)]


def _content_at(path: str, uri: str) -> bytes | str:
  """Returns the picture of a row without one: the file at its path, as Hugging Face means it."""
  if not path:
    return 'the picture is null'
  is_absolute = os.path.isabs(path) or not files.is_local(path)
  located = path if is_absolute else files.join(os.path.dirname(uri) or '.', path)
  if not files.is_local(located) and not located.startswith(files.CLOUD):
    return f'the picture is null, and its path {path} is neither local nor {files.CLOUD}'
  try:
    return files.read(located, image_files.MAX_FILE_BYTES)
  except (OSError, ValueError) as error:  # an outage is neither
    kind = type(error).__name__
    return f'the picture is null, and the file at its path cannot be read: {kind}: {path}'


def to_columns(items: Sequence[Row], layout: Layout, none: pa.Table | None) -> chunk.ReadImages:
  """Returns a chunk; `none` is the table of no carried rows, if there are columns to carry."""
  good = [item for item in items if isinstance(item.content, bytes)]
  return chunk.ReadImages(
    ids=[item.id for item in good],
    encoded=[item.content for item in good if isinstance(item.content, bytes)],
    labels=[item.label for item in good] if layout.label else None,
    carried=None if none is None else _carried(good, none),
    rejects=[
      chunk.Reject(item.id, 'read', item.content) for item in items if isinstance(item.content, str)
    ],
  )


def _carried(rows: Sequence[Row], none: pa.Table) -> pa.Table:
  parts = [none]
  for _, group in itertools.groupby(rows, _batch_number):
    some = list(group)
    batch = some[0].batch
    taken = [
      table_fields.column(batch, name).take(pa.array([row.place for row in some], pa.int64()))
      for name in none.column_names
    ]
    parts.append(pa.table([_valid(values) for values in taken], schema=none.schema))
  return pa.concat_tables(parts).combine_chunks()


def _batch_number(row: Row) -> int:
  return id(row.batch)


def _valid(values: pa.Array) -> pa.Array:
  """Returns an array of text whose bytes are all UTF-8; any other array as it is."""
  try:
    values.validate(full=True)
  except pa.ArrowInvalid:
    return pa.array(table_values.to_list(values), values.type)
  return values
