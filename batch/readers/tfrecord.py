"""TFRecord files of tf.train.Example, plain or gzip, as TensorFlow and TFDS write them.

A record is its length (uint64), the length's checksum (uint32), the data, the data's checksum:
little-endian, the checksums CRC-32C, rotated right by 15 bits plus a constant
(tensorflow/core/lib/hash/crc32c.h).
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence

import google_crc32c

from batch import chunk, flags
from batch.readers import example, stream
from batch.readers.base import Planned
from storage import files

# TFDS writes name-split.tfrecord-00000-of-00001.
FILE_NAME = r'\.tfrecords?(-\d+-of-\d+)?(\.gz)?$'
HEADER = struct.Struct('<QI')
CHECKSUM = struct.Struct('<I')
FRAME_BYTES = HEADER.size + CHECKSUM.size  # of a record, besides its data
# Fewer files are split, so that every core has some; reading the headers takes a while.
SPLIT_BELOW_FILES = 16
WRONG_LENGTH = 'the checksum of a record length is wrong: nothing after it can be read'


@dataclasses.dataclass(frozen=True)
class Bad:
  """A record, or the rest of a file, that cannot be read."""

  offset: int
  reason: str


def plan(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per file; of a few plain files, one per `chunk_images` records.

  Raises:
    app.UsageError: the first readable record is not a tf.train.Example with an image.
  """
  for file in matched:
    record = _first_record(file.uri)
    if record is not None:
      example.find_layout(record, file.uri)
      break
  shards = []
  for file in matched:
    parts = [(0, -1, 0)]
    if len(matched) < SPLIT_BELOW_FILES and not stream.is_gzip(file.uri):
      parts = split(file.uri, settings.chunk_images)
    shards += [chunk.Shard(0, 'tfrecord', file.uri, start, stop, row) for start, stop, row in parts]
  return Planned(shards, None)


def _first_record(uri: str) -> bytes | None:
  """Returns the first record that can be read."""
  records = read_records(stream.Stream(uri))
  return next((record for record in records if isinstance(record, bytes)), None)


def split(uri: str, records: int) -> list[tuple[int, int, int]]:
  """Returns (start, stop, first_row) of consecutive parts of a plain file, `records` records each.

  Reads only the headers. A part ends where the next begins; the last, which may have fewer records,
  at the end of the file.
  """
  parts, start, row, first_row = [], 0, 0, 0
  source = stream.Stream(uri)
  while source.ensure(HEADER.size):
    length, length_crc = HEADER.unpack_from(source.buffer, source.position)
    if not _length_is_right(source.buffer, source.position, length_crc):
      break
    if row - first_row == records:
      parts.append((start, source.offset, first_row))
      start, first_row = source.offset, row
    if not source.skip(length + FRAME_BYTES):
      break
    row += 1
  return [*parts, (start, -1, first_row)]


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.Columns]:
  """Yields the images of a shard after its first `skip` records, in chunks."""
  records = read_records(stream.Stream(shard.uri, shard.start, shard.stop))
  row = shard.first_row
  for _ in range(skip):
    next(records)
    row += 1
  layout = None
  for items in stream.batch_by_size(records, _num_bytes, settings.chunk_images):
    good = [item for item in items if isinstance(item, bytes)]
    rows: Sequence[int] = range(row, row + len(items))
    if len(good) < len(items):
      rows = [row for row, item in zip(rows, items) if isinstance(item, bytes)]
    row += len(items)
    if layout is None and good:
      layout = example.layout_of(good[0])
    columns = example.to_columns(shard.uri, rows, good, layout)
    bad = [item for item in items if isinstance(item, Bad)]
    rejects = [chunk.Reject(f'{shard.uri}@{item.offset}', 'read', item.reason) for item in bad]
    columns.rejects = rejects + columns.rejects
    yield columns


def _num_bytes(item: bytes | Bad) -> int:
  return 64 if isinstance(item, Bad) else len(item)


def read_records(source: stream.Stream) -> Iterator[bytes | Bad]:
  """Yields the records.

  A bad data checksum rejects one record; after a bad length checksum the rest of the file is
  unreadable. The length is only checked if something is wrong: had it changed, the data's checksum
  would not match.
  """
  crc32c, unpack, unpack_checksum = google_crc32c.value, HEADER.unpack_from, CHECKSUM.unpack_from
  while source.ensure(HEADER.size):
    buffer, position = source.buffer, source.position
    length, length_crc = unpack(buffer, position)
    end = position + HEADER.size + length
    if end + CHECKSUM.size > len(buffer):
      if not _length_is_right(buffer, position, length_crc):
        yield Bad(source.offset, WRONG_LENGTH)
        return
      if not source.ensure(length + FRAME_BYTES):
        break
      buffer, position = source.buffer, source.position
      end = position + HEADER.size + length
    data = buffer[position + HEADER.size : end]
    (data_crc,) = unpack_checksum(buffer, end)
    if _masked(crc32c(data)) == data_crc:
      yield data
    elif _length_is_right(buffer, position, length_crc):
      yield Bad(source.offset, 'the checksum of a record is wrong')
    else:
      yield Bad(source.offset, WRONG_LENGTH)
      return
    source.position = end + CHECKSUM.size
  if source.broken or source.ensure(1):
    yield Bad(source.offset, source.broken or 'the file is cut short within a record')


def _length_is_right(buffer: bytes, position: int, length_crc: int) -> bool:
  return _masked(google_crc32c.value(buffer[position : position + 8])) == length_crc


def _masked(crc: int) -> int:
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
