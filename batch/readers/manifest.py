"""Manifests: text files that name one image per line, and CSV files with a column of names."""

import csv
import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence

from batch import chunk, cutting, flags, names
from batch.readers import image_files, stream, text
from batch.readers.base import Planned
from batch.readers.image_files import Entry
from batch.readers.manifest_layout import Layout, is_blank, read_layout
from storage import files

FILE_NAME = r'\.(txt|csv|tsv)' + stream.SUFFIX + '$'
MAX_WHOLE_SHARDS = 64  # of a file that can be read only from its beginning, which each shard does
WINDOWS_DRIVE = re.compile(r'[A-Za-z]:[\\/]|\\\\')
MAX_NAME = 4096  # characters; a disk allows as many bytes, a bucket 1,024
COMMENT = 'comment line'


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns shards of at most `chunk_images` rows, or of more for text without random access.

  Raises:
    app.UsageError: the columns of a table are not known.
  """
  shards, passed_over, images = [], {COMMENT: 0}, 0
  for file in matched:
    layout = read_layout(file.uri, settings)
    parts, comments, rows = _split(file.uri, layout, settings)
    shards += [chunk.Shard(0, 'manifest', file.uri, start, stop, row) for start, stop, row in parts]
    passed_over[COMMENT] += comments
    images += rows
  return Planned(shards, images, passed_over if passed_over[COMMENT] else {})


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the files that a part of a manifest names, after the first `skip`, in chunks."""
  layout = read_layout(shard.uri, settings)
  entries = [
    _entry(row, f'{shard.uri}#{shard.first_row + number}', layout, _root(shard.uri, settings))
    for number, row in enumerate(_rows(shard.uri, layout, settings, shard.start, shard.stop))
    if number >= skip
  ]
  carried = [name for name in settings.carry if name != 'id']
  return image_files.read_entries(entries, settings, carried)


def _split(
  uri: str, layout: Layout, settings: flags.Settings
) -> tuple[list[tuple[int, int, int]], int, int]:
  """Returns (start, stop, first_row) of consecutive parts; the number of comments; of rows."""
  unit = min(settings.chunk_images, cutting.MIN_MANIFEST_ROWS)
  ends = [layout.begin]  # of every unit-th row
  last, count = layout.begin, 0
  comments: list[str] = []
  for row in _rows(uri, layout, settings, layout.begin, -1, comments):
    last, count = row.end, count + 1
    if count % unit == 0:
      ends.append(last)
  if last > ends[-1]:
    ends.append(last)
  step = cutting.manifest_rows(count, unit, settings.chunk_images) // unit
  if not layout.encoding.is_seekable:
    step = max(step, -(-len(ends) // MAX_WHOLE_SHARDS))
  bounds = [*range(0, len(ends) - 1, step), len(ends) - 1]
  parts = [(ends[first], ends[after], first * unit) for first, after in itertools.pairwise(bounds)]
  return parts, len(comments), count


def _rows(
  uri: str,
  layout: Layout,
  settings: flags.Settings,
  start: int,
  stop: int,
  comments: list[str] | None = None,
) -> Iterator[text.Row]:
  """Yields the rows of a part that are neither blank nor comments, which join `comments`."""
  parts = text.blocks(uri, layout.encoding, start, stop)
  found = text.lines(parts, layout.encoding.line_end, start)
  root = _root(uri, settings)
  for row in text.table_rows(found, layout.delimiter) if layout.delimiter else found:
    if is_blank(row, layout.delimiter):
      continue
    is_comment = not layout.delimiter and row.text.startswith('#')
    if is_comment and not _exists(_join(root, row.text.strip())):
      if comments is not None:
        comments.append(row.text)
      continue
    yield row


def _root(uri: str, settings: flags.Settings) -> str:
  """Returns the directory to which relative paths are relative."""
  return settings.root or os.path.dirname(uri)


def _entry(row: text.Row, place: str, layout: Layout, root: str) -> Entry:
  """Returns the file that a row names; `place` is the id of a row that names none."""
  try:
    fields = text.fields(row.text, layout.delimiter)
  except csv.Error as error:
    return Entry('', place, problem=f'the row cannot be read: {error}')
  if row.problem or len(''.join(fields[layout.width :]).strip()):
    return Entry('', place, problem=row.problem or _too_wide(fields, layout))
  uri = _field(fields, layout.uri) or ''
  if not uri.strip():
    return Entry('', place, problem='the row names no image')
  if len(uri) > MAX_NAME:
    return Entry('', place, problem=f'the row names a file with {len(uri)} characters')
  path, problem = _locate(uri, root)
  given = _field(fields, layout.id)
  name = given if given and given.strip() else uri if path.endswith(uri) else uri.strip()
  carried = tuple(_field(fields, column) for column in layout.carry)
  label = _field(fields, layout.label) or None
  return Entry(path, name, label, problem, carried, '' if path.endswith(name) else path)


def _too_wide(fields: Sequence[str], layout: Layout) -> str:
  return (
    f'the row has {len(fields)} fields and the first one {layout.width}; put fields with a '
    f'{layout.delimiter!r} in them between double quotes'
  )


def _field(fields: Sequence[str], place: int) -> str | None:
  return fields[place] if 0 <= place < len(fields) else None


def _locate(name: str, root: str) -> tuple[str, str]:
  """Returns where a named file is, and why it cannot be read, or ''.

  A name is meant as it stands if there is such a file; else without spaces around it and with
  slashes for backslashes.
  """
  stripped = name.strip()
  if stripped.startswith(names.SCHEME):
    return _from_uri(stripped, root)
  if not files.is_local(stripped):
    return stripped, ''
  slashed = stripped.replace('\\', '/')
  slashed = slashed if files.is_local(slashed) else stripped
  spellings = dict.fromkeys([name, stripped, slashed])
  if len(spellings) > 1:
    found = next((each for each in spellings if _exists(_join(root, each))), '')
    if not found and WINDOWS_DRIVE.match(stripped):
      return stripped, 'a path on Windows; write paths of this machine, or relative to --root'
    return _join(root, found or slashed), ''
  return _join(root, name), ''


def _from_uri(uri: str, root: str) -> tuple[str, str]:
  try:
    return _join(root, names.from_uri(uri)), ''
  except ValueError as error:
    return uri, str(error)


def _exists(uri: str) -> bool:
  try:
    return '\0' not in uri and files.exists(uri)
  except OSError:  # such as a name that is too long for a bucket
    return False


def _join(root: str, name: str) -> str:
  is_absolute = not root or os.path.isabs(name) or not files.is_local(name)
  return name if is_absolute else files.join(root, name)
