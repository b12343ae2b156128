"""Pictures with labels, from whatever source, as a dataset: images of one shape, in splits."""

import collections
import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, logging

from trainer.data import Examples
from trainer.datasets import SPLITS, Dataset, Options, prepared, splits
from trainer.datasets.gathering import CONVERSION, Gathered, Reject, Source, gather

MAX_CLASSES = 10_000


def to_dataset(source: Source, options: Options, **facts: Any) -> Dataset:
  """Returns the dataset of all pictures of a source, which are read and decoded here.

  Args:
    source: the pictures.
    options: the images' size and channels, how many to validate on, and where to prepare them.
    facts: the other fields of Dataset.

  Raises:
    app.UsageError: the pictures do not make a classifier.
  """
  with _store(source.fingerprint, options) as store:
    found = gather(source, options, store)
  names = tuple(source.labels or _in_order(set(found.labels), source.order))
  check_labels(source.where, names)
  _warn_of_two_labels(source.where, found)
  whole = _examples(found, names)
  parts = _split(source.where, whole.labels, found, names, options.validation_examples)
  return Dataset(
    image_shape=found.shape,
    labels=names,
    num_examples={split: len(rows) for split, rows in parts.items()},
    read=lambda split: whole.take(parts[split]),
    preprocessing=CONVERSION,
    rejects=found.rejects,
    **{'flip': False, **facts},  # pictures may show letters or digits
  )


def _store(fingerprint: str, options: Options) -> contextlib.AbstractContextManager[prepared.Store]:
  if not fingerprint or not options.data_dir:
    return contextlib.nullcontext(prepared.Memory())
  return prepared.opened(options.data_dir, fingerprint, options.image_size, options.channels)


def _examples(found: Gathered, names: Sequence[str]) -> Examples:
  index = {name: i for i, name in enumerate(names)}
  return Examples(found.pixels, np.array([index[label] for label in found.labels], np.int64))


def _warn_of_two_labels(where: str, found: Gathered) -> None:
  labels = collections.defaultdict[str, set[str]](set)
  for digest, label in zip(found.digests, found.labels):
    labels[digest].add(label)
  if several := [sorted(of_one) for of_one in labels.values() if len(of_one) > 1]:
    logging.warning(
      f'{where}: pictures with several labels, in copies: {len(several)}, such as one of '
      f'{several[0][0]} and {several[0][1]}'
    )


def check_labels(where: str, labels: Sequence[str]) -> None:
  """Raises app.UsageError if these names do not make the labels of a classifier."""
  if odd := [label for label in labels if not _is_line_of_text(label)]:
    raise app.UsageError(f'{where}: the label {odd[0]!a} is not a line of UTF-8; rename it')
  if len(labels) < 2:
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


def _split(
  where: str,
  labels: np.ndarray,
  found: Gathered,
  names: Sequence[str],
  validation_examples: int | None,
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
  _check_parts(where, parts, labels, names, found.rejects)
  return parts


def _check_parts(
  where: str,
  parts: dict[str, np.ndarray],
  labels: np.ndarray,
  names: Sequence[str],
  rejects: Sequence[Reject],
) -> None:
  """Raises app.UsageError if a split is empty or training lacks a class; warns if a test does."""
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
  tested = set(labels[parts['test']].tolist())
  if untested := [name for i, name in enumerate(names) if i in trained - tested]:
    logging.warning(
      f'{where}: classes without a test picture: {len(untested)}, such as {untested[0]}'
    )
  if empty := [name for i, name in enumerate(names) if i not in trained]:
    raise app.UsageError(
      f'{where}: the class {empty[0]} has no picture that can be read; add some, or remove it'
    )
