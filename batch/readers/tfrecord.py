"""TFRecord files of tf.train.Example, plain, gzip or ZLIB, as TensorFlow and TFDS write them."""

import itertools
from collections.abc import Collection, Iterator, Sequence

from absl import app

from batch import chunk, flags, ranges
from batch.readers import example, features, plain, record_ranges, records, stream
from batch.readers.base import Planned
from storage import files

# TFDS writes name-split.tfrecord-00000-of-00001.
FILE_NAME = r'\.tfrecords?(-\d+-of-\d+)?(\.gz)?$'
# Planning looks for a picture in so many records of so many files before it refuses them.
SAMPLE_FILES, SAMPLE_RECORDS = 16, 1000


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per file, and several ranges of a large one that is not compressed.

  Raises:
    app.UsageError: no file is of TFRecord, or the first records have no image or lack what the
      settings name.
  """
  empty = _check_sample(matched, settings)
  filled = [file for file in matched if file.size and file.uri not in empty]
  passed_over = {'empty file': len(matched) - len(filled)} if len(filled) < len(matched) else {}
  return Planned(plain.shards('tfrecord', filled, records.find_codec), None, passed_over)


def _check_sample(matched: Collection[files.File], settings: flags.Settings) -> set[str]:
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


def survey(
  shard: chunk.Shard, settings: flags.Settings, begin: int = -1
) -> Iterator[ranges.Survey]:
  """Yields what is in a range of a plain file; `begin` is where its first record begins."""
  yield record_ranges.survey(shard, begin)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields the images of a shard after its first `skip`, in chunks of whole records.

  A record may have several images, so the chunks that an earlier run has completed are read again.
  """
  # To the end of the file: damage is what it is whether or not the file is in ranges.
  source = records.open_stream(shard.uri, shard.start)
  examples = example.Records(shard.uri, features.wanted_features(settings))
  row = shard.first_row
  for items in stream.batch_by_size(
    records.read_records(source, shard.stop), _num_bytes, settings.chunk_images
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
