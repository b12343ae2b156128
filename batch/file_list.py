"""The shards of a run, in its output: each worker reads those that it works on.

Otherwise Beam's graph would contain all of them, and the names of all image files: 10 MB are too
many for Dataflow, and that is 200,000 names.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
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


def store(shards: Iterable[chunk.Shard], left: Sequence[int], output: str) -> list[Block]:
  """Writes the list of all shards, and returns where those are whose numbers are in `left`.

  A block is a single shard, unless there are very many; then shards that are done may be between
  others. A resumed run has the same shards, and finds the list of the run that it resumes.
  """
  home, ends = files.join(output, NAME), [0]
  with open(os.devnull, 'wb') if files.exists(home) else files.writing(home) as file:
    for shard in shards:
      ends.append(ends[-1] + file.write(json.dumps(_to_json(shard)).encode() + b'\n'))
  step = max(-(-len(left) // MAX_BLOCKS), 1)
  groups = [left[first : first + step] for first in range(0, len(left), step)]
  return [Block(home, ends[some[0]], ends[some[-1] + 1]) for some in groups]


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
