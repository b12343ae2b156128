"""Large files as many shards: what each range of a file's bytes has in it.

A file is planned as ranges without being read. Records and members begin anywhere, so workers find
out, before the shards are read, where the first one of each range begins and how many there are:
each range is surveyed on its own, from something that looks like a beginning, and then the surveys
are joined. One that does not begin where the range before it ends was misled, by damage or by a
file within the file, and is surveyed again from there. So the shards have exactly what a reader of
the whole file would find.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from batch import chunk

END = 1 << 63  # of a file, where it does not matter how long it is
Places = Mapping[tuple[str, int], 'Survey']  # by the file and the range's first byte


@dataclasses.dataclass(frozen=True)
class Survey:
  """What is in a range.

  Attributes:
    shard: the range as it was planned.
    begin: the first byte in it where something begins.
    end: the same of the range after it.
    rows: number of things that begin in the range.
    first_row: number of those before, in the file.
    taken: names in the range that the file has before it, too.
  """

  shard: chunk.Shard
  begin: int
  end: int
  rows: int = 0
  first_row: int = 0
  taken: Sequence[str] = ()


def join(
  surveys: Iterable[Survey], again: Callable[[chunk.Shard, int], Survey]
) -> dict[tuple[str, int], Survey]:
  """Returns the surveys with their `first_row`, each from where the one before it ends.

  Args:
    surveys: of all ranges.
    again: surveys a range from the byte where its first thing begins.
  """
  found: dict[tuple[str, int], Survey] = {}
  ordered = sorted(surveys, key=_place)
  for _, group in itertools.groupby(ordered, key=_file):
    begin = row = 0
    for survey in group:
      if survey.begin != begin:
        survey = again(survey.shard, begin)
      found[_place(survey)] = dataclasses.replace(survey, first_row=row)
      begin, row = survey.end, row + survey.rows
  return found


def place(shard: chunk.Shard, places: Places) -> chunk.Shard:
  """Returns a shard with the bytes and rows that it has, none if nothing begins in it."""
  if not shard.is_range:
    return shard
  survey = places.get((shard.uri, shard.start))
  if survey is None:
    return dataclasses.replace(shard, stop=shard.start, is_range=False)
  return dataclasses.replace(
    shard,
    start=survey.begin,
    stop=-1 if survey.end == END else survey.end,
    first_row=survey.first_row,
    taken=survey.taken,
    is_range=False,
  )


def whole(shards: Iterable[chunk.Shard]) -> list[chunk.Shard]:
  """Returns the shards with all ranges of a file as one shard, which needs no survey."""
  return [
    dataclasses.replace(shard, stop=-1, is_range=False) if shard.is_range else shard
    for shard in shards
    if not shard.is_range or shard.start == 0
  ]


def _place(survey: Survey) -> tuple[str, int]:
  return survey.shard.uri, survey.shard.start


def _file(survey: Survey) -> str:
  return survey.shard.uri
