"""IDX files, the format in which Fashion-MNIST is published."""

import collections
import math
import os
import re
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from absl import app

from batch import chunk, flags
from batch.readers import stream
from batch.readers.base import MAX_MISSING_ROWS, Planned
from storage import files

FILE_NAME = r'([.-]idx\d(-(ubyte|byte|short|int|float|double))?|\.idx)' + stream.SUFFIX + '$'
# http://yann.lecun.com/exdb/mnist: two bytes 0, the type, the number of dimensions, the dimensions.
TYPES: dict[int, np.dtype] = {
  0x08: np.dtype('u1'),
  0x09: np.dtype('i1'),
  0x0B: np.dtype('>i2'),
  0x0C: np.dtype('>i4'),
  0x0D: np.dtype('>f4'),
  0x0E: np.dtype('>f8'),
}
MAX_IMAGE_BYTES = 1 << 28
# What takes the place of -idx3-ubyte in the names of label files; the last is QMNIST's.
LABEL_KINDS = ('idx1-ubyte', 'idx1-int', 'idx2-int')


class Header(NamedTuple):
  """The type and the shape of an IDX file's content, rows first, and the byte where it begins."""

  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int

  @property
  def rows(self) -> int:
    """Returns the number of images or labels."""
    return self.shape[0]

  @property
  def row_bytes(self) -> int:
    """Returns the size of one of them, in bytes."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize

  @property
  def channels(self) -> int:
    """Returns the number of colours."""
    return self.shape[3] if len(self.shape) > 3 else 1

  @property
  def has_images(self) -> bool:
    """Returns whether the rows are images: (height, width), or also channels."""
    return len(self.shape) > 2 and self.channels in (1, 3) and 0 < self.row_bytes <= MAX_IMAGE_BYTES


def plan(matched: Collection[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per `chunk_images` images, and one per compressed file.

  Raises:
    app.UsageError: no file contains images.
  """
  shards: list[chunk.Shard] = []
  broken: list[chunk.Shard] = []
  label_files: dict[str, str] = {}
  others, images = [], 0
  for file in matched:
    header = read_header(stream.Stream(file.uri, skims=True))
    if header and len(header.shape) < 3:
      others.append(file.uri)
    elif not header or not header.has_images:
      broken.append(chunk.Shard(0, 'idx', file.uri, 0, 0, broken=_refusal(header)))
    else:
      label_files.update([find_labels(file.uri, header.rows)])
      parts = list(_shards(file, header, settings))
      shards += parts
      images += sum(_expected(part) for part in parts)
  broken = [shard for shard in broken if shard.uri not in label_files]
  if broken and not shards:
    raise app.UsageError(f'{broken[0].uri}: {broken[0].broken}')
  problems = [problem for problem in label_files.values() if problem]
  lonely = ['label file without images' for uri in others if uri not in label_files]
  passed_over = collections.Counter([*problems, *lonely])
  return Planned([*shards, *broken], images + len(broken), passed_over)


def _refusal(header: Header | None) -> str:
  """Returns why a file cannot be read."""
  shape = f' (its shape is {"x".join(map(str, header.shape))})' if header else ''
  return f'is not an IDX file of images{shape}; pass one whose name has -images-idx3-ubyte'


