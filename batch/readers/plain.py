"""The shards of files that are read from front to back, a large one in ranges."""

import logging
from collections.abc import Collection

from batch import chunk, cutting
from batch.readers import stream
from storage import files

logger = logging.getLogger(__name__)


def shards(
  kind: str,
  matched: Collection[files.File],
  codec_of: stream.CodecOf = stream.find_codec,
) -> list[chunk.Shard]:
  """Returns the shards of files; a compressed one, which cannot be split, is a single one.

  Args:
    kind: their format.
    matched: the files.
    codec_of: returns how a file that begins like this is compressed.
  """
  total, found = sum(file.size for file in matched), []
  whole: list[files.File] = []  # compressed, and large
  for file in matched:
    parts = cutting.ranges(file.size, total)
    if len(parts) > 1 and stream.is_compressed(file.uri, codec_of):
      whole.append(file)
      parts = [(0, -1)]
    found += [
      chunk.Shard(0, kind, file.uri, start, stop, is_range=len(parts) > 1) for start, stop in parts
    ]
  if whole:
    largest = max(whole, key=_size)
    logger.info(
      '%s%s: compressed and large (%.1f GB): one worker reads all of it; to share it, store it '
      'uncompressed or as more files',
      largest.uri,
      f' and {len(whole) - 1} more' if len(whole) > 1 else '',
      largest.size / 1e9,
    )
  return found


def _size(file: files.File) -> int:
  return file.size
