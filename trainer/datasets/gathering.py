"""The pictures of a source, read and decoded to images of one shape."""

import collections
import concurrent.futures
import hashlib
import itertools
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, logging

from images import ImageShape, decode
from trainer import data, progress
from trainer.datasets import Options, prepared, shapes

DECODED_AT_ONCE = 64  # by a thread
CONVERSION = 'fit'
NO_LABEL = 'it has no label'

NOTHING: Mapping[str, int] = types.MappingProxyType({})

Reject = tuple[str, str, str]  # id, stage, reason


class Chunk(NamedTuple):
  """N pictures as read, with labels ('' if one has none) and splits ('' if the source has none).

  `passed_over` counts what is no picture, by kind; `unread` the rejects that are files which could
  not be opened, but may be another time.
  """

  ids: Sequence[str]
  encoded: Sequence[bytes]
  labels: Sequence[str]
  splits: Sequence[str]
  rejects: Sequence[Reject] = ()
  passed_over: Mapping[str, int] = NOTHING
  unread: int = 0


class Source(NamedTuple):
  """Pictures to train on, before they are read.

  Attributes:
    where: what messages call it.
    chunks: its pictures, in an order that is always the same.
    labels: the classes' names, if they are known; each must have a picture.
    order: of the classes' names that occur, if `labels` is not given; by default they are sorted.
    total: the number of pictures, if it is known.
    sample: returns encoded pictures from all its parts; by default those of the first chunk.
    fingerprint: differs for other pictures; with it they can be prepared in a directory.
    passed_over: counts what was found beside the pictures, by kind.
  """

  where: str
  chunks: Iterable[Chunk]
  labels: Sequence[str] = ()
  order: Sequence[str] = ()
  total: int | None = None
  sample: Callable[[], Iterable[bytes]] | None = None
  fingerprint: str = ''
  passed_over: Mapping[str, int] = NOTHING


class Gathered(NamedTuple):
  """N pictures, decoded.

  Attributes:
    pixels: uint8 (N, height, width, channels), in memory or on disk.
    labels: N names.
    digests: N checksums of the encoded pictures.
    splits: N names, '' if the source has none.
    rejects: those that were left out.
    shape: of the images.
  """

  pixels: data.Pixels
  labels: list[str]
  digests: list[str]
  splits: list[str]
  rejects: list[Reject]
  shape: ImageShape


def gather(source: Source, options: Options, store: prepared.Store) -> Gathered:
  """Reads and decodes the pictures that are not in the store yet, and returns all.

  Raises:
    app.UsageError: there are no pictures, or none can be used.
  """
  if not store.is_complete:
    _fill(source, options, store)
  lines = store.lines
  if not lines:
    raise app.UsageError(f'{source.where}: has no pictures; add some')
  labels, digests, given = (
    [value for line in lines for value in line[name]] for name in ('labels', 'digests', 'splits')
  )
  rejects = [tuple(reject) for line in lines for reject in line['rejects']]
  shape = tuple(lines[0]['shape'])
  _check_usable(source.where, labels, rejects)
  _warn_of_rejects(source.where, rejects)
  _warn_of_unread(store)
  _warn_of(source.where, 'left out', [source.passed_over, *_counts(lines, 'passed_over')])
  _warn_of(source.where, 'different', _counts(lines, 'others'))
  return Gathered(store.images(), labels, digests, given, rejects, shape)


def _check_usable(where: str, labels: Sequence[str], rejects: Sequence[Reject]) -> None:
  """Raises app.UsageError if no picture can be used."""
  if labels:
    return
  others = [reject for reject in rejects if reject[2] != NO_LABEL]
  if not others:
    raise app.UsageError(
      f'{where}: has no labels that are known; name the column that has them with --label_column'
    )
  name, _, reason = others[0]
  raise app.UsageError(
    f'{where}: none of {len(rejects)} pictures can be used, such as {name} ({reason}); correct that'
  )


