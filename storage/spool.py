"""Sequences that are too long for memory."""

import collections
import heapq
import itertools
import pickle
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from storage.base import File, Unavailable

Item = TypeVar('Item')
BLOCK_ITEMS = 1000
RUN_ITEMS = 100_000  # that are sorted at once: 20 MB
MAX_RUNS = 100  # a run is an open file, of which a process may have 1,024


class Spool(Collection[Item]):
  """Items in a temporary file, which is deleted with this; fewer than a block are in memory."""

  def __init__(self, items: Iterable[Item] = (), block: int = BLOCK_ITEMS):
    """Appends the items.

    Args:
      items: the first ones.
      block: number of items that are in memory at a time.
    """
    self._block = block
    self._file: Any = None
    self._size = 0  # of the file
    self._last: list[Item] = []  # not yet in the file
    self._len = 0
    self.extend(items)

  def extend(self, items: Iterable[Item]) -> None:
    """Appends items."""
    for item in items:
      self.append(item)

  def append(self, item: Item) -> None:
    """Appends one item."""
    self._last.append(item)
    self._len += 1
    if len(self._last) == self._block:
      self._store()

  def _store(self) -> None:
    try:
      self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this
      self._file.seek(self._size)
      pickle.dump(self._last, self._file, pickle.HIGHEST_PROTOCOL)
      self._file.flush()  # a full disk is said here
    except OSError as error:
      error.filename = tempfile.gettempdir()  # of which not every error tells
      raise Unavailable(
        f'{tempfile.gettempdir()}: no temporary file can be written there ({error.strerror}); make '
        'room, or set TMPDIR to another directory'
      ) from error
    self._size, self._last = self._file.tell(), []

  def __len__(self) -> int:
    return self._len

  def __iter__(self) -> Iterator[Item]:
    place = 0
    while place < self._size:
      self._file.seek(place)
      block = pickle.load(self._file)  # noqa: S301 - nobody else can write it
      place = self._file.tell()
      yield from block
    yield from self._last

  def __contains__(self, item: object) -> bool:
    return any(each == item for each in self)


def ordered(items: Iterable[Any]) -> Iterator[Any]:
  """Yields the items sorted."""
  items = iter(items)
  levels = collections.defaultdict[int, list[Spool[Any]]](list)
  while run := sorted(itertools.islice(items, RUN_ITEMS)):
    merged, level = Spool(run), 0
    while len(levels[level]) == MAX_RUNS - 1:
      merged = Spool(heapq.merge(*levels.pop(level), merged))
      level += 1
    levels[level].append(merged)
  return heapq.merge(*itertools.chain.from_iterable(levels.values()))


def in_order(found: Iterable[File]) -> Spool[File]:
  """Returns files sorted by name, each once."""
  return Spool(next(same) for _, same in itertools.groupby(ordered(found), key=_uri))


def _uri(file: File) -> str:
  return file.uri
