"""What --input names: which files, of which format, in which shards; and the images of a shard."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence

from absl import app

from batch import chunk, flags, listing, stream, tables, tar, tfrecord
from storage import files

# Formats by file name, the first that fits. TFDS writes name-split.tfrecord-00000-of-00001.
NAMES = {
  'image': r'\.(png|jpe?g|gif|bmp|webp)$',
  'tfrecord': r'\.tfrecords?(-\d+-of-\d+)?(\.gz)?$',
  'tar': r'\.(tar|tar\.gz|tgz)$',
  'idx': r'([.-]idx\d-ubyte|\.idx)(\.gz)?$',
  'parquet': r'\.(parquet|pq)$',
  'manifest': r'\.(txt|csv)$',
}
FEW_FILES = 16  # below this, TFRecord files are split, so that every core has some; reading the headers takes a while
GUESSED = 'auto'


@dataclasses.dataclass(frozen=True)
class Plan:
  """All the shards, and what they are worth knowing as.

  Attributes:
    images: how many there are in all, or None where only reading tells.
    fingerprint: a name that two plans share only where they name the same files of the same sizes.
  """

  shards: list[chunk.Shard]
  format: str
  images: int | None
  bytes: int
  fingerprint: str


def plan(patterns: Sequence[str], input_format: str, settings: flags.Settings) -> Plan:
  """The shards that the patterns name.

  Raises:
    app.UsageError: a pattern matches nothing, the files are of several formats, or not what the format says.
  """
  found = {file.uri: file for pattern in patterns for file in _expand(pattern, input_format)}
  matched = [found[path] for path in sorted(found)]
  kind = _format(list(found)) if input_format == GUESSED else input_format
  if settings.label_from == 'directory' and kind != 'image':
    raise app.UsageError(
      f'--label_from=directory: goes with image files, and the input is {kind}; leave it out'
    )
  if settings.carry and kind != 'parquet':
    raise app.UsageError(
      f'--carry={",".join(settings.carry)}: goes with Parquet, and the input is {kind}; leave it out'
    )
  parts, images = PLANNERS[kind](matched, settings)
  if not parts:
    raise app.UsageError(f'--input={", ".join(patterns)}: holds no images; pass files that do')
  shards = [dataclasses.replace(part, number=number) for number, part in enumerate(parts)]
  digest = hashlib.sha256(repr([(file.uri, file.size) for file in matched]).encode()).hexdigest()
  return Plan(shards, kind, images, sum(file.size for file in matched), digest[:16])


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """The images of a shard after its first `skip`, rejects counted, in chunks."""
  if shard.format == 'tfrecord':
    return tfrecord.read(shard, skip, settings.chunk_images)
  if shard.format == 'tar':
    return tar.read(shard, skip, settings.chunk_images)
  if shard.format == 'idx':
    return tables.read_idx(shard, skip, settings.chunk_images)
  if shard.format == 'parquet':
    return tables.read_parquet(shard, skip, settings.chunk_images, settings)
  is_manifest = shard.format == 'manifest'
  entries = (
    listing.manifest_entries(shard)
    if is_manifest
    else listing.image_entries(shard, settings.label_from)
  )
  return listing.read(entries[skip:], settings.read_threads, settings.chunk_images)


# --- which files -----------------------------------------------------------------------------------------------------


def _expand(pattern: str, input_format: str) -> list[files.File]:
  """The files of a pattern, or those in a directory whose names say what they are."""
  found = files.match(pattern)
  if not found:
    inside = files.match(files.join(pattern, '**'))
    kinds = NAMES if input_format == GUESSED else [input_format]
    found = [file for file in inside if guess(file.uri) in kinds]
    if any(
      os.path.basename(file.uri) == 'dataset_info.json' for file in inside
    ):  # TFDS keeps notes beside its shards
      found = [file for file in found if guess(file.uri) == 'tfrecord']
    if inside and not found:
      raise app.UsageError(f'--input={pattern}: nothing in that directory has a name that says its format; name the '
                           'files with a pattern, and their format with --input_format')  # fmt: skip
  if not found:
    raise app.UsageError(f'--input={pattern}: matches no file; pass a file, a directory, or a pattern such as '
                         "'pictures/**/*.png', in quotes")  # fmt: skip
  return found


def guess(path: str) -> str:
  """The format that a file's name says, or ''."""
  return next((kind for kind, pattern in NAMES.items() if re.search(pattern, path.lower())), '')