def _counts(lines: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, int]]:
  return [line.get(name, NOTHING) for line in lines]


def _warn_of_rejects(where: str, rejects: Sequence[Reject]) -> None:
  """Logs how many pictures are left out, if there are any."""
  if rejects:
    name, _, reason = rejects[0]
    logging.warning(
      f'{where}: {len(rejects)} pictures are left out, such as {name} ({reason}); '
      'rejects.jsonl in the workdir lists them once the training starts'
    )


def _warn_of_unread(store: prepared.Store) -> None:
  """Logs how pictures that could not be opened can be tried again, unless they always are."""
  unread = sum(line.get('unread', 0) for line in store.lines)
  if unread and store.name:
    logging.warning(
      f'{unread} of these could not be opened when they were prepared; if they can be now, delete '
      f'{store.name} to prepare all again'
    )


def _warn_of(where: str, what: str, counts: Iterable[Mapping[str, int]]) -> None:
  """Logs the sums of counts by kind."""
  sums = collections.Counter[str]()
  for each in counts:
    sums.update(each)
  for kind, count in sorted(sums.items()):
    logging.warning(f'{where}: {what}: {count} ({kind})')


def _fill(source: Source, options: Options, store: prepared.Store) -> None:
  """Decodes the chunks after those that the store has, and adds them."""
  bar = progress.Progress(source.total or 0)
  shape = tuple(store.lines[0]['shape']) if store.lines else None
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for chunk in itertools.islice(source.chunks, len(store.lines), None):
      if not shape:
        sample = source.sample() if source.sample else chunk.encoded
        shape = shapes.chosen(source.where, sample, options)
      store.add(*_decode_chunk(chunk, shape, options, pool))
      bar.advance(len(chunk.ids) + len(chunk.rejects))
  bar.close()
  if any(line['labels'] for line in store.lines):
    store.complete()
  else:
    store.discard()


def _decode_chunk(
  chunk: Chunk, shape: ImageShape, options: Options, pool: concurrent.futures.Executor
) -> tuple[dict[str, Any], np.ndarray]:
  """Returns what is to be known of the pictures that can be used, and their pixels."""
  firsts = range(0, len(chunk.encoded), DECODED_AT_ONCE)
  parts = [chunk.encoded[first : first + DECODED_AT_ONCE] for first in firsts]
  decoded = list(pool.map(lambda part: _decode(part, shape), parts))
  reasons = {i: NO_LABEL for i, label in enumerate(chunk.labels) if not label}
  for first, part in zip(firsts, decoded):
    reasons |= {first + i: _reason(reason) for i, reason in part.reasons.items()}
  rows = [i for i in range(len(chunk.ids)) if i not in reasons]
  converted = [chunk.encoded[row] for row in rows if decoded[row // DECODED_AT_ONCE].converted]
  line = {
    'shape': shape,
    'labels': [chunk.labels[row] for row in rows],
    'digests': [hashlib.sha256(chunk.encoded[row]).hexdigest() for row in rows],
    'splits': [chunk.splits[row] for row in rows],
    'passed_over': dict(chunk.passed_over),
    'unread': chunk.unread,
    'others': shapes.count_others(converted, shape, options),
    'rejects': [*chunk.rejects, *((chunk.ids[i], 'decode', reasons[i]) for i in sorted(reasons))],
  }
  none = np.zeros((0, *shape), np.uint8)
  return line, np.concatenate([none, *(part.pixels for part in decoded)])[rows]


def _reason(said: str) -> str:
  """Returns why a picture is left out, without the flag that only the scorer has."""
  return said.replace(f'--max_pixels={shapes.MAX_PIXELS}', f'{shapes.MAX_PIXELS} pixels')


def _decode(encoded: Sequence[bytes], shape: ImageShape) -> decode.Decoded:
  return decode.decode(encoded, 'auto', shapes.MAX_PIXELS, shape, conversion=CONVERSION)
