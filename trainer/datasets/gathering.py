"""The pictures of a source, read and decoded to images of one shape."""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from images import ImageShape, decode
from trainer import progress
from trainer.datasets import Options

PHOTO_SIDE = 64  # of the images that are made of photos
MAX_OWN_SIDE = 128  # larger pictures are photos, even if all have one size
MAX_PIXELS = 50_000_000  # of a picture, as the scorer has it
DECODED_AT_ONCE = 64  # by a thread
CONVERSION = 'fit'
CHANNELS = {'grey': 1, 'rgb': 3}
HEADERS = ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM')
GREY_MODES = {'1', 'L', 'LA', 'I;16', 'I', 'F'}

Reject = tuple[str, str, str]  # id, stage, reason


class Chunk(NamedTuple):
  """N pictures as read, with labels ('' if one has none) and splits ('' if the source has none)."""

  ids: Sequence[str]
  encoded: Sequence[bytes]
  labels: Sequence[str]
  splits: Sequence[str]
  rejects: Sequence[Reject] = ()


@dataclasses.dataclass
class Gathered:
  """N pictures, decoded.

  Attributes:
    pixels: uint8 (n, height, width, channels) of each chunk.
    labels: N names.
    digests: N checksums of the encoded pictures.
    splits: N names, '' if the source has none.
    rejects: those that were left out.
    shape: of the images.
  """

  pixels: list[np.ndarray] = dataclasses.field(default_factory=list)
  labels: list[str] = dataclasses.field(default_factory=list)
  digests: list[bytes] = dataclasses.field(default_factory=list)
  splits: list[str] = dataclasses.field(default_factory=list)
  rejects: list[Reject] = dataclasses.field(default_factory=list)
  shape: ImageShape = (0, 0, 0)


def gather(
  where: str,
  chunks: Iterable[Chunk],
  options: Options,
  total: int | None,
  sample: Sequence[bytes] = (),
) -> Gathered:
  """Reads and decodes all pictures; `sample`, or else the first chunk, determines their shape."""
  found = Gathered()
  bar = progress.Progress(total or 0)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for chunk in chunks:
      if not any(found.shape):
        found.shape = _shape(where, sample or chunk.encoded, options)
      _add(found, chunk, pool)
      bar.advance(len(chunk.ids) + len(chunk.rejects))
  bar.close()
  if found.rejects:
    name, _, reason = found.rejects[0]
    logging.warning(
      f'{where}: {len(found.rejects)} pictures are left out, such as {name} ({reason}); '
      'rejects.jsonl in the workdir lists them'
    )
  return found


def _shape(where: str, encoded: Sequence[bytes], options: Options) -> ImageShape:
  """Returns the shape of the images to train on: as asked, else that of pictures like these."""
  headers = list(_headers(encoded))
  sizes = {size for size, _ in headers}
  columns, rows = next(iter(sizes)) if len(sizes) == 1 else (0, 0)
  if options.image_size:
    rows = columns = options.image_size
  elif not 0 < max(rows, columns) <= MAX_OWN_SIDE:
    rows = columns = PHOTO_SIDE
  are_grey = bool(headers) and all(mode in GREY_MODES for _, mode in headers)
  channels = CHANNELS[options.channels or ('grey' if are_grey else 'rgb')]
  logging.info(
    f'{where}: images of {rows}x{columns}, {decode.COLOURS[channels]}; pass --image_size and '
    '--channels for others'
  )
  return rows, columns, channels


def _headers(encoded: Sequence[bytes]) -> Iterator[tuple[tuple[int, int], str]]:
  """Yields (width, height) and Pillow's mode of each picture whose header can be read."""
  for content in encoded:
    try:
      with Image.open(io.BytesIO(content), formats=HEADERS) as image:
        yield image.size, image.mode
    except Exception as error:  # a picture that cannot be read is rejected when it is decoded
      logging.debug('%s', error)


def _add(found: Gathered, chunk: Chunk, pool: concurrent.futures.Executor) -> None:
  """Adds the pictures of a chunk that have a label and can be decoded."""
  parts = [
    chunk.encoded[first : first + DECODED_AT_ONCE]
    for first in range(0, len(chunk.encoded), DECODED_AT_ONCE)
  ]
  found.rejects += chunk.rejects
  rows: list[int] = []
  decoded = list(pool.map(lambda part: _decode(part, found.shape), parts))
  for number, part in enumerate(decoded):
    first = number * DECODED_AT_ONCE
    for i in range(len(part.pixels)):
      if reason := part.reasons.get(i, '' if chunk.labels[first + i] else 'it has no label'):
        found.rejects.append((chunk.ids[first + i], 'decode', reason))
      else:
        rows.append(first + i)
  if rows:
    found.pixels.append(np.concatenate([part.pixels for part in decoded])[rows])
  found.labels += [chunk.labels[row] for row in rows]
  found.splits += [chunk.splits[row] for row in rows]
  found.digests += [hashlib.sha256(chunk.encoded[row]).digest() for row in rows]


def _decode(encoded: Sequence[bytes], shape: ImageShape) -> decode.Decoded:
  return decode.decode(encoded, 'auto', MAX_PIXELS, shape, conversion=CONVERSION)
