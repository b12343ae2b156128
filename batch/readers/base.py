"""What a format module defines."""

import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from batch import chunk, flags, ranges
from storage import files

# Each row that a file promises and does not have is a reject. If there are more than this, the
# promise is damaged, and one reject stands for all of them.
MAX_MISSING_ROWS = 1_000_000


class Planned(NamedTuple):
  """The shards of the input, not yet numbered.

  Attributes:
    shards: to be gone through once.
    images: their number, or None if only reading tells.
    passed_over: what planning left out, by kind, as in `chunk.ReadImages`.
  """

  shards: Iterable[chunk.Shard]
  images: int | None
  passed_over: Mapping[str, int] = types.MappingProxyType({})


class Reader(Protocol):
  """A format module.

  Attributes:
    FILE_NAME: a regular expression that finds the format in a lower-case file name.
  """

  FILE_NAME: str

  def plan(self, matched: Collection[files.File], settings: flags.Settings) -> Planned:
    """Returns the shards of the files.

    Raises:
      app.UsageError: a file is not of the format, or lacks what the settings name.
    """

  def survey(
    self, shard: chunk.Shard, settings: flags.Settings, begin: int = -1
  ) -> Iterator[ranges.Survey]:
    """Yields what is in a range of a file; only of a format whose shards may be ranges.

    Args:
      shard: the range.
      settings: the scorer's.
      begin: where the first thing in it begins, if that is known.
    """

  def read(
    self, shard: chunk.Shard, skip: int, settings: flags.Settings
  ) -> Iterator[chunk.ReadImages]:
    """Yields the images of a shard after its first `skip`, rejects counted, in chunks."""
