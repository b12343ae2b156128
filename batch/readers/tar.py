"""Tar shards in WebDataset's convention.

Consecutive members with the same path up to the first dot of the name are one sample. All its
pictures are images, with the sample's label.
"""

from collections.abc import Collection, Iterator

from absl import app

from batch import chunk, flags, ranges
from batch.readers import plain, stream, tar_ranges
from batch.readers.base import Planned
from batch.readers.tar_members import DAMAGE, FILE, read_members
from batch.readers.tar_names import Names
from batch.readers.tar_samples import Archive, Image, column_suffix, hidden_kind, split
from storage import files

FILE_NAME = r'\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)$'
SAMPLE_MEMBERS = 1000  # among which planning looks for the suffixes that the settings name


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per archive, several ranges of a large one; none if all are empty.

  Raises:
    app.UsageError: none is a tar archive, or the first members lack what the settings name.
  """
  problem = ''
  for file in matched:
    for member in read_members(stream.Stream(file.uri)) if file.size else ():
      if member.kind != DAMAGE:
        _check_suffixes(file.uri, settings)
        return Planned(plain.shards('tar', matched), None)
      problem = problem or f'{file.uri}: {member.note}'
  if problem:
    raise app.UsageError(f'{problem}; pass a tar archive')
  return Planned([], None)


def _check_suffixes(uri: str, settings: flags.Settings) -> None:
  """Raises UsageError if none of an archive's first members has a suffix that the settings name."""
  flags_given = ('image_column', 'id_column', 'label_column')
  missing = {flag: name for flag in flags_given if (name := column_suffix(getattr(settings, flag)))}
  found: set[str] = set()
  for number, member in enumerate(read_members(stream.Stream(uri)) if missing else ()):
    if member.kind == FILE and not hidden_kind(member.name):
      found.add(split(member.name)[1])
    if number == SAMPLE_MEMBERS or found.issuperset(missing.values()):
      break
  for flag, name in missing.items():
    if name not in found:
      names = ', '.join(sorted(found)) or 'none'
      raise app.UsageError(
        f'--{flag}={name}: the first members of {uri} have no such suffix, only {names}; pass one '
        'of these'
      )


def survey(
  shard: chunk.Shard, settings: flags.Settings, begin: int = -1
) -> Iterator[ranges.Survey]:
  """Yields what is in all ranges of an archive, for the first of them; nothing for the others."""
  if not shard.start:
    yield from tar_ranges.survey(shard, settings)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the images of an archive after its first `skip`, rejects counted, in chunks.

  An id is that of the id column, else the archive's path, # and the key; several pictures of a
  sample have their whole names for a key.
  """
  if 0 <= shard.stop <= shard.start:  # a range in which no member begins
    return
  columns, held = chunk.ReadImages(encoded=[], labels=[]), 0
  must_skip = skip > 0  # what is passed over belongs to the image before it
  for item in Archive(shard, settings, Names(shard.taken)).items():
    if isinstance(item, str):
      if not must_skip:
        columns.passed_over[item] = columns.passed_over.get(item, 0) + 1
      continue
    if skip:
      skip -= 1
      continue
    must_skip = False
    count = len(columns.ids) + len(columns.rejects)
    if count == settings.chunk_images or held >= stream.CHUNK_BYTES:
      yield columns
      columns, held = chunk.ReadImages(encoded=[], labels=[]), 0
    held += _append(columns, item)
  if columns.ids or columns.rejects or columns.passed_over:
    yield columns


def _append(columns: chunk.ReadImages, item: Image | chunk.Reject) -> int:
  """Appends an image or a reject and returns its size in bytes."""
  if isinstance(item, chunk.Reject):
    columns.rejects.append(item)
    return len(item.id) + len(item.reason)
  columns.ids.append(item.id)
  columns.encoded.append(item.content)  # type: ignore[union-attr]
  columns.labels.append(item.label)  # type: ignore[union-attr]
  return len(item.content)
