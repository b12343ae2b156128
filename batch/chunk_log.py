"""The log of a run: a file for each chunk that is complete, until it is in a part of the output.

  chunks/00017/000003-4096-4090-9f3a02c1.arrow       chunks/SHARD/CHUNK-SEEN-SCORED-COLUMNS.arrow
  chunks/00017/000004-1200-1200-9f3a02c1-last.arrow  the shard ends with it

A file has the chunk's predictions, its rejects and what was counted in it, and appears in one step.
Its name tells what a resumed run has to know, so that one listing is enough. A runner may repeat a
chunk at any time: the same file is written again.
"""

import concurrent.futures
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from batch import chunk, stats
from storage import files

FOLDER = 'chunks'
NAME = re.compile(r'(\d{5,})/(\d{6,})-(\d+)-(\d+)-([0-9a-f]{8})(-last)?\.arrow')
COMPRESSION = pa.ipc.IpcWriteOptions(compression='lz4')
READ_THREADS = 16


class Entry(NamedTuple):
  """What the log's listing tells of a chunk.

  Attributes:
    name: of its file, in the log's folder.
    seen: number of its images and rejects.
    scored: number of its images.
    columns: equal for two chunks only if their predictions have the same columns.
    num_bytes: size of the file.
  """

  place: chunk.Place
  name: str
  seen: int
  scored: int
  columns: str
  num_bytes: int


class Content(NamedTuple):
  """What the log has of a chunk: one row per image, a line of JSON per reject, and the counts."""

  predictions: pa.Table
  rejects: bytes
  counts: stats.Stats


def write(output: str, place: chunk.Place, content: Content) -> None:
  """Writes a chunk, which is complete then."""
  schema = content.predictions.schema
  counts = json.dumps(content.counts.to_json(), ensure_ascii=False)
  table = content.predictions.replace_schema_metadata(
    {'counts': counts, 'rejects': content.rejects}
  )
  buffer = pa.BufferOutputStream()
  with pa.ipc.new_file(buffer, table.schema, options=COMPRESSION) as writer:
    writer.write_table(table)
  name = (
    f'{place.sequence:06d}-{content.counts.images_seen}-{len(table)}-{_digest(schema)}'
    f'{"-last" if place.is_last else ""}.arrow'
  )
  files.write(files.join(_folder(output, place.shard), name), buffer.getvalue().to_pybytes())


def _digest(schema: pa.Schema) -> str:
  columns = repr([(field.name, str(field.type)) for field in schema])
  return hashlib.sha256(columns.encode()).hexdigest()[:8]


def _folder(output: str, shard: int) -> str:
  return files.join(output, FOLDER, f'{shard:05d}')


def read(output: str, names: Sequence[str]) -> Iterator[Content]:
  """Yields the contents of chunks, some of which are read ahead."""
  uris = [files.join(output, FOLDER, name) for name in names]
  with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as pool:
    for first in range(0, len(uris), READ_THREADS):
      yield from map(_parse, pool.map(files.read, uris[first : first + READ_THREADS]))


def _parse(content: bytes) -> Content:
  table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
  found = table.schema.metadata
  counts = stats.Stats.from_json(json.loads(found[b'counts']))
  return Content(table.replace_schema_metadata(), found[b'rejects'], counts)


def remove(output: str, names: Sequence[str]) -> None:
  """Deletes chunks."""
  files.remove(files.join(output, FOLDER, name) for name in names)


def complete(output: str) -> dict[int, list[Entry]]:
  """Returns the chunks of each shard, from its first to the one before a gap."""
  return parse(files.list_files(files.join(output, FOLDER)))


def complete_in(output: str, shard: int) -> list[Entry]:
  """Returns the chunks of one shard, from its first to the one before a gap."""
  return parse(files.list_files(_folder(output, shard))).get(shard, [])


def parse(found: Iterable[files.File]) -> dict[int, list[Entry]]:
  """Returns the chunks that a listing shows, by shard; each shard's up to a gap."""
  entries = sorted(entry for file in found if (entry := entry_of(file)))
  shards = itertools.groupby(entries, _shard)
  return {shard: list(_up_to_gap(some)) for shard, some in shards}


def entry_of(file: files.File) -> Entry | None:
  """Returns what a file's name tells of its chunk, or None if it is not of the log."""
  name = '/'.join(file.uri.rsplit('/', 2)[-2:])
  if not (match := NAME.fullmatch(name)):
    return None
  shard, sequence, seen, scored = map(int, match.groups()[:4])
  place = chunk.Place(shard, sequence, bool(match[6]))
  return Entry(place, name, seen, scored, match[5], file.size)


def _shard(entry: Entry) -> int:
  return entry.place.shard


def _up_to_gap(entries: Iterable[Entry]) -> Iterator[Entry]:
  """Yields the entries numbered 0, 1 and so on; of two of a number the first.

  A chunk that was repeated has two if its input changed meanwhile. All that read the log take the
  same one.
  """
  expected = 0
  for entry in entries:
    if entry.place.sequence == expected:
      yield entry
      expected += 1


def is_complete(entries: Sequence[Entry]) -> bool:
  """Returns whether a shard's chunks are all that it has."""
  return bool(entries) and entries[-1].place.is_last