def _format(paths: Sequence[str]) -> str:
  kinds: dict[str, str] = {}
  for path in paths:
    kinds.setdefault(guess(path), path)
  if '' in kinds:
    raise app.UsageError(
      f'--input: the name {kinds[""]} does not say its format; name it with --input_format'
    )
  if len(kinds) > 1:
    examples = ', '.join(f'{kind} ({path})' for kind, path in sorted(kinds.items()))
    raise app.UsageError(f'--input: names files of several formats: {examples}; score each by itself, into an --output '
                         'of its own')  # fmt: skip
  return next(iter(kinds))


# --- which shards ----------------------------------------------------------------------------------------------------

Planned = tuple[
  list[chunk.Shard], int | None
]  # the shards, still without numbers, and how many images they hold


def _plan_images(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  paths = [file.uri for file in matched]
  size = settings.chunk_images
  groups = [tuple(paths[first : first + size]) for first in range(0, len(paths), size)]
  return [chunk.Shard(0, 'image', group[0], uris=group) for group in groups], len(paths)


def _plan_tfrecord(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  first = next((record for file in matched for record in _some_record(file.uri)), None)
  if first is not None:
    tfrecord.layout(*first)
  shards = []
  for file in matched:
    parts = [(0, -1, 0)]
    if len(matched) < FEW_FILES and not _is_gzip(file.uri):
      parts = tfrecord.split(file.uri, settings.chunk_images)
    shards += [chunk.Shard(0, 'tfrecord', file.uri, start, stop, row) for start, stop, row in parts]
  return shards, None


def _some_record(uri: str) -> Iterator[tuple[bytes, str]]:
  """The first record that can be read, and where it is."""
  good = (record for record in tfrecord.frames(stream.Stream(uri)) if isinstance(record, bytes))
  return ((record, uri) for record in [next(good, None)] if record is not None)


def _is_gzip(uri: str) -> bool:
  with files.open_bytes(uri) as file:
    return file.read(2) == stream.GZIP


def _plan_tar(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  return [chunk.Shard(0, 'tar', file.uri) for file in matched], None


def _plan_idx(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  shards, images = [], 0
  for file in matched:
    if tables.is_idx_labels(file.uri):
      continue
    count, _, _ = tables.idx_shape(file.uri)
    step = (
      count if _is_gzip(file.uri) else settings.chunk_images
    )  # gzip has to be unpacked from the beginning
    shards += [
      chunk.Shard(0, 'idx', file.uri, first, min(first + step, count))
      for first in range(0, count, max(step, 1))
    ]
    images += count
  return shards, images


def _plan_parquet(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  shards, images = [], 0
  for file in matched:
    row = 0
    for group, rows in enumerate(tables.parquet_groups(file.uri, settings)):
      shards.append(chunk.Shard(0, 'parquet', file.uri, group, group + 1, row))
      row += rows
    images += row
  return shards, images


def _plan_manifest(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  shards = []
  for file in matched:
    begin = listing.manifest_layout(file.uri).begin
    parts = listing.split_manifest(file.uri, begin, settings.chunk_images)
    shards += [chunk.Shard(0, 'manifest', file.uri, start, stop, row) for start, stop, row in parts]
  return shards, None


PLANNERS: dict[str, Callable[[Sequence[files.File], flags.Settings], Planned]] = {
  'image': _plan_images,
  'tfrecord': _plan_tfrecord,
  'tar': _plan_tar,
  'idx': _plan_idx,
  'parquet': _plan_parquet,
  'manifest': _plan_manifest,
}
