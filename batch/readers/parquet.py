"""Parquet tables with a column of images, whoever wrote them."""

import collections
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from absl import app

from batch import chunk, cutting, flags, ranges
from batch.readers import row_groups, table_fields, table_layout, table_rows
from batch.readers.base import MAX_MISSING_ROWS, Planned
from batch.readers.table_layout import Layout
from batch.readers.table_rows import Block
from storage import files

FILE_NAME = r'\.(parquet|pq)$'
# What Spark, Databricks, Dask and Delta Lake write beside a table, and what Spark left incomplete.
BESIDE = re.compile(
  r'(^|/)(_SUCCESS|_metadata|_common_metadata|_(started|committed)_[^/]*|[^/]*\.crc)$'
  r'|/(_delta_log|_temporary)/'
)
# The paths in structs of images are ids if no two are equal. They are compared up to so many rows.
MAX_COMPARED_ROWS = 1 << 22
REJECTS_AT_ONCE = 4096
# Planning opens so many files with images, and of others none: workers open them. It opens all if
# it has to compare their paths.
SAMPLE_FILES = 16
NO_IMAGES = 'Parquet file without a column of images'


@dataclasses.dataclass
class _Planned:
  """What planning has found out about the files so far.

  Attributes:
    compared: the paths in structs of images, None if they are too many or cannot be read.
    has_paths: whether paths have to be compared.
    refusal: why a file without images was passed over.
    filled: number of files with rows.
  """

  shards: list[chunk.Shard] = dataclasses.field(default_factory=list)
  broken: list[chunk.Shard] = dataclasses.field(default_factory=list)
  images: int | None = 0
  passed_over: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  compared: list[pa.ChunkedArray] | None = dataclasses.field(default_factory=list)
  has_paths: bool = False
  refusal: app.UsageError | None = None
  filled: int = 0


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per row group, and one per file that cannot be read.

  Of many files, those after the first ones are a shard each, or ranges of a large one.

  Raises:
    app.UsageError: no file is Parquet, or a column is missing or of another type.
  """
  found, later = _Planned(), list[chunk.Shard]()
  total = sum(file.size for file in matched)
  for file in matched:
    if BESIDE.search(file.uri):
      found.passed_over['metadata file'] += 1
      continue
    if found.filled >= SAMPLE_FILES and not found.has_paths:
      parts = cutting.ranges(file.size, total)
      later += [
        chunk.Shard(0, 'parquet', file.uri, *part, is_range=len(parts) > 1) for part in parts
      ]
      continue
    try:
      with row_groups.opened(file.uri) as table:
        _plan_table(table, file.uri, settings, found)
    except row_groups.NotParquet as error:
      found.broken.append(chunk.Shard(0, 'parquet', file.uri, 0, 0, broken=_broken(error)))
  if not found.shards and found.broken:
    first = found.broken[0]
    raise app.UsageError(f'{first.uri}: {first.broken}; pass one that can')
  if not found.shards and found.refusal:
    raise found.refusal
  readable = tuple(shard.uri for shard in found.shards[:1])
  broken = [dataclasses.replace(shard, uris=readable) for shard in [*found.broken, *later]]
  is_id = _all_differ(found.compared)
  shards = [dataclasses.replace(shard, path_is_id=is_id) for shard in found.shards]
  images = None if found.images is None or later else found.images + len(broken)
  return Planned([*shards, *broken], images, found.passed_over)


def _plan_table(
  table: row_groups.Table, uri: str, settings: flags.Settings, found: _Planned
) -> None:
  """Adds a file to what is planned."""
  schema = table_fields.with_partitions(table.schema, uri)
  try:
    layout = table_layout.find_columns(schema, uri, settings)
  except app.UsageError as error:
    if settings.image_column or table_layout.has_images(schema):
      raise
    found.passed_over[NO_IMAGES] += 1
    found.refusal = error
    return
  found.passed_over.update(layout.unusable)
  found.filled += any(table.rows)
  row = 0
  for group, rows in enumerate(table.rows):
    if rows:
      found.shards.append(chunk.Shard(0, 'parquet', uri, group, group + 1, row))
    row += rows
  if table_layout.has_lists(schema, layout.image) or found.images is None:
    found.images = None
  else:
    found.images += row
  _compare_paths(table, layout, row, found)


def _compare_paths(table: row_groups.Table, layout: Layout, rows: int, found: _Planned) -> None:
  """Adds a file's paths to those that are compared."""
  path = table_layout.path_column(table.schema, layout.image)
  if layout.id or not path:
    return
  found.has_paths = True
  if found.compared is None:
    return
  paths = table.read_paths(path) if rows <= MAX_COMPARED_ROWS else None
  found.compared = None if paths is None else [*found.compared, paths]
  if found.compared and sum(map(len, found.compared)) > MAX_COMPARED_ROWS:
    found.compared = None


