"""Ranges of a TFRecord file: their first record, and the number of their records."""

from batch import chunk, ranges
from batch.readers import records


def survey(shard: chunk.Shard, begin: int = -1) -> ranges.Survey:
  """Returns what is in a range of a plain file. Of most records only the header is read.

  Args:
    shard: the range.
    begin: where its first record begins, if that is known.
  """
  if begin < 0:
    begin = _find_first(shard) if shard.start else 0
  stop = shard.stop if shard.stop >= 0 else ranges.END
  source, rows = records.open_stream(shard.uri, begin, skims=True), 0
  while source.offset < stop and source.ensure(records.HEADER.size):
    records.skip_record(source)
    rows += 1
  if source.offset < stop:  # what is left is too short to be a record, and belongs to this range
    source.skip(records.HEADER.size)
  return ranges.Survey(shard, begin, max(source.offset, stop), rows)


def _find_first(shard: chunk.Shard) -> int:
  """Returns where something begins that looks like a record, with another after it.

  That is the range's end if there is nothing.
  """
  stop = shard.stop + records.HEADER.size if shard.stop >= 0 else -1
  source = records.open_stream(shard.uri, shard.start - 1, stop)
  source.ensure(1)
  while records.find_header(source):
    if _is_followed(shard.uri, source.offset):
      return source.offset
  return source.offset


def _is_followed(uri: str, offset: int) -> bool:
  """Returns whether the record at `offset` ends where another begins, or the file ends."""
  source = records.open_stream(uri, offset, skims=True)
  source.ensure(records.HEADER.size)
  length, _ = records.HEADER.unpack_from(source.buffer, source.position)
  if not source.skip(length + records.FRAME_BYTES):
    return False
  return source.at_end() or (
    source.ensure(records.HEADER.size) and records.length_is_right(source.buffer, source.position)
  )
