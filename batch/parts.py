"""The parts of the output: which chunks make each file of predictions, and the files.

As soon as all chunks are complete, parts.json records which chunks are in which part: this depends
on the chunks alone, and is never decided again. Then each part is written by one worker, in this
order: rejects/NAME, if it has any; predictions/NAME, by one of the `writers`; and counts/NAME.json,
which marks the part as complete. Its chunks are deleted then. So predictions/ never has an image
twice, and a part that is written again has the same bytes.
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from absl import app

from batch import chunk_log, stats, writers
from storage import files

PLAN = 'parts.json'
PREDICTIONS, REJECTS, COUNTS = 'predictions', 'rejects', 'counts'
MAX_BYTES = 128 << 20  # of a part's chunks; its file of predictions has about as many


class Part(NamedTuple):
  """A part's name, and those of its chunks, in the order of the input."""

  name: str
  chunks: tuple[str, ...]


def plan(output: str, num_shards: int, images: int) -> list[Part]:
  """Returns the parts, as they were recorded, or records them.

  Two workers that do this at the same time record the same.

  Args:
    output: the directory.
    num_shards: how many shards the input has. Each has a chunk, if an empty one.
    images: number of images in a part, about: parts consist of whole chunks and are of equal size.

  Raises:
    files.Unavailable: the listing of the chunks lacks some.
  """
  with contextlib.suppress(FileNotFoundError):
    return recorded(output)
  parts = _named(_cut(_complete(output, num_shards), images))
  text = json.dumps([part._asdict() for part in parts], indent=0)
  files.write(files.join(output, PLAN), text + '\n')
  return parts


def recorded(output: str) -> list[Part]:
  """Returns the parts that are recorded.

  Raises:
    FileNotFoundError: none are.
  """
  rows = json.loads(files.read(files.join(output, PLAN)))
  return [Part(row['name'], tuple(row['chunks'])) for row in rows]


def is_recorded(output: str) -> bool:
  """Returns whether the parts are decided: then all chunks were complete."""
  return files.exists(files.join(output, PLAN))


def clear(output: str) -> None:
  """Removes the plan and all parts, the marks of completion first."""
  files.remove([files.join(output, PLAN)])
  for folder in (COUNTS, PREDICTIONS, REJECTS):
    files.remove_folder(files.join(output, folder))


def _complete(output: str, num_shards: int) -> list[chunk_log.Entry]:
  """Returns all chunks, in the order of the input."""
  shards = chunk_log.complete(output)
  lacking = [n for n in range(num_shards) if not chunk_log.is_complete(shards.get(n, []))]
  if lacking:
    raise files.Unavailable(
      f'{output}/{chunk_log.FOLDER}: does not show all chunks of {len(lacking)} of {num_shards} '
      f'shards, the first of them {lacking[0]:05d}; try again with --resume'
    )
  return [entry for number in range(num_shards) for entry in shards[number]]


def _cut(entries: Sequence[chunk_log.Entry], images: int) -> Iterator[list[chunk_log.Entry]]:
  """Yields the chunks of each part: consecutive ones with the same columns."""
  for run in _runs(entries):
    # Sizes in units of which a whole part has images * MAX_BYTES: a part is full of either.
    sizes = [max(entry.seen * MAX_BYTES, entry.num_bytes * images) for entry in run]
    total = sum(sizes)
    count = -(-total // (images * MAX_BYTES))
    starts = itertools.accumulate(sizes, initial=0)
    places = [start * count // total for start in starts]
    for _, some in itertools.groupby(zip(places, run), _place):
      yield [entry for _, entry in some]


def _place(pair: tuple[int, chunk_log.Entry]) -> int:
  return pair[0]


def _runs(entries: Iterable[chunk_log.Entry]) -> Iterator[list[chunk_log.Entry]]:
  """Yields consecutive chunks of the same columns. One without predictions goes with any."""
  run: list[chunk_log.Entry] = []
  columns = ''
  for entry in entries:
    if entry.scored:
      if columns and entry.columns != columns:
        yield run
        run = []
      columns = entry.columns
    run.append(entry)
  if run:
    yield run


def _named(groups: Iterable[Sequence[chunk_log.Entry]]) -> list[Part]:
  held = list(groups)
  return [
    Part(f'part-{number:05d}-of-{len(held):05d}', tuple(entry.name for entry in group))
    for number, group in enumerate(held)
  ]


def check(output: str, found: Iterable[files.File], output_format: str) -> None:
  """Checks that each recorded part is there, or what it is made of.

  Raises:
    app.UsageError: something is missing.
  """
  prefix = files.join(output, '')
  there = {file.uri.removeprefix(prefix) for file in found}
  for part in recorded(output):
    needed = [f'{chunk_log.FOLDER}/{name}' for name in part.chunks]
    if f'{COUNTS}/{part.name}.json' in there:
      needed = [f'{PREDICTIONS}/{part.name}.{output_format}']
    for name in needed:
      if name not in there:
        raise app.UsageError(
          f'--output={output}: {name} was removed since; pass another --output, or --overwrite to '
          'score again'
        )


def write(part: Part, output: str, output_format: str, num_classes: int) -> stats.Stats:
  """Writes a part, unless it is complete, and deletes its chunks; returns what was counted in it.

  Memory holds some chunks, not a part.
  """
  counts_uri = files.join(output, COUNTS, f'{part.name}.json')
  with contextlib.suppress(FileNotFoundError):
    return stats.Stats.from_json(json.loads(files.read(counts_uri)))
  total = _write_files(part, output, output_format, num_classes)
  files.write(counts_uri, json.dumps(total.to_json(), ensure_ascii=False) + '\n')
  chunk_log.remove(output, part.chunks)
  return total


def _write_files(part: Part, output: str, output_format: str, num_classes: int) -> stats.Stats:
  total = stats.Stats.zero(num_classes)
  rejects: BinaryIO | None = None
  with contextlib.ExitStack() as stack:
    file = stack.enter_context(
      files.writing(files.join(output, PREDICTIONS, f'{part.name}.{output_format}'))
    )
    writer = writers.WRITERS[output_format](file)
    for content in chunk_log.read(output, part.chunks):
      writer.write(content.predictions)
      total += content.counts
      if content.rejects:
        rejects = rejects or stack.enter_context(
          files.writing(files.join(output, REJECTS, f'{part.name}.jsonl'))
        )
        rejects.write(content.rejects)
    writer.close()
  return total
