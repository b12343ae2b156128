"""How many images, and of how many bytes, make a shard: the unit that a worker takes.

This depends on the input only, not on the number of workers, so that a run resumed elsewhere cuts
the input in the same way.
"""

from collections.abc import Iterable, Iterator

from storage import files

# Eight shards for each of 64 workers keep all of them busy to the end, if there is enough to do.
SHARDS = 512
MIN_SHARD_BYTES = 8 << 20  # about ten photos; fewer would cost more to hand out than they gain
MAX_SHARD_BYTES = 256 << 20
# A manifest does not tell how large its files are. They may be photos, so it is cut into so many
# shards, but not into ones that are smaller than this.
MANIFEST_SHARDS = 64
MIN_MANIFEST_ROWS = 32


def shard_bytes(total_bytes: int) -> int:
  """Returns how many bytes of files a shard has at most, unless it is a single file."""
  return min(max(total_bytes // SHARDS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)


def ranges(size: int, total_bytes: int) -> list[tuple[int, int]]:
  """Returns (start, stop) of equal parts of a file; the stop of the last one is -1, the end.

  There are several only in a file that has far more than its share of all bytes: what its parts
  have in them is found out by reading it once more, of which many files need nothing.
  """
  count = max(size // max(total_bytes // SHARDS, MIN_SHARD_BYTES), 1)
  step = -(-size // count)
  starts = range(0, size, step) if count > 1 else [0]
  return [(start, start + step if start + step < size else -1) for start in starts]


def manifest_rows(rows: int, unit: int, max_rows: int) -> int:
  """Returns how many rows of a manifest a shard has: a multiple of `unit`, at most `max_rows`."""
  even = -(-rows // (MANIFEST_SHARDS * unit))
  return max(min(even, max_rows // unit), 1) * unit


def cut(found: Iterable[files.File], max_items: int, max_bytes: int) -> Iterator[list[files.File]]:
  """Yields consecutive files, at most so many and, unless it is a single one, of so many bytes."""
  some: list[files.File] = []
  held = 0
  for file in found:
    if some and (len(some) == max_items or held + file.size > max_bytes):
      yield some
      some, held = [], 0
    some.append(file)
    held += file.size
  if some:
    yield some
