"""IDX files, the format in which Fashion-MNIST is published."""

import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from absl import app

from batch import chunk, flags
from batch.readers import stream
from batch.readers.base import Planned
from storage import files

FILE_NAME = r'([.-]idx\d-ubyte|\.idx)(\.gz)?$'
IMAGES_MAGIC, LABELS_MAGIC = 0x0803, 0x0801  # uint8 in three dimensions, uint8 in one
IMAGES_HEADER = struct.Struct('>IIII')  # magic number, images, height, width
LABELS_HEADER = struct.Struct('>II')  # magic number, labels


def plan(matched: Sequence[files.File], settings: flags.Settings) -> Planned:
  """Returns one shard per `chunk_images` images; gzip files, which have no random access, whole.

  Raises:
    app.UsageError: a file contains neither images nor labels.
  """
  shards, images = [], 0
  for file in matched:
    if _is_labels(file.uri):
      continue
    count, _, _ = _image_shape(file.uri)
    step = count if stream.is_gzip(file.uri) else settings.chunk_images
    shards += [
      chunk.Shard(0, 'idx', file.uri, first, min(first + step, count))
      for first in range(0, count, max(step, 1))
    ]
    images += count
  return Planned(shards, images)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.Columns]:
  """Yields images `start` + skip to `stop`, uint8 (N, height, width, 1), in chunks.

  An id is the file's path, # and the row.
  """
  _, height, width = _image_shape(shard.uri)
  labels = _labels_of(shard.uri)
  source = stream.Stream(shard.uri)
  source.skip(IMAGES_HEADER.size + (shard.start + skip) * height * width)
  for first in range(shard.start + skip, shard.stop, settings.chunk_images):
    wanted = min(settings.chunk_images, shard.stop - first)
    content = source.take(wanted * height * width)
    got = len(content) // (height * width)
    pixels = np.frombuffer(content, np.uint8, got * height * width)
    columns = chunk.Columns(
      ids=[f'{shard.uri}#{row}' for row in range(first, first + got)],
      pixels=pixels.reshape(got, height, width, 1),
      labels=None if labels is None else _padded(labels[first : first + got].tolist(), got),
    )
    if got < wanted:
      columns.rejects.append(
        chunk.Reject(
          f'{shard.uri}@{IMAGES_HEADER.size + (first + got) * height * width}',
          'read',
          f'{source.broken or "the file is cut short"}: images {first + got} to {shard.stop - 1} '
          'are not there',
        )
      )
    yield columns
    if got < wanted:
      return


def _padded(labels: list[int], count: int) -> list[int | None]:
  return [*labels, *[None] * (count - len(labels))]


def _image_shape(uri: str) -> tuple[int, int, int]:
  """Returns (images, height, width) from the header.

  Raises:
    app.UsageError: it is not an IDX file of images.
  """
  header = stream.Stream(uri).take(IMAGES_HEADER.size)
  if len(header) == IMAGES_HEADER.size:
    magic, count, height, width = IMAGES_HEADER.unpack(header)
    if magic == IMAGES_MAGIC and height and width:
      return count, height, width
  raise app.UsageError(
    f'{uri}: is not an IDX file of uint8 images; pass one whose name has -images-idx3-ubyte'
  )


def _is_labels(uri: str) -> bool:
  header = stream.Stream(uri).take(4)
  return len(header) == 4 and struct.unpack('>I', header)[0] == LABELS_MAGIC


def _labels_of(images_uri: str) -> np.ndarray | None:
  """Returns the labels, uint8 (N,), of the file whose name goes with the images', or None."""
  home, name = os.path.split(images_uri)
  named = name.replace('images', 'labels').replace('idx3', 'idx1').removesuffix('.gz')
  plain = os.path.join(home, named)
  uri = next(
    (uri for uri in (plain, plain + '.gz') if uri != images_uri and files.exists(uri)), None
  )
  if uri is None:
    return None
  source = stream.Stream(uri)
  header = source.take(LABELS_HEADER.size)
  if len(header) < LABELS_HEADER.size:
    return None
  magic, count = LABELS_HEADER.unpack(header)
  return np.frombuffer(source.take(count), np.uint8) if magic == LABELS_MAGIC else None
