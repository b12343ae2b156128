"""Parquet tables with a column of images."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from absl import app

from batch import chunk, flags
from batch.readers import stream
from batch.readers.base import Planned
from storage import files

FILE_NAME = r'\.(parquet|pq)$'
IMAGE_COLUMNS = ('image', 'image/encoded', 'img', 'bytes', 'png', 'jpg')
# Of the predictions, so that no column carried through can have such a name.
RESERVED_COLUMNS = (
  'id',
  'label',
  'label_index',
  'confidence',
  'probabilities',
  'model_version',
  'top_labels',
  'top_probabilities',
)


class Layout(NamedTuple):
  """The names of the columns with images, ids and labels, '' if absent, and of those to carry."""

  image: str
  id: str
  label: str
  carry: list[str]


def plan(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per row group.

  Raises:
    app.UsageError: a file is not Parquet, or a column is missing or of another type.
  """
  shards, images = [], 0
  for file in matched:
    row = 0
    for group, rows in enumerate(_group_rows(file.uri, settings)):
      shards.append(chunk.Shard(0, 'parquet', file.uri, group, group + 1, row))
      row += rows
    images += row
  return Planned(shards, images)


def _group_rows(uri: str, settings: flags.Settings) -> list[int]:
  """Returns the rows of each row group, after checking the columns."""
  try:
    with files.open_bytes(uri) as file:
      table = pq.ParquetFile(file)
      find_columns(table.schema_arrow, uri, settings)
      return [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
  except (pa.ArrowException, OSError) as error:
    raise app.UsageError(
      f'{uri}: cannot be read as Parquet ({str(error).splitlines()[0]}); pass one that can'
    ) from error


def find_columns(schema: pa.Schema, uri: str, settings: flags.Settings) -> Layout:
  """Returns the columns that the settings name, and the usual ones for those they do not.

  Raises:
    app.UsageError: a column is missing, of another type, or would overwrite the predictions'.
  """
  names = ', '.join(schema.names)
  image = settings.image_column or _first_of(schema, IMAGE_COLUMNS)
  if not image:
    raise app.UsageError(
      f'{uri}: has no column of images, only {names}; name one with --image_column'
    )
  asked = [
    ('image_column', image),
    ('id_column', settings.id_column),
    ('label_column', settings.label_column),
    *(('carry', name) for name in settings.carry),
  ]
  for flag, name in asked:
    if name and name not in schema.names:
      raise app.UsageError(
        f'--{flag}={name}: {uri} has no such column, only {names}; pass one of these'
      )
  for name in settings.carry:
    if name in RESERVED_COLUMNS and name != 'id':
      raise app.UsageError(
        f'--carry={name}: predictions have a column of that name; rename it in {uri}'
      )
  if not _is_image(schema.field(image).type):
    raise app.UsageError(
      f'--image_column={image}: in {uri} it is {schema.field(image).type}; pass a column of bytes'
    )
  return Layout(
    image,
    settings.id_column or _first_of(schema, ['id']),
    settings.label_column or _first_of(schema, ['label']),
    [name for name in settings.carry if name != 'id'],
  )


def _first_of(schema: pa.Schema, names: Sequence[str]) -> str:
  return next((name for name in names if name in schema.names), '')


def _is_image(kind: pa.DataType) -> bool:
  """Returns whether a column contains bytes, or structs with a member `bytes`."""
  if pa.types.is_struct(kind):
    members = [kind.field(i) for i in range(kind.num_fields)]
    return any(member.name == 'bytes' and _is_image(member.type) for member in members)
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.Columns]:
  """Yields the rows of row groups `start` to `stop` after the first `skip`, in chunks.

  An id is that of the id column, else the path in the image's struct, else path#row.
  """
  with files.open_bytes(shard.uri) as file:
    table = pq.ParquetFile(file)
    layout = find_columns(table.schema_arrow, shard.uri, settings)
    wanted = sorted({layout.image, layout.id, layout.label, *layout.carry} - {''})
    row = 0
    groups = list(range(shard.start, shard.stop))
    for batch in table.iter_batches(settings.chunk_images, row_groups=groups, columns=wanted):
      for rows in _pieces(batch):
        row += rows.num_rows
        if row > skip:
          first = shard.first_row + row - rows.num_rows
          names = [f'{shard.uri}#{first + i}' for i in range(rows.num_rows)]
          yield _columns(rows, names, layout)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
  """Yields the batch in parts of about CHUNK_BYTES at most."""
  pieces = math.ceil(batch.nbytes / stream.CHUNK_BYTES) or 1
  rows = math.ceil(batch.num_rows / pieces)
  for first in range(0, batch.num_rows, max(rows, 1)):
    yield batch.slice(first, rows)


def _columns(rows: pa.RecordBatch, names: list[str], layout: Layout) -> chunk.Columns:
  """Returns a chunk; `names` are the ids of rows that have none of their own."""
  values = rows.column(layout.image)
  paths: list[str | None] = [None] * rows.num_rows
  if pa.types.is_struct(values.type):
    members = {values.type.field(i).name: member for i, member in enumerate(values.flatten())}
    values = members['bytes']
    paths = members['path'].to_pylist() if 'path' in members else paths
  given = rows.column(layout.id).to_pylist() if layout.id else paths
  return chunk.Columns(
    ids=[name if i is None else str(i) for i, name in zip(given, names)],
    encoded=[value or b'' for value in values.to_pylist()],
    labels=rows.column(layout.label).to_pylist() if layout.label else None,
    carried=pa.Table.from_batches([rows]).select(layout.carry) if layout.carry else None,
  )
