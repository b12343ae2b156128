"""Ranges of a tar archive that no sample is in two of.

Where a member begins is certain only from the headers before it: content may look like a header,
as in an archive within the archive. So one worker reads the headers of a whole archive, and skips
the content.
"""

import dataclasses

from batch import chunk, flags, ranges
from batch.readers.tar_names import Recorded
from batch.readers.tar_samples import Archive, Sample

# Of names that occur in several ranges of an archive. With more, one worker reads all of it.
MAX_TAKEN = 10_000


def survey(shard: chunk.Shard, settings: flags.Settings) -> list[ranges.Survey]:
  """Returns what is in the ranges of an archive in which a sample begins.

  Args:
    shard: the first of them, as long as the others.
    settings: the scorer's.
  """
  known, found = Recorded(), [ranges.Survey(shard, 0, ranges.END)]
  archive, step = (
    Archive(dataclasses.replace(shard, stop=-1), settings, known, skims=True),
    shard.stop,
  )
  for sample in archive.samples():
    if not isinstance(sample, Sample):
      continue
    start = sample.begin // step * step
    if start > found[-1].shard.start and _may_begin(sample):
      found[-1] = dataclasses.replace(found[-1], end=sample.begin, taken=sorted(known.taken))
      known.next_range()
      found.append(ranges.Survey(dataclasses.replace(shard, start=start), sample.begin, ranges.END))
    for _ in archive.finish(sample):
      pass
  found[-1] = dataclasses.replace(found[-1], taken=sorted(known.taken))
  if sum(len(each.taken) for each in found) > MAX_TAKEN:
    return [ranges.Survey(shard, 0, ranges.END)]
  return found


def _may_begin(sample: Sample) -> bool:
  """Returns whether a reader that begins with a sample needs nothing of what is before it."""
  return not sample.follows_damage and not sample.is_continued
