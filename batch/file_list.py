"""The names of an input's image files, in the output: each worker reads those of its shards.

Otherwise Beam's graph would contain all of them; 10 MB are too many for Dataflow, and that is
200,000 names.
"""

import dataclasses
import json
from collections.abc import Sequence

from batch import chunk
from storage import files

NAME = 'files.jsonl'  # in the output: a line per shard, a JSON array of its files


def store(shards: Sequence[chunk.Shard], output: str) -> list[chunk.Shard]:
  """Writes what image files the shards consist of, and returns the shards without these names.

  A resumed run has the same files, and finds the list of the run that it resumes.
  """
  if not any(_has_names(shard) for shard in shards):
    return list(shards)
  home, lines, stop = files.join(output, NAME), [], 0
  stored = []
  for shard in shards:
    if _has_names(shard):
      lines.append(json.dumps(list(shard.uris)).encode() + b'\n')
      start, stop = stop, stop + len(lines[-1])
      shard = dataclasses.replace(shard, uri=home, uris=(), start=start, stop=stop)
    stored.append(shard)
  if not files.exists(home):
    files.write(home, b''.join(lines))
  return stored


def names(shard: chunk.Shard) -> list[str]:
  """Returns the files of a shard."""
  if shard.uris:
    return list(shard.uris)
  with files.open_bytes(shard.uri) as file:
    file.seek(shard.start)
    return json.loads(file.read(shard.stop - shard.start))


def _has_names(shard: chunk.Shard) -> bool:
  return shard.format == 'image'
