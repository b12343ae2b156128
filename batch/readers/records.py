"""TFRecord's framing: records, and what is damaged between them.

A record is its length (uint64), the length's checksum (uint32), the data, the data's checksum:
little-endian, the checksums CRC-32C, rotated right by 15 bits plus a constant
(tensorflow/core/lib/hash/crc32c.h).
"""

import dataclasses
import re
import struct
from collections.abc import Iterator

import google_crc32c

from batch import ranges
from batch.readers import stream

HEADER = struct.Struct('<QI')
CHECKSUM = struct.Struct('<I')
FRAME_BYTES = HEADER.size + CHECKSUM.size  # of a record, besides its data
MAX_RECORD_BYTES = 256 << 20  # a larger record is rejected before it fills a worker's memory
CUT_SHORT = 'the file is cut short within a record'
WRONG_LENGTH = 'the checksum of a record length is wrong'
# What may be a header: a length of at most MAX_RECORD_BYTES, and a checksum.
CANDIDATE = re.compile(rb'(?s)(?=...[\0-\x10]\0{4}(?!\0{4}))')


@dataclasses.dataclass(frozen=True)
class Bad:
  """A record, or the rest of a file, that cannot be read."""

  offset: int
  reason: str


def open_stream(uri: str, start: int = 0, stop: int = -1, skims: bool = False) -> stream.Stream:
  """Opens a file, or bytes `start` to `stop` of a plain one."""
  return stream.Stream(uri, start, stop, find_codec, skims)


def find_codec(beginning: bytes) -> stream.Codec | None:
  """Returns how a file is compressed. A record length may begin as gzip or ZLIB does."""
  is_record = len(beginning) >= HEADER.size and length_is_right(beginning, 0)
  if not is_record and beginning.startswith(stream.ZLIB.begins):
    return stream.ZLIB
  return None if is_record else stream.find_codec(beginning)


def read_records(source: stream.Stream, stop: int = -1) -> Iterator[bytes | Bad]:
  """Yields the records, or those that begin before byte `stop`.

  A wrong checksum rejects one record: the next is found by its length's checksum. The length is
  only checked if something is wrong: had it changed, the data's checksum would not match.
  """
  crc32c, unpack, unpack_checksum = google_crc32c.value, HEADER.unpack_from, CHECKSUM.unpack_from
  stop = stop if stop >= 0 else ranges.END
  while source.offset < stop and source.ensure(HEADER.size):
    buffer, position = source.buffer, source.position
    length, _ = unpack(buffer, position)
    end = position + HEADER.size + length
    if end + CHECKSUM.size > len(buffer):
      bad = _fetch(source, length)
      if bad:
        yield bad
        if source.ensure(1):
          continue
        return
      buffer, position = source.buffer, source.position
      end = position + HEADER.size + length
    data = buffer[position + HEADER.size : end]
    (data_crc,) = unpack_checksum(buffer, end)
    if _masked(crc32c(data)) == data_crc:
      source.position = end + CHECKSUM.size
      yield data
    elif length_is_right(buffer, position):
      bad = Bad(source.offset, 'the checksum of a record is wrong')
      source.position = end + CHECKSUM.size
      yield bad
    else:
      yield _pass_over(source)
  if source.offset < stop and (source.broken or source.ensure(1)):
    yield Bad(source.offset, source.broken or CUT_SHORT)


def skip_record(source: stream.Stream) -> None:
  """Moves past what `read_records` would yield next; a right header is all that it reads of it."""
  if length_is_right(source.buffer, source.position):
    length, _ = HEADER.unpack_from(source.buffer, source.position)
    source.skip(length + FRAME_BYTES)
  else:
    next(read_records(source), None)


def _fetch(source: stream.Stream, length: int) -> Bad | None:
  """Reads a record of `length` bytes into the buffer, or passes over it and returns why."""
  is_right = length_is_right(source.buffer, source.position)
  limit = MAX_RECORD_BYTES if is_right else stream.BLOCK_BYTES
  if length <= limit and source.ensure(length + FRAME_BYTES):
    return None
  if not is_right:
    return _pass_over(source)
  offset = source.offset
  if not source.skip(length + FRAME_BYTES):
    return Bad(offset, source.broken or CUT_SHORT)
  return Bad(
    offset, f'the record has {length} bytes, more than the {MAX_RECORD_BYTES} that are read'
  )


def _pass_over(source: stream.Stream) -> Bad:
  """Moves to the next record after a wrong length, or to the end."""
  offset = source.offset
  if find_header(source):
    return Bad(offset, f'{WRONG_LENGTH}: {source.offset - offset} bytes to the next are unreadable')
  return Bad(offset, f'{WRONG_LENGTH}: nothing after it can be read')


def find_header(source: stream.Stream) -> bool:
  """Moves to the next header whose checksum is right or to the end; returns whether it is one."""
  source.position += 1
  while source.ensure(HEADER.size):
    buffer = source.buffer
    if (
      buffer.count(0, source.position) < len(buffer) - source.position
    ):  # zeros take long to search
      for match in CANDIDATE.finditer(buffer, source.position):
        place = match.start()
        if place + HEADER.size <= len(buffer) and length_is_right(buffer, place):
          source.position = place
          return True
    source.position = len(buffer) - HEADER.size + 1
  source.position = len(source.buffer)
  return False


def length_is_right(buffer: bytes, position: int) -> bool:
  """Returns whether the header at `position` has the checksum of its length."""
  (length_crc,) = CHECKSUM.unpack_from(buffer, position + 8)
  return _masked(google_crc32c.value(buffer[position : position + 8])) == length_crc


def _masked(crc: int) -> int:
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