def _shards(file: files.File, header: Header, settings: flags.Settings) -> Iterator[chunk.Shard]:
  """Yields the shards of a file. What it is too short for is one of its own."""
  present, step = header.rows, _rows_at_once(header, settings)
  if stream.is_compressed(file.uri):
    step = max(present, 1)
  else:
    present = min(present, max(file.size - header.begin, 0) // header.row_bytes)
  for first in range(0, present, step):
    yield chunk.Shard(0, 'idx', file.uri, first, min(first + step, present))
  if present < header.rows:
    yield chunk.Shard(0, 'idx', file.uri, present, header.rows)


def _expected(shard: chunk.Shard) -> int:
  """Returns the number of images and rejects in a shard, unless its file is compressed."""
  rows = shard.stop - shard.start
  return rows if rows <= MAX_MISSING_ROWS else 1


def _rows_at_once(header: Header, settings: flags.Settings) -> int:
  return max(1, min(settings.chunk_images, stream.CHUNK_BYTES // header.row_bytes))


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Yields images `start` + skip to `stop`, uint8 (N, height, width, channels), in chunks.

  An id is the file's path, # and the row.
  """
  header = read_header(stream.Stream(shard.uri, skims=True))
  if not header or not header.has_images:
    raise files.Unavailable(f'{shard.uri}: was replaced while it was read; start again')
  labels_uri, problem = find_labels(shard.uri, header.rows)
  labels = None
  if labels_uri and not problem:
    labels = _read_labels(labels_uri, shard.start + skip, shard.stop)
  yield from _chunks(shard, skip, header, labels, _rows_at_once(header, settings))


def _chunks(
  shard: chunk.Shard, skip: int, header: Header, labels: list | None, step: int
) -> Iterator[chunk.ReadImages]:
  source, begin = stream.Stream(shard.uri, skims=True), shard.start + skip
  source.ensure(header.begin)
  source.skip(header.begin + begin * header.row_bytes)
  there = max((source.offset - header.begin) // header.row_bytes, shard.start)
  if begin > there and shard.stop - there > MAX_MISSING_ROWS:
    return  # the one reject for all that is missing is among those that are skipped
  for first in range(begin, shard.stop, step):
    content = source.take(min(step, shard.stop - first) * header.row_bytes)
    got = len(content) // header.row_bytes
    stop = min(first + step, shard.stop)
    some = None if labels is None else labels[first - begin : first - begin + got]
    columns = _to_columns(shard.uri, first, content[: got * header.row_bytes], header, some)
    lost = shard.stop - (first + got) if first + got < stop else 0
    columns.rejects += _missing(shard.uri, range(first + got, stop), lost, source.broken)
    if stop == header.rows and not lost:
      columns.rejects += _surplus(source, header, shard.uri)
    yield columns
    if lost > MAX_MISSING_ROWS:
      return


def _missing(uri: str, rows: range, lost: int, broken: str) -> list[chunk.Reject]:
  """Returns a reject for each row, or one if more are lost than a file can have meant."""
  reason = broken or 'the file is cut short'
  if lost > MAX_MISSING_ROWS:
    reason = f'{reason}: {lost} images that its header promises are not there; is it an IDX file?'
    return [chunk.Reject(f'{uri}#{rows.start}', 'read', reason)]
  reason = f'{reason}: its header promises more images than are there; get it again'
  return [chunk.Reject(f'{uri}#{row}', 'read', reason) for row in rows]


def _to_columns(
  uri: str, first: int, content: bytes, header: Header, labels: list | None
) -> chunk.ReadImages:
  """Returns a chunk; rows whose pixels are no bytes are among its rejects."""
  values = np.frombuffer(content, header.dtype).reshape(-1, *header.shape[1:])
  rows = list(range(first, first + len(values)))
  without_label = 0
  if labels is not None:
    without_label = len(rows) - len(labels)
    labels = [*labels, *[None] * without_label]
  columns = chunk.ReadImages(passed_over={'missing label': without_label} if without_label else {})
  if header.dtype != np.uint8:
    with np.errstate(invalid='ignore'):
      pixels = values.astype(np.uint8)
    fits = (pixels == values).all(axis=tuple(range(1, values.ndim)))
    reason = f'a pixel, of type {header.dtype.name}, is not a whole number from 0 to 255'
    columns.rejects = [
      chunk.Reject(f'{uri}#{row}', 'read', reason) for row, fit in zip(rows, fits) if not fit
    ]
    values, rows = pixels[fits], [row for row, fit in zip(rows, fits) if fit]
    labels = labels and [label for label, fit in zip(labels, fits) if fit]
  columns.ids = [f'{uri}#{row}' for row in rows]
  columns.pixels = values.reshape(len(rows), *header.shape[1:3], header.channels)
  columns.labels = labels
  return columns


def _surplus(source: stream.Stream, header: Header, uri: str) -> list[chunk.Reject]:
  """Returns rejects for the images after those that the header promises."""
  count = 0
  while source.skip(header.row_bytes):
    count += 1
  reason = f'the header promises only {header.rows} images and the file has {count} more; mend it'
  rows = range(header.rows, header.rows + (count if count <= MAX_MISSING_ROWS else 1))
  return [chunk.Reject(f'{uri}#{row}', 'read', reason) for row in rows]


def read_header(source: stream.Stream) -> Header | None:
  """Returns the header of an IDX file, or None if it is none."""
  magic = source.take(4)
  if len(magic) < 4 or magic[:2] != b'\0\0' or magic[2] not in TYPES or not 0 < magic[3] < 5:
    return None
  sizes = source.take(4 * magic[3])
  if len(sizes) < 4 * magic[3]:
    return None
  return Header(TYPES[magic[2]], struct.unpack(f'>{magic[3]}I', sizes), source.offset)


def find_labels(images_uri: str, images: int) -> tuple[str, str]:
  """Returns the file of labels whose name goes with the images', and why it cannot be used.

  Either is '' if there is none.
  """
  home, name = os.path.split(images_uri)
  plain = re.sub(stream.SUFFIX + '$', '', name)
  named = plain.replace('images', 'labels')
  names = [re.sub(r'idx\d(-\w+)?$', kind, named) for kind in LABEL_KINDS]
  uris = [
    os.path.join(home, each) + suffix for each in [named, *names] for suffix in stream.SUFFIXES
  ]
  uri = next((uri for uri in dict.fromkeys(uris) if uri != images_uri and files.exists(uri)), None)
  if uri is None or named == plain:
    return '', ''
  header = read_header(stream.Stream(uri, skims=True))
  if not header or len(header.shape) > 2 or not header.row_bytes:
    return uri, 'label file that is not IDX'
  return uri, '' if header.rows == images else 'label file of another length than its images'


def _read_labels(uri: str, start: int, stop: int) -> list:
  """Returns labels `start` to `stop`, as many as there are; of several numbers a row, the first."""
  source = stream.Stream(uri, skims=True)
  header = read_header(source)
  if not header or not source.skip(start * header.row_bytes):
    return []
  content = source.take((stop - start) * header.row_bytes)
  values = np.frombuffer(
    content[: len(content) // header.row_bytes * header.row_bytes], header.dtype
  )
  return values.reshape(-1, header.row_bytes // header.dtype.itemsize)[:, 0].tolist()
