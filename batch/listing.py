"""Image files, and manifests that name them."""

import concurrent.futures
import csv
import dataclasses
import os
from collections.abc import Iterator, Sequence

from absl import app

from batch import chunk, stream
from storage import files

LOCAL_THREADS, CLOUD_THREADS = (
  8,
  32,
)  # at 30 ms an answer, 32 read 2.5 times as much as 8; 64 no more
SLICE = 16  # files that one thread reads in a row: fewer, and handing them over costs more than reading does
MAX_FILE_BYTES = (
  256 << 20
)  # an image file larger than this is refused before it fills a worker's memory
URI_NAMES = ('uri', 'path', 'file', 'image')


@dataclasses.dataclass(frozen=True)
class Entry:
  """A file to read, the id it goes by, and its label where one is known."""

  uri: str
  id: str
  label: str | None = None


def image_entries(shard: chunk.Shard, label_from: str) -> list[Entry]:
  """The files of a shard; an id is the path."""
  label = lambda uri: os.path.basename(os.path.dirname(uri)) if label_from == 'directory' else None
  return [Entry(uri, uri, label(uri)) for uri in shard.uris]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where a manifest's lines hold what: the places of the URI, id and label, -1 for none; and where the lines begin."""

  uri: int = 0
  id: int = -1
  label: int = -1
  is_csv: bool = False
  begin: int = 0


def manifest_layout(uri: str) -> Layout:
  """How to read a manifest. A .csv may begin with a header naming uri, and label and id where it has them.

  Raises:
    app.UsageError: its header names no column of URIs.
  """
  if not uri.lower().endswith('.csv'):
    return Layout()
  source = stream.Stream(uri)
  first = _line(source)
  names = [
    name.strip().lower() for name in next(csv.reader([first.decode('utf-8-sig', 'replace')]), [])
  ]
  place = lambda *wanted: next((names.index(name) for name in wanted if name in names), -1)
  if place(*URI_NAMES) >= 0:
    return Layout(place(*URI_NAMES), place('id'), place('label'), True, source.offset)
  if {'id', 'label'} & set(names):
    raise app.UsageError(
      f'{uri}: its header has no column {" or ".join(URI_NAMES)}, only {", ".join(names)}; name one'
    )
  return Layout(0, -1, 1, True)


def _line(source: stream.Stream) -> bytes:
  line = b''
  while not line.endswith(b'\n') and source.have(1):
    end = source.buffer.find(b'\n', source.position) + 1 or len(source.buffer)
    line += source.take(end - source.position)
  return line


def split_manifest(uri: str, begin: int, lines: int) -> list[tuple[int, int, int]]:
  """(start, stop, first_row) of consecutive parts, in bytes, each of `lines` lines that are not blank."""
  source = stream.Stream(uri, begin)
  parts, start, row, first_row = [], begin, 0, 0
  while line := _line(source):
    row += bool(line.strip())
    if row - first_row == lines:
      parts.append((start, source.offset, first_row))
      start, first_row = source.offset, row
  return [*parts, (start, source.offset, first_row)] if row > first_row else parts


def manifest_entries(shard: chunk.Shard) -> list[Entry]:
  """The files that a part of a manifest names. A relative path is relative to the manifest; an id is the URI."""
  layout = manifest_layout(shard.uri)
  source = stream.Stream(shard.uri, shard.start, shard.stop)
  entries = []
  while line := _line(source):
    text = line.decode('utf-8', 'replace').strip()
    if text:
      fields = next(csv.reader([text])) if layout.is_csv else [text]
      entries.append(_entry(fields, layout, os.path.dirname(shard.uri)))
  return entries


def _entry(fields: list[str], layout: Layout, home: str) -> Entry:
  field = lambda place: fields[place].strip() if 0 <= place < len(fields) else ''
  uri = field(layout.uri)
  located = (
    uri if not home or os.path.isabs(uri) or not files.is_local(uri) else files.join(home, uri)
  )
  return Entry(located, field(layout.id) or uri, field(layout.label) or None)


def read(entries: Sequence[Entry], threads: int, chunk_images: int) -> Iterator[chunk.ReadImages]:
  """The files' contents in the order of `entries`, in chunks; `threads` are read at the same time, 0 for enough."""
  if not threads:
    threads = (
      LOCAL_THREADS if all(files.is_local(entry.uri) for entry in entries) else CLOUD_THREADS
    )
  for items in stream.cut(_contents(entries, threads), lambda item: len(item[1]), chunk_images):
    good = [(entry, content) for entry, content in items if isinstance(content, bytes)]
    yield chunk.ReadImages(
      ids=[entry.id for entry, _ in good],
      encoded=[content for _, content in good],
      labels=[entry.label for entry, _ in good],
      rejects=[
        chunk.Reject(entry.id, 'read', text) for entry, text in items if isinstance(text, str)
      ],
    )


def _contents(entries: Sequence[Entry], threads: int) -> Iterator[tuple[Entry, bytes | str]]:
  slices = [entries[first : first + SLICE] for first in range(0, len(entries), SLICE)]
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for first in range(
      0, len(slices), threads
    ):  # no more is held than the chunk and one round of the threads
      for contents in pool.map(_read_slice, slices[first : first + threads]):
        yield from contents


def _read_slice(entries: Sequence[Entry]) -> list[tuple[Entry, bytes | str]]:
  return [(entry, _read_one(entry.uri)) for entry in entries]


def _read_one(uri: str) -> bytes | str:
  """The content, or why there is none."""
  try:
    return files.read(uri, MAX_FILE_BYTES)
  except Exception as error:  # whatever a file system raises costs this file only
    return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
