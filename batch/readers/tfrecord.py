"""TFRecord files of tf.train.Example, plain, gzip or ZLIB, as TensorFlow and TFDS write them."""

import itertools
from collections.abc import Iterator, Sequence

from absl import app

from batch import chunk, cutting, flags
from batch.readers import example, features, records, stream
from batch.readers.base import Planned
from storage import files

# TFDS writes name-split.tfrecord-00000-of-00001.
FILE_NAME = r'\.tfrecords?(-\d+-of-\d+)?(\.gz)?$'
# Fewer files are split, so that every core has some; reading the headers takes a while.
SPLIT_BELOW_FILES = 16
# Planning looks for a picture in so many records of so many files before it refuses them.
SAMPLE_FILES, SAMPLE_RECORDS = 16, 1000


def plan(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per file; a few plain files are cut into shards of a chunk or less.

  Raises:
    app.UsageError: no file is of TFRecord, or the first records have no image or lack what the
      settings name.
  """
  empty = _check_sample(matched, settings)
  max_bytes = cutting.shard_bytes(sum(file.size for file in matched))
  shards = []
  for file in matched:
    if file.uri in empty:
      continue
    parts = [(0, -1, 0)]
    if len(matched) < SPLIT_BELOW_FILES and not _is_compressed(file.uri):
      parts = split(file.uri, settings.chunk_images, max_bytes)
    shards += [chunk.Shard(0, 'tfrecord', file.uri, start, stop, row) for start, stop, row in parts]
  return Planned(shards, None)


def _check_sample(matched: Sequence[files.File], settings: flags.Settings) -> set[str]:
  """Checks the first records that can be read, and returns the files that were found to be empty.

  Raises:
    app.UsageError: no file is of TFRecord, or none of the records has what is read.
  """
  sample = features.Sample(settings)
  empty, filled, readable = set(), [], ''
  for file in matched:
    found = records.read_records(records.open_stream(file.uri))
    first = next(found, None) if file.size else None
    if first is None:
      empty.add(file.uri)
      continue
    filled.append(file.uri)
    if not (
      isinstance(first, records.Bad)
      and first.offset == 0
      and first.reason.startswith(records.WRONG_LENGTH)
    ):
      readable = readable or file.uri
    for record in itertools.chain([first], itertools.islice(found, SAMPLE_RECORDS)):
      if isinstance(record, bytes):
        readable = readable or file.uri
        if sample.add(record):
          return empty
    if len(filled) == SAMPLE_FILES:
      break
  if filled and not readable:
    raise app.UsageError(f'{filled[0]}: is not a TFRecord file; pass one, or its --input_format')
  if sample.has_records:
    sample.check(readable)
  return empty


def _is_compressed(uri: str) -> bool:
  with files.open_bytes(uri) as file:
    return records.find_codec(file.read(records.HEADER.size)) is not None


def split(uri: str, max_records: int, max_bytes: int) -> list[tuple[int, int, int]]:
  """Returns (start, stop, first_row) of consecutive parts of a plain file.

  Reads only the headers. A part ends where the next begins, the last one at the end of the file.
  """
  parts, start, row, first_row = [], 0, 0, 0
  source = records.open_stream(uri)
  while source.ensure(records.HEADER.size):
    if row - first_row == max_records or source.offset - start >= max_bytes:
      parts.append((start, source.offset, first_row))
      start, first_row = source.offset, row
    if records.length_is_right(source.buffer, source.position):
      length, _ = records.HEADER.unpack_from(source.buffer, source.position)
      is_whole = source.skip(length + records.FRAME_BYTES)
    else:
      is_whole = records.find_header(source)
    if not is_whole:
      break
    row += 1
  return [*parts, (start, -1, first_row)]


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the images of a shard after its first `skip`, in chunks of whole records.

  A record may have several images, so the chunks that an earlier run has completed are read again.
  """
  source = records.open_stream(shard.uri, shard.start, shard.stop)
  examples = example.Records(shard.uri, features.wanted_features(settings))
  row = shard.first_row
  for items in stream.batch_by_size(
    records.read_records(source), _num_bytes, settings.chunk_images
  ):
    columns = _columns(shard.uri, examples, row, items)
    row += len(items)
    seen = len(columns.ids) + len(columns.rejects)
    if skip < seen:
      yield columns
    skip = max(skip - seen, 0)


def _columns(
  uri: str, examples: example.Records, row: int, items: Sequence[bytes | records.Bad]
) -> chunk.ReadImages:
  """Returns the images of records, the first of which is number `row` of the file."""
  good = [item for item in items if isinstance(item, bytes)]
  rows: Sequence[int] = range(row, row + len(items))
  if len(good) < len(items):
    rows = [row for row, item in zip(rows, items) if isinstance(item, bytes)]
  columns = examples.to_columns(rows, good)
  bad = [item for item in items if isinstance(item, records.Bad)]
  rejects = [chunk.Reject(f'{uri}@{item.offset}', 'read', item.reason) for item in bad]
  columns.rejects = rejects + columns.rejects
  return columns


def _num_bytes(item: bytes | records.Bad) -> int:
  return 64 if isinstance(item, records.Bad) else len(item)
