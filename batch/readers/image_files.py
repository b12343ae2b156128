"""Image files, a file per image."""

import concurrent.futures
import errno
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from batch import chunk, cutting, flags
from batch.readers import sniff, stream
from batch.readers.base import Planned
from storage import files
from storage.spool import Spool

FILE_NAME = sniff.FILE_NAME
LOCAL_THREADS = 8
CLOUD_THREADS = 32  # at 30 ms a request, 32 read 2.5 times as much as 8; 64 no more
SLICE_FILES = 16  # read in a row by one thread; with fewer, passing them on costs more than reading
FIRST_FILES = 4  # how large files are is known after these
MAX_FILE_BYTES = 256 << 20  # a larger file is rejected before it fills a worker's memory


MAX_PENDING = 1000  # files that are handed to the threads at a time


class Entry(NamedTuple):
  """A file to read, its id, and its label if that is known.

  Attributes:
    problem: why it cannot be read, if that is known beforehand.
    carried: values of the columns to carry.
    place: what to name in a reject's reason, if the id does not tell where the file is.
  """

  uri: str
  id: str
  label: str | None = None
  problem: str = ''
  carried: tuple[str | None, ...] = ()
  place: str = ''


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per `chunk_images` files, or fewer if they are large."""
  max_bytes = cutting.shard_bytes(sum(file.size for file in matched))
  groups = cutting.cut(matched, settings.chunk_images, max_bytes)
  return Planned(map(_shard, groups), len(matched))


def _shard(group: Sequence[files.File]) -> chunk.Shard:
  return chunk.Shard(0, 'image', group[0].uri, uris=tuple(file.uri for file in group))


def holding_images(
  found: Iterable[files.File],
) -> tuple[Spool[files.File], Spool[files.File]]:
  """Returns the files that begin as an image does, and those that cannot be opened."""
  images, unclear = Spool[files.File](), Spool[files.File]()
  candidates = iter(found)
  with concurrent.futures.ThreadPoolExecutor(CLOUD_THREADS) as pool:
    while some := list(itertools.islice(candidates, MAX_PENDING)):
      for file, holds in zip(some, pool.map(holds_image, (file.uri for file in some))):
        if holds is not False:
          (unclear if holds is None else images).append(file)
  return images, unclear


def holds_image(uri: str) -> bool | None:
  """Returns whether a file begins as an image does, or None if it cannot be opened."""
  try:
    with files.open_bytes(uri) as opened:
      return sniff.is_image(opened.read(sniff.HEAD_BYTES))
  except (FileNotFoundError, PermissionError):
    return None
  except OSError as error:
    if error.errno == errno.ELOOP:
      return None
    raise


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the files of a shard after the first `skip`, in chunks. An id is the file's URI."""
  entries = [Entry(uri, uri, _label(uri, settings.label_from)) for uri in shard.uris]
  return read_entries(entries[skip:], settings)


def _label(uri: str, label_from: str) -> str | None:
  return os.path.basename(os.path.dirname(uri)) if label_from == 'directory' else None


def read_entries(
  entries: Sequence[Entry], settings: flags.Settings, carry: Sequence[str] = ()
) -> Iterator[chunk.ReadImages]:
  """Yields the contents of files in the order of `entries`, in chunks.

  Args:
    entries: the files.
    settings: the scorer's.
    carry: names of the columns that the entries carry.

  Raises:
    files.Unavailable: a disk or Cloud Storage failed; other errors reject the one file.
  """
  contents = zip(entries, read_contents(entries, settings.read_threads))
  for items in stream.batch_by_size(contents, _num_bytes, settings.chunk_images):
    good = [(entry, content) for entry, content in items if isinstance(content, bytes)]
    yield chunk.ReadImages(
      ids=[entry.id for entry, _ in good],
      encoded=[content for _, content in good],
      labels=[entry.label for entry, _ in good],
      carried=_carried([entry for entry, _ in good], carry),
      rejects=[
        chunk.Reject(entry.id, 'read', content)
        for entry, content in items
        if isinstance(content, str)
      ],
    )


def _carried(entries: Sequence[Entry], names: Sequence[str]) -> pa.Table | None:
  if not names:
    return None
  return pa.table(
    {
      name: pa.array([_utf8(entry.carried[place]) for entry in entries], pa.string())
      for place, name in enumerate(names)
    }
  )


def _utf8(value: str | None) -> str | None:
  return value and value.encode('utf-8', 'replace').decode()


def _default_threads(entries: Sequence[Entry]) -> int:
  return LOCAL_THREADS if all(files.is_local(entry.uri) for entry in entries) else CLOUD_THREADS


def _num_bytes(item: tuple[Entry, bytes | str]) -> int:
  return len(item[1])


def read_contents(entries: Sequence[Entry], threads: int = 0) -> Iterator[bytes | str]:
  """Yields the content of each file in order, or why it cannot be read.

  Threads read a round of files at a time: as many as make a chunk, to judge by the round before,
  and at most CHUNK_BYTES and a file per thread if they turn out to be larger.

  Args:
    entries: the files.
    threads: their number; 0 chooses by where the files are.

  Raises:
    files.Unavailable: a disk or Cloud Storage failed; other errors reject the one file.
  """
  threads = threads or _default_threads(entries)
  share, count = stream.CHUNK_BYTES // threads, FIRST_FILES
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    while entries:
      some, entries, held = entries[:count], entries[count:], 0
      step = -(-len(some) // threads)
      slices = [some[first : first + step] for first in range(0, len(some), step)]
      for left, contents in zip(slices, pool.map(_read_some, slices, itertools.repeat(share))):
        while True:
          held += sum(map(len, contents))
          yield from contents
          left = left[len(contents) :]
          if not left:
            break
          contents = _read_some(left, share)
      fitting = stream.CHUNK_BYTES * len(some) // max(held, 1)
      count = min(max(fitting, 1), threads * SLICE_FILES)


def _read_some(entries: Sequence[Entry], max_bytes: int) -> list[bytes | str]:
  """Returns the first contents, up to the one with which they are `max_bytes`."""
  contents: list[bytes | str] = []
  held = 0
  for entry in entries:
    contents.append(entry.problem or _read_one(entry))
    held += len(contents[-1])
    if held >= max_bytes:
      break
  return contents


def _read_one(entry: Entry) -> bytes | str:
  """Returns the content, or why it cannot be read.

  Raises:
    files.Unavailable: there was no answer, or the permission to read the bucket is gone.
  """
  try:
    return files.read(entry.uri, MAX_FILE_BYTES)
  except (files.Unavailable, MemoryError):
    raise
  except Exception as error:  # any other error of a file system rejects this file only
    if isinstance(error, PermissionError) and not files.may_read(entry.uri):
      raise files.Unavailable(str(error)) from error
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
      # Without the path, so that the same reasons are counted together.
      return f'{kind}: {error.strerror}{entry.place and f" at {entry.place}"}'
    return f'{kind}: {(str(error).splitlines() or [""])[0]}'
