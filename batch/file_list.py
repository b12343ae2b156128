"""The shards of a run, in its output: each worker reads those that it works on.

Otherwise Beam's graph would contain all of them, and the names of all image files: 10 MB are too
many for Dataflow, and that is 200,000 names.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batch import chunk
from storage import files

NAME = 'files.jsonl'  # in the output: a line per shard
MAX_BLOCKS = 4096  # and with them Beam's graph stays below a megabyte


class Block(NamedTuple):
  """Consecutive lines of a list of shards: bytes `start` to `stop`."""

  uri: str
  start: int
  stop: int


def store(shards: Sequence[chunk.Shard], left: Sequence[chunk.Shard], output: str) -> list[Block]:
  """Writes the list of all shards, and returns where those are that are left to do.

  A block is a single shard, unless there are very many; then shards that are done may be between
  others. A resumed run has the same shards, and finds the list of the run that it resumes.
  """
  home, lines = files.join(output, NAME), io.BytesIO()
  places: dict[int, tuple[int, int]] = {}
  for shard in shards:
    start = lines.tell()
    lines.write(json.dumps(_to_json(shard)).encode() + b'\n')
    places[shard.number] = start, lines.tell()
  if not files.exists(home):
    files.write(home, lines.getvalue())
  step = max(-(-len(left) // MAX_BLOCKS), 1)
  groups = [left[first : first + step] for first in range(0, len(left), step)]
  return [Block(home, places[some[0].number][0], places[some[-1].number][1]) for some in groups]


def read(block: Block) -> Iterator[chunk.Shard]:
  """Yields the shards of a block."""
  with files.open_bytes(block.uri) as file:
    file.seek(block.start)
    lines = file.read(block.stop - block.start).splitlines()
  for line in lines:
    yield chunk.Shard(**json.loads(line))


def _to_json(shard: chunk.Shard) -> dict[str, object]:
  """Returns the fields that are not their defaults."""
  return {
    field.name: value
    for field in dataclasses.fields(shard)
    if (value := getattr(shard, field.name)) != field.default
  }