def _all_differ(compared: Sequence[pa.ChunkedArray] | None) -> bool:
  parts = [part for column in compared or [] for part in column.chunks]
  if not parts:
    return False
  paths = pa.chunked_array(parts)
  given = paths.filter(pc.not_equal(paths, ''))  # without nulls
  return pc.count_distinct(given).as_py() == len(given)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the images of row groups `start` to `stop` after the first `skip`, in chunks.

  An id is that of the id column, else the path in the image's struct if no two are equal, else
  path#row; of a list of images, that and [0], [1] ...
  """
  problem, passed_over = shard.broken, dict[str, int]()
  if shard.stop < 0:
    problem, passed_over = _check(shard.uri, settings)
  if problem or passed_over:
    if not skip:
      rejects = [chunk.Reject(shard.uri, 'read', problem)] if problem else []
      none = _none_carried(shard, settings)
      yield chunk.ReadImages(encoded=[], carried=none, rejects=rejects, passed_over=passed_over)
    return
  if shard.start == shard.stop:  # a range in which no row group begins
    return
  with row_groups.opened(shard.uri) as table:
    schema, layout = _find_columns(table, shard.uri, settings)
    none = table_layout.no_rows(schema, layout.carry)
    left = table_rows.after(_blocks(table, shard, settings), skip)
    whole = table_rows.with_files(left, settings.read_threads)
    for blocks in table_rows.cut(whole, settings.chunk_images):
      yield table_rows.to_columns(blocks, layout, none)


def _check(uri: str, settings: flags.Settings) -> tuple[str, dict[str, int]]:
  """Returns why a file that planning did not open cannot be read, or as what it is passed over."""
  try:
    with row_groups.opened(uri) as table:
      schema = table_fields.with_partitions(table.schema, uri)
    table_layout.find_columns(schema, uri, settings)
  except row_groups.NotParquet as error:
    return _broken(error), {}
  except app.UsageError as error:
    if settings.image_column or table_layout.has_images(schema):
      return str(error).removeprefix(f'{uri}: '), {}
    return '', {NO_IMAGES: 1}
  return '', {}


def survey(
  shard: chunk.Shard, settings: flags.Settings, begin: int = -1
) -> Iterator[ranges.Survey]:
  """Yields which row groups belong to a range: `begin` and `end` are their numbers.

  All of a file that cannot be read belongs to the first.
  """
  if any(_check(shard.uri, settings)):
    if not shard.start:
      yield ranges.Survey(shard, 0, ranges.END)
    return
  with row_groups.opened(shard.uri) as table:
    begin, end = table.groups_within(shard.start, shard.stop)
    yield ranges.Survey(shard, begin, end, sum(table.rows[begin:end]))


def _broken(error: row_groups.NotParquet) -> str:
  return f'cannot be read as Parquet ({error})'


def _find_columns(
  table: row_groups.Table, uri: str, settings: flags.Settings
) -> tuple[pa.Schema, Layout]:
  schema = table_fields.with_partitions(table.schema, uri)
  return schema, table_layout.find_columns(schema, uri, settings)


def _none_carried(shard: chunk.Shard, settings: flags.Settings) -> pa.Table | None:
  """Returns the carried columns of a file that can be read, so that all chunks have the same."""
  if not settings.carry or not shard.uris:
    return None
  with row_groups.opened(shard.uris[0]) as table:
    schema, layout = _find_columns(table, shard.uris[0], settings)
    return table_layout.no_rows(schema, layout.carry)


def _blocks(
  table: row_groups.Table, shard: chunk.Shard, settings: flags.Settings
) -> Iterator[Block]:
  """Yields the pictures of a shard, and a reason for each row that cannot be read."""
  _, layout = _find_columns(table, shard.uri, settings)
  own = set(table.schema.names)
  constant = {
    name: value for name, value in table_fields.partitions(shard.uri).items() if name not in own
  }
  wanted = sorted({layout.image, layout.id, layout.label, *layout.carry} - {'', *constant})
  first = shard.first_row
  for group in range(shard.start, shard.stop if shard.stop >= 0 else len(table.rows)):
    stop = first + table.rows[group]
    for part in table.batches(group, wanted, settings.chunk_images):
      if isinstance(part, str):
        yield from _missing(shard.uri, first, stop, part)
      else:
        yield table_rows.to_block(part, first, constant, shard, layout)
        first += part.num_rows
    first = stop


def _missing(uri: str, first: int, stop: int, reason: str) -> Iterator[Block]:
  if stop - first > MAX_MISSING_ROWS:
    yield table_rows.rejected([f'{uri}#{first}'], f'{reason}; {stop - first} rows are missing')
    return
  for start in range(first, stop, REJECTS_AT_ONCE):
    rows = range(start, min(start + REJECTS_AT_ONCE, stop))
    yield table_rows.rejected([f'{uri}#{row}' for row in rows], reason)
