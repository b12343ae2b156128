"""Manifests: text files that name one image per line, and CSV files with a column of names."""

import csv
import dataclasses
import os
from collections.abc import Iterator, Sequence

from absl import app

from batch import chunk, flags
from batch.readers import image_files, stream
from batch.readers.base import Planned
from batch.readers.image_files import Entry
from storage import files

FILE_NAME = r'\.(txt|csv)$'
URI_COLUMNS = ('uri', 'path', 'file', 'image')


@dataclasses.dataclass(frozen=True)
class Layout:
  """Column indices of URI, id and label (-1 if absent), and the offset of the first line."""

  uri: int = 0
  id: int = -1
  label: int = -1
  is_csv: bool = False
  begin: int = 0


def plan(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per `chunk_images` lines.

  Raises:
    app.UsageError: the header of a CSV file names no column of URIs.
  """
  shards = []
  for file in matched:
    parts = _split(file.uri, read_layout(file.uri).begin, settings.chunk_images)
    shards += [chunk.Shard(0, 'manifest', file.uri, start, stop, row) for start, stop, row in parts]
  return Planned(shards, None)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.Columns]:
  """Yields the files that a part of a manifest names, after the first `skip`, in chunks."""
  return image_files.read_entries(_entries(shard)[skip:], settings)


def read_layout(uri: str) -> Layout:
  """Returns how to read a manifest.

  A .csv may begin with a header that names `uri` and optionally `label` and `id`.

  Raises:
    app.UsageError: its header names no column of URIs.
  """
  if not uri.lower().endswith('.csv'):
    return Layout()
  source = stream.Stream(uri)
  first = _line(source)
  header = next(csv.reader([first.decode('utf-8-sig', 'replace')]), [])
  names = [name.strip().lower() for name in header]
  place = _column(names, *URI_COLUMNS)
  if place >= 0:
    return Layout(place, _column(names, 'id'), _column(names, 'label'), True, source.offset)
  if {'id', 'label'} & set(names):
    raise app.UsageError(
      f'{uri}: its header has no column {" or ".join(URI_COLUMNS)}, only {", ".join(names)}; '
      'name one'
    )
  return Layout(0, -1, 1, True)


def _column(names: Sequence[str], *candidates: str) -> int:
  return next((names.index(name) for name in candidates if name in names), -1)


def _line(source: stream.Stream) -> bytes:
  line = b''
  while not line.endswith(b'\n') and source.ensure(1):
    end = source.buffer.find(b'\n', source.position) + 1 or len(source.buffer)
    line += source.take(end - source.position)
  return line


def _split(uri: str, begin: int, lines: int) -> list[tuple[int, int, int]]:
  """Returns (start, stop, first_row) of consecutive parts, in bytes, of `lines` nonblank lines."""
  source = stream.Stream(uri, begin)
  parts, start, row, first_row = [], begin, 0, 0
  while line := _line(source):
    row += bool(line.strip())
    if row - first_row == lines:
      parts.append((start, source.offset, first_row))
      start, first_row = source.offset, row
  return [*parts, (start, source.offset, first_row)] if row > first_row else parts


def _entries(shard: chunk.Shard) -> list[Entry]:
  """Returns the files that a part names. A relative path is relative to the manifest."""
  layout = read_layout(shard.uri)
  source = stream.Stream(shard.uri, shard.start, shard.stop)
  entries = []
  while line := _line(source):
    text = line.decode('utf-8', 'replace').strip()
    if text:
      fields = next(csv.reader([text])) if layout.is_csv else [text]
      entries.append(_entry(fields, layout, os.path.dirname(shard.uri)))
  return entries


def _entry(fields: Sequence[str], layout: Layout, home: str) -> Entry:
  uri = _field(fields, layout.uri)
  is_absolute = not home or os.path.isabs(uri) or not files.is_local(uri)
  located = uri if is_absolute else files.join(home, uri)
  return Entry(located, _field(fields, layout.id) or uri, _field(fields, layout.label) or None)


def _field(fields: Sequence[str], place: int) -> str:
  return fields[place].strip() if 0 <= place < len(fields) else ''
