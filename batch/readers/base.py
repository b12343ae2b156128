"""What a format module defines."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from batch import chunk, flags
from storage import files


class Planned(NamedTuple):
  """The shards of the input, not yet numbered, and the number of their images, None if unknown."""

  shards: list[chunk.Shard]
  images: int | None


class Reader(Protocol):
  """A format module.

  Attributes:
    FILE_NAME: a regular expression that finds the format in a lower-case file name.
  """

  FILE_NAME: str

  def plan(self, matched: Sequence[files.File], settings: flags.Settings) -> Planned:
    """Returns the shards of the files.

    Raises:
      app.UsageError: a file is not of the format, or lacks what the settings name.
    """

  def read(
    self, shard: chunk.Shard, skip: int, settings: flags.Settings
  ) -> Iterator[chunk.Columns]:
    """Yields the images of a shard after its first `skip`, rejects counted, in chunks."""
