"""Pictures of any size in folders named after their labels.

    ROOT/LABEL/*.jpg              some of each class are held out for the test and the validation
    ROOT/train/LABEL/*.jpg        or they are already apart; a split that is not there is made of
    ROOT/validation/LABEL/*.jpg   the training's. Other usual names of splits are understood, too
    ROOT/test/LABEL/*.jpg

Local or gs://. The order is that of the sorted paths.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from absl import app, logging

from batch import source
from batch.readers import image_files, sniff
from storage import files
from trainer.datasets import SPLITS, Dataset, Options, gathering, pictures, scorers_readers
from trainer.datasets.splits import SPLIT_NAMES

SAMPLE_PICTURES = 512  # at most, besides one of each class


class Layout(NamedTuple):
  """Where a folder's pictures are.

  Attributes:
    homes: the subfolder with the classes of each split; {'': ''} if there are no splits.
    pictures: of each split, sorted by path.
    others: files that are none of them.
  """

  homes: dict[str, str]
  pictures: dict[str, list[files.File]]
  others: list[files.File]


def load(name: str, options: Options) -> Dataset:
  """Returns the dataset in the folder `source`.

  Raises:
    app.UsageError: `source` is missing, or its folders do not make a classifier.
  """
  where, root = f'--source={options.source}', _root(name, options)
  with files.as_usage_error(where):
    if files.is_local(root) and not os.path.isdir(root):
      what = 'is a file' if os.path.exists(root) else 'does not exist'
      raise app.UsageError(f'{where}: {what}; pass the folder of pictures')
    passed_over = files.Counts()
    layout = _layout(where, root, files.list_files(root, passed_over))
    labels = _check_classes(where, root, layout)
    _warn_of_others(where, root, layout)
  everything = [file for some in layout.pictures.values() for file in some]
  found = gathering.Source(
    where,
    _chunks(where, layout.pictures),
    labels,
    total=len(everything),
    sample=lambda: _sample(where, everything),
    fingerprint=repr([(file.uri, file.size) for file in everything]),
    passed_over=passed_over,
  )
  return pictures.to_dataset(found, options, name=name, title=os.path.basename(root))


def _root(name: str, options: Options) -> str:
  if not options.source:
    raise app.UsageError(f'--source is not given: --dataset={name} needs the folder of pictures')
  if options.idx_dir:
    raise app.UsageError(f'--dataset={name}: takes --source, not --idx_dir')
  for flag in ('image_column', 'label_column', 'split_column'):
    if value := getattr(options, flag):
      raise app.UsageError(f'--{flag}={value}: is for --dataset=manifest; leave it out')
  return options.source.rstrip('/') or '/'


def _layout(where: str, root: str, found: Sequence[files.File]) -> Layout:
  """Sorts the files of a folder.

  Raises:
    app.UsageError: two folders are for one split.
  """
  paths = [file.uri.removeprefix(files.join(root, '')).split('/') for file in found]
  are_pictures = [bool(re.search(sniff.FILE_NAME, path[-1].lower())) for path in paths]
  tops = {path[0] for path, is_one in zip(paths, are_pictures) if is_one and len(path) == 3}
  homes = _homes(where, root, tops)
  split_of = {home: split for split, home in homes.items()}
  layout = Layout(homes, {split: [] for split in (*SPLITS, '') if split in homes}, [])
  for file, path, is_one in zip(found, paths, are_pictures):
    split = split_of.get('/'.join(path[:-2])) if is_one and len(path) > 1 else None
    (layout.others if split is None else layout.pictures[split]).append(file)
  return layout


def _homes(where: str, root: str, tops: set[str]) -> dict[str, str]:
  """Returns the folder of each split; {'': ''} if none has pictures to train on.

  Args:
    where: what messages call `root`.
    root: the folder.
    tops: the names of the folders in it whose folders have pictures.
  """
  if 'train' not in {SPLIT_NAMES.get(name.lower()) for name in tops}:
    return {'': ''}
  homes: dict[str, str] = {}
  for name in sorted(tops | _folders(root)):
    split = SPLIT_NAMES.get(name.lower())
    if split in homes:
      raise app.UsageError(
        f'{where}: {homes[split]}/ and {name}/ are both for {split}; put them together'
      )
    if split:
      homes[split] = name
  return homes


def _check_classes(where: str, root: str, layout: Layout) -> list[str]:
  """Returns the labels.

  Raises:
    app.UsageError: there are no pictures, fewer than two classes, one is empty, or training lacks
      one.
  """
  classes = {
    home: {_label(file.uri) for file in layout.pictures[split]}
    for split, home in layout.homes.items()
  }
  training = layout.homes.get('train', '')
  if not classes[training]:
    raise app.UsageError(f'{where}: has no pictures named LABEL/*.jpg or train/LABEL/*.jpg')
  for home, labels in classes.items():
    if empty := sorted(_folders(files.join(root, home) if home else root) - labels):
      raise app.UsageError(
        f'{where}: {files.join(home, empty[0]).lstrip("/")} has no pictures; add some, or remove '
        'the folder'
      )
    if unknown := sorted(labels - classes[training]):
      raise app.UsageError(f'{where}: {home}/ has {unknown[0]}, which {training}/ does not have')
  names = sorted(classes[training])
  pictures.check_labels(where, names)
  return names


def _warn_of_others(where: str, root: str, layout: Layout) -> None:
  """Logs how many files are no pictures of a class."""
  if layout.others:
    name = layout.others[0].uri.removeprefix(files.join(root, ''))
    training = layout.homes.get('train')
    logging.warning(
      f'{where}: other files, left out: {len(layout.others)}, such as {name}; pictures are '
      f'{training + "/" if training else ""}LABEL/NAME.jpg'
    )


def _folders(folder: str) -> set[str]:
  """Returns the names of the folders in a local one; a bucket has no empty folders."""
  if not files.is_local(folder) or not os.path.isdir(folder):
    return set()
  with os.scandir(folder) as entries:
    return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')}


def _label(path: str) -> str:
  return path.rsplit('/', 2)[1]


def _sample(where: str, everything: Sequence[files.File]) -> Iterator[bytes]:
  """Yields pictures from everywhere in the folder, and at least one of each class."""
  spread = everything[:: 1 + len(everything) // SAMPLE_PICTURES]
  of_classes = {_label(file.uri): file for file in everything}
  for chunk in _chunks(where, {'': sorted({*spread, *of_classes.values()})}):
    yield from chunk.encoded


def _chunks(where: str, found: Mapping[str, Sequence[files.File]]) -> Iterator[gathering.Chunk]:
  settings = scorers_readers.settings(label_from='directory')
  for split, some in found.items():
    shards = image_files.plan(some, settings).shards
    read = itertools.chain.from_iterable(source.read(each, 0, settings) for each in shards)
    yield from scorers_readers.to_chunks(
      where, read, lambda images: [split] * len(images.ids), label_of=str
    )
