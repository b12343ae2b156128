"""Rows of a table as pictures with their ids and labels, in blocks, and these as chunks.

A row at a time would take more than twice as long.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batch import chunk
from batch.readers import image_files, stream, table_fields, table_values
from batch.readers.image_files import Entry
from batch.readers.table_layout import Layout
from storage import files


class Block(NamedTuple):
  """N pictures in a row; a str in the place of one that there is not is the reason.

  An Entry in the place of one is the file that has it; `with_files` reads them.

  Attributes:
    batch: what columns are carried from, if any are, and `places` each picture's row in it.
  """

  ids: Sequence[str]
  contents: Sequence[Any]
  labels: Sequence[Any]
  batch: pa.RecordBatch | None = None
  places: Sequence[int] = ()

  def part(self, first: int, stop: int) -> 'Block':
    """Returns some of the pictures."""
    cut = slice(first, stop)
    return Block(self.ids[cut], self.contents[cut], self.labels[cut], self.batch, self.places[cut])


def rejected(ids: Sequence[str], reason: str) -> Block:
  """Returns a block of rows that cannot be read."""
  return Block(ids, [reason] * len(ids), [None] * len(ids), None, range(len(ids)))


def to_block(
  batch: pa.RecordBatch,
  first: int,
  constant: Mapping[str, str | None],
  shard: chunk.Shard,
  layout: Layout,
) -> Block:
  """Returns the pictures in a batch.

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
    _entry_at(path, shard.uri) if content is None else content
    for content, path in zip(contents, paths)
  ]
  rows = range(batch.num_rows)
  labels = [None] * len(rows)
  if layout.label:
    labels = table_values.to_labels(table_fields.column(batch, layout.label), layout.label_names)
  carried = batch if layout.carry else None
  if lengths is None:
    names = _ids(batch, layout, paths if shard.path_is_id else None, shard.uri, first)
    return Block(names, pictures, labels, carried, rows)
  names = _ids(batch, layout, None, shard.uri, first)
  return _unnested(Block(names, pictures, labels, carried), lengths)


def _unnested(block: Block, lengths: Sequence[int]) -> Block:
  """Returns the block of a column of lists, whose rows have `lengths` pictures."""
  ids, pictures, places = [], [], []
  found = iter(block.contents)
  for row, (name, length) in enumerate(zip(block.ids, lengths)):
    ids += [f'{name}[{number}]' for number in range(length)] or [name]
    pictures += list(itertools.islice(found, length)) or ['the row has no picture']
    places += [row] * max(length, 1)
  return Block(ids, pictures, [block.labels[row] for row in places], block.batch, places)


def after(blocks: Iterable[Block], skip: int) -> Iterator[Block]:
  """Yields the blocks after `skip` pictures."""
  for block in blocks:
    first = min(skip, len(block.ids))
    skip -= first
    if first < len(block.ids):
      yield block.part(first, len(block.ids)) if first else block


def with_files(blocks: Iterable[Block], threads: int) -> Iterator[Block]:
  """Yields the blocks, those that name files with their contents, in parts of a chunk's size."""
  for block in blocks:
    entries = [content for content in block.contents if isinstance(content, Entry)]
    if not entries:
      yield block
      continue
    read = image_files.read_contents(entries, threads)
    first, held, contents = 0, 0, list[bytes | str]()
    for stop, content in enumerate(block.contents, 1):
      if isinstance(content, Entry):
        content = next(read)
        if isinstance(content, str):
          content = f'the picture is null, and the file at its path cannot be read: {content}'
      contents.append(content)
      held += len(content)
      if held >= stream.CHUNK_BYTES or stop == len(block.contents):
        yield block.part(first, stop)._replace(contents=contents)
        first, held, contents = stop, 0, []


def cut(blocks: Iterable[Block], max_rows: int) -> Iterator[list[Block]]:
  """Yields the blocks for chunks of `max_rows` or about CHUNK_BYTES."""
  held: list[Block] = []
  rows = size = 0
  for block in blocks:
    first = 0
    while first < len(block.ids):
      stop, more = _fitting(block.contents, first, max_rows - rows, stream.CHUNK_BYTES - size)
      held.append(block.part(first, stop))
      rows, size, first = rows + stop - first, size + more, stop
      if rows == max_rows or size >= stream.CHUNK_BYTES:
        yield held
        held, rows, size = [], 0, 0
  if held:
    yield held


def _fitting(contents: Sequence[bytes | str], first: int, rows: int, room: int) -> tuple[int, int]:
  """Returns where to stop, at most `rows` on or when `room` is full, and the size until there."""
  stop = min(first + rows, len(contents))
  sizes = list(map(len, contents[first:stop]))
  if sum(sizes) < room:
    return stop, sum(sizes)
  used = 0
  for count, size in enumerate(sizes, 1):
    used += size
    if used >= room:
      return first + count, used
  return stop, used


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


def _entry_at(path: str, uri: str) -> Entry | str:
  """Returns the file of a row without a picture, as Hugging Face means it, or why there is none."""
  if not path:
    return 'the picture is null'
  is_absolute = os.path.isabs(path) or not files.is_local(path)
  located = path if is_absolute else files.join(os.path.dirname(uri) or '.', path)
  if not files.is_local(located) and not located.startswith(files.CLOUD):
    return f'the picture is null, and its path {path} is neither local nor {files.CLOUD}'
  return Entry(located, path, place=path)


def to_columns(blocks: Sequence[Block], layout: Layout, none: pa.Table | None) -> chunk.ReadImages:
  """Returns a chunk; `none` is the table of no carried rows, if there are columns to carry."""
  columns = chunk.ReadImages()
  encoded: list[Any] = []
  labels: list[Any] = []
  carried = [] if none is None else [none]
  for block in blocks:
    if set(map(type, block.contents)) != {bytes}:
      bad = [row for row, content in enumerate(block.contents) if isinstance(content, str)]
      columns.rejects += [
        chunk.Reject(block.ids[row], 'read', str(block.contents[row])) for row in bad
      ]
      block = _without(block, set(bad))
    columns.ids += block.ids
    encoded += block.contents
    labels += block.labels
    if none is not None and block.batch is not None:
      carried.append(_carried(block.batch, block.places, none))
  columns.encoded = encoded
  columns.labels = labels if layout.label else None
  columns.carried = pa.concat_tables(carried).combine_chunks() if carried else None
  return columns


def _without(block: Block, rows: set[int]) -> Block:
  kept = [row for row in range(len(block.ids)) if row not in rows]
  return Block(
    [block.ids[row] for row in kept],
    [block.contents[row] for row in kept],
    [block.labels[row] for row in kept],
    block.batch,
    [block.places[row] for row in kept],
  )


def _carried(batch: pa.RecordBatch, places: Sequence[int], none: pa.Table) -> pa.Table:
  rows = pa.array(places, pa.int64())
  columns = [table_fields.column(batch, name).take(rows) for name in none.column_names]
  return pa.table([_valid(values) for values in columns], schema=none.schema)


def _valid(values: pa.Array) -> pa.Array:
  """Returns an array of text whose bytes are all UTF-8; any other array as it is."""
  try:
    values.validate(full=True)
  except pa.ArrowInvalid:
    return pa.array(table_values.to_list(values), values.type)
  return values
