"""The shards of a run, in its output: each worker reads those that it works on.

Otherwise Beam's graph would contain all of them, and the names of all image files: 10 MB are too
many for Dataflow, and that is 200,000 names.
"""

import dataclasses
import io
import itertools
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


def store(shards: Sequence[chunk.Shard], output: str) -> list[Block]:
  """Writes the list and returns what it consists of: single shards, unless they are very many.

  A resumed run has the same shards, and finds the list of the run that it resumes.
  """
  home, lines, ends = files.join(output, NAME), io.BytesIO(), [0]
  step = -(-len(shards) // MAX_BLOCKS)
  for number, shard in enumerate(shards, 1):
    lines.write(json.dumps(_to_json(shard)).encode() + b'\n')
    if number % step == 0 or number == len(shards):
      ends.append(lines.tell())
  if not files.exists(home):
    files.write(home, lines.getvalue())
  return [Block(home, start, stop) for start, stop in itertools.pairwise(ends)]


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
