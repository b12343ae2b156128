"""Pictures with labels, from whatever source, as a dataset: images of one shape, in splits."""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, logging
from PIL import Image

from images import ImageShape, decode
from trainer import progress
from trainer.data import Examples
from trainer.datasets import SPLITS, Dataset, Options, splits

PHOTO_SIDE = 64  # of the images that are made of photos
MAX_OWN_SIDE = 128  # larger pictures are photos, even if all have one size
MAX_CLASSES = 10_000
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
class _Gathered:
  """The pictures of a source, decoded."""

  pixels: list[np.ndarray] = dataclasses.field(default_factory=list)
  labels: list[str] = dataclasses.field(default_factory=list)
  digests: list[bytes] = dataclasses.field(default_factory=list)
  splits: list[str] = dataclasses.field(default_factory=list)
  rejects: list[Reject] = dataclasses.field(default_factory=list)


def to_dataset(
  where: str,
  chunks: Iterable[Chunk],
  options: Options,
  labels: Sequence[str] = (),
  order: Sequence[str] = (),
  total: int | None = None,
  **facts: Any,
) -> Dataset:
  """Returns the dataset of all pictures of a source, which are read and decoded here.

  Args:
    where: what messages call the source.
    chunks: its pictures, in an order that is always the same.
    options: the images' size and channels, and how many to validate on.
    labels: the classes' names, if they are known; each must have a picture.
    order: the order of the classes' names, if `labels` is not given; by default they are sorted.
    total: the number of pictures, if it is known.
    facts: the other fields of Dataset.

  Raises:
    app.UsageError: the pictures do not make a classifier.
  """
  shape, found = _gather(where, chunks, options, total)
  names = tuple(labels or _in_order(set(found.labels), order))
  check_labels(where, names)
  whole = _examples(found, names, shape)
  parts = _split(where, whole.labels, found, options.validation_examples)
  _check_parts(where, parts, whole.labels, names, found.rejects)
  examples = {split: whole.take(rows) for split, rows in parts.items()}
  return Dataset(
    image_shape=shape,
    labels=names,
    num_examples={split: len(part) for split, part in examples.items()},
    read=examples.__getitem__,
    preprocessing=CONVERSION,
    rejects=found.rejects,
    **{'flip': False, **facts},  # pictures may show letters or digits
  )


def _examples(found: _Gathered, names: Sequence[str], shape: ImageShape) -> Examples:
  index = {name: i for i, name in enumerate(names)}
  return Examples(
    np.concatenate([np.zeros((0, *shape), np.uint8), *found.pixels]),
    np.array([index[label] for label in found.labels], np.int64),
  )


def check_labels(where: str, labels: Sequence[str]) -> None:
  """Raises app.UsageError if these names do not make the labels of a classifier."""
  if odd := [label for label in labels if not _is_line_of_text(label)]:
    raise app.UsageError(f'{where}: the label {odd[0]!a} is not a line of UTF-8; rename it')
  if len(labels) < 2:
    if not labels:
      raise app.UsageError(
        f'{where}: has no labels that are known; name the column that has them with --label_column'
      )
    raise app.UsageError(
      f'{where}: has one class only, {labels[0]}; a classifier needs two classes or more'
    )
  if len(labels) > MAX_CLASSES:
    raise app.UsageError(
      f'{where}: has {len(labels)} classes, such as {labels[0]} and {labels[1]}; merge some, '
      f'{MAX_CLASSES} is the most'
    )


def _is_line_of_text(label: str) -> bool:
  return label.splitlines() == [label] and label.encode(errors='replace').decode() == label


def _in_order(labels: set[str], order: Sequence[str]) -> list[str]:
  """Returns the labels in this order; without one by value if all are whole numbers, or by name."""
  if order:
    return [label for label in order if label in labels]
  are_numbers = all(label.isascii() and label.isdecimal() for label in labels)
  return sorted(labels, key=lambda label: (int(label) if are_numbers else 0, label))


def _gather(
  where: str, chunks: Iterable[Chunk], options: Options, total: int | None
) -> tuple[ImageShape, _Gathered]:
  """Reads and decodes all pictures; the first chunk determines their shape."""
  found, shape = _Gathered(), (0, 0, 0)
  bar = progress.Progress(total or 0)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for chunk in chunks:
      if not any(shape):
        shape = _shape(where, chunk.encoded, options)
      _add(found, chunk, shape, pool)
      bar.advance(len(chunk.ids) + len(chunk.rejects))
  bar.close()
  if found.rejects:
    name, _, reason = found.rejects[0]
    logging.warning(
      f'{where}: {len(found.rejects)} pictures are left out, such as {name} ({reason}); '
      'rejects.jsonl in the workdir lists them'
    )
  return shape, found


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


def _add(
  found: _Gathered, chunk: Chunk, shape: ImageShape, pool: concurrent.futures.Executor
) -> None:
  """Adds the pictures of a chunk that have a label and can be decoded."""
  parts = [
    chunk.encoded[first : first + DECODED_AT_ONCE]
    for first in range(0, len(chunk.encoded), DECODED_AT_ONCE)
  ]
  found.rejects += chunk.rejects
  rows: list[int] = []
  decoded = list(pool.map(lambda part: _decode(part, shape), parts))
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


def _split(
  where: str, labels: np.ndarray, found: _Gathered, validation_examples: int | None
) -> dict[str, np.ndarray]:
  """Returns the rows of each split; those that the source does not have are held out."""
  given = np.array(found.splits, dtype=object)
  parts = {split: np.flatnonzero(given == split) for split in SPLITS}
  parts['train'] = np.flatnonzero((given == 'train') | (given == ''))
  if validation_examples and len(parts['validation']):
    raise app.UsageError(
      f'--validation_examples={validation_examples}: {where} has its own validation split of '
      f'{len(parts["validation"])}; leave it out'
    )
  for split, count in (('test', None), ('validation', validation_examples)):
    if not len(parts[split]):
      rows = parts['train']
      if count and count >= len(rows):
        raise app.UsageError(
          f'--validation_examples={count}: none of {len(rows)} images left to train on; pass fewer'
        )
      fraction = count / len(rows) if count else splits.FRACTION
      held_out = splits.hold_out(labels[rows], [found.digests[row] for row in rows], fraction)
      parts[split], parts['train'] = rows[held_out], rows[~held_out]
  return parts


def _check_parts(
  where: str,
  parts: dict[str, np.ndarray],
  labels: np.ndarray,
  names: Sequence[str],
  rejects: Sequence[Reject],
) -> None:
  """Raises app.UsageError if a split is empty, or if training lacks a class."""
  for split, rows in parts.items():
    if not len(rows):
      but = f', and {len(rejects)} cannot be used ({rejects[0][2]})' if rejects else ''
      raise app.UsageError(f'{where}: has no pictures for {split}{but}; add some')
  trained = set(labels[parts['train']].tolist())
  for split in ('test', 'validation'):
    if unknown := sorted(set(labels[parts[split]].tolist()) - trained):
      raise app.UsageError(
        f'{where}: {split} has {names[unknown[0]]}, of which there is no picture to train on; add '
        'some, or remove it'
      )
  if empty := [name for i, name in enumerate(names) if i not in trained]:
    raise app.UsageError(
      f'{where}: the class {empty[0]} has no picture that can be read; add some, or remove it'
    )
