"""Readers without a command line: their settings, and all that a plan reads."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from batch import chunk, flags, ranges, source
from storage import local

DEFAULTS: dict[str, Any] = {
  'model': '',
  'output': '',
  'output_format': 'parquet',
  'preprocess': 'auto',
  'background': 'auto',
  'precision': 'auto',
  'max_pixels': 10**6,
  'chunk_images': 4096,
  'rows_per_file': 1_000_000,
  'batch_images': 0,
  'read_threads': 0,
  'top_k': 0,
  'label_from': 'none',
  'image_column': '',
  'id_column': '',
  'label_column': '',
  'label_map': '',
  'label_offset': 0,
  'carry': (),
  'root': '',
}


def settings(**changes: Any) -> flags.Settings:
  """Returns the default settings with some changed."""
  return flags.Settings(**{**DEFAULTS, **changes})


def placed(shards: Sequence[chunk.Shard], with_settings: flags.Settings) -> list[chunk.Shard]:
  """Returns the shards as workers read them: ranges with what is in them."""
  surveys = [source.survey(shard, with_settings) for shard in shards if shard.is_range]
  places = source.join(itertools.chain.from_iterable(surveys), with_settings)
  return [ranges.place(shard, places) for shard in shards]


def in_ranges(path: pathlib.Path, kind: str, step: int) -> list[chunk.Shard]:
  """Returns shards of a file that is not compressed, each of about `step` bytes."""
  size = path.stat().st_size
  shards = [
    chunk.Shard(
      0, kind, str(path), start, start + step if start + step < size else -1, is_range=True
    )
    for start in range(0, size, step)
  ]
  return placed(shards, settings())


@dataclasses.dataclass
class Found:
  """A plan and all that its shards yield, together."""

  plan: source.Plan
  chunks: list[chunk.ReadImages]
  ids: list[str]
  encoded: list[bytes]
  labels: list[Any]
  rejects: list[chunk.Reject]

  def seen(self) -> int:
    """Returns the number of images and rejects."""
    return len(self.ids) + len(self.rejects)


def read_all(path: pathlib.Path | str, kind: str = 'auto', **changes: Any) -> Found:
  """Plans and reads an input, and checks that a run resumed early on reads the same."""
  with_changes = settings(**changes)
  plan = source.plan([str(path)], kind, with_changes)
  chunks = []
  for shard in placed(plan.shards, with_changes):
    found = list(source.read(shard, 0, with_changes))
    chunks += found
    skip = 0
    for number, part in enumerate(found[:20]):
      skip += len(part.ids) + len(part.rejects)
      # Chunks without an image are not among those that a reader skips.
      rest = list(source.read(shard, skip, with_changes))[0 if skip else number + 1 :]
      assert [each.ids for each in rest] == [each.ids for each in found[number + 1 :]]
      assert [each.rejects for each in rest] == [each.rejects for each in found[number + 1 :]]
  return Found(
    plan,
    chunks,
    [name for part in chunks for name in part.ids],
    [image for part in chunks for image in part.encoded or []],
    [label for part in chunks for label in part.labels or [None] * len(part.ids)],
    [reject for part in chunks for reject in part.rejects],
  )


def count_reads(patch: pytest.MonkeyPatch) -> list[int]:
  """Returns a list that receives the size of each read of a local file from now on."""
  sizes: list[int] = []
  read = local._Reader.readinto

  def counted(file: local._Reader, buffer) -> int:
    sizes.append(read(file, buffer))
    return sizes[-1]

  patch.setattr(local._Reader, 'readinto', counted)
  return sizes
