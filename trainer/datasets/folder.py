"""Pictures of any size in folders named after their labels.

    ROOT/LABEL/*.jpg              some of each class are held out for the test and the validation
    ROOT/train/LABEL/*.jpg        or they are already apart; a split that is not there is made of
    ROOT/validation/LABEL/*.jpg   the training's
    ROOT/test/LABEL/*.jpg

Local or gs://. The order is that of the sorted paths.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from absl import app

from batch.readers import image_files, sniff
from storage import files
from trainer.datasets import SPLITS, Dataset, Options, gathering, pictures, scorers_readers


def load(name: str, options: Options) -> Dataset:
  """Returns the dataset in the folder `source`.

  Raises:
    app.UsageError: `source` is missing, or its folders do not make a classifier.
  """
  where, root = f'--source={options.source}', _root(name, options)
  with files.as_usage_error(where):
    found = {split: _pictures_in(files.join(root, split)) for split in SPLITS}
    if not found['train']:
      found = {'': _pictures_in(root)}
    labels = _check_classes(where, root, found)
    everything = [file for some in found.values() for file in some]
    spread = everything[:: 1 + len(everything) // scorers_readers.CHUNK_PICTURES]
    found_there = gathering.Source(
      where,
      _chunks(found),
      labels,
      total=len(everything),
      sample=lambda: next(_chunks({'': spread})).encoded,  # of all classes
      fingerprint=repr([(file.uri, file.size) for file in everything]),
    )
    return pictures.to_dataset(found_there, options, name=name, title=os.path.basename(root))


def _root(name: str, options: Options) -> str:
  if not options.source:
    raise app.UsageError(f'--source is not given: --dataset={name} needs the folder of pictures')
  if options.idx_dir:
    raise app.UsageError(f'--dataset={name}: takes --source, not --idx_dir')
  for flag in ('image_column', 'label_column', 'split_column'):
    if value := getattr(options, flag):
      raise app.UsageError(f'--{flag}={value}: is for --dataset=manifest; leave it out')
  return options.source.rstrip('/') or '/'


def _pictures_in(folder: str) -> list[files.File]:
  """Returns the files FOLDER/LABEL/NAME that are pictures by their names, sorted."""
  depth = files.join(folder, '').count('/') + 1
  return [
    file
    for file in files.list_files(folder)
    if file.uri.count('/') == depth and re.search(sniff.FILE_NAME, file.uri.lower())
  ]


def _check_classes(where: str, root: str, found: dict[str, list[files.File]]) -> list[str]:
  """Returns the labels.

  Raises:
    app.UsageError: there are no pictures, fewer than two classes, one is empty, or training lacks
      one.
  """
  classes = {split: {_label(file.uri) for file in some} for split, some in found.items()}
  first = next(iter(classes))
  if not classes[first]:
    raise app.UsageError(f'{where}: has no pictures named LABEL/*.jpg or train/LABEL/*.jpg')
  for split, labels in classes.items():
    if empty := sorted(_folders(files.join(root, split) if split else root) - labels):
      raise app.UsageError(
        f'{where}: {files.join(split, empty[0]).lstrip("/")} has no pictures; add some, or remove '
        'the folder'
      )
    if labels and (unknown := sorted(labels - classes[first])):
      raise app.UsageError(f'{where}: {split}/ has {unknown[0]}, which train/ does not have')
  names = sorted(classes[first])
  pictures.check_labels(where, names)
  return names


def _folders(folder: str) -> set[str]:
  """Returns the names of the folders in a local one; a bucket has no empty folders."""
  if not files.is_local(folder) or not os.path.isdir(folder):
    return set()
  with os.scandir(folder) as entries:
    return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')}


def _label(path: str) -> str:
  return path.rsplit('/', 2)[1]


def _chunks(found: Mapping[str, Sequence[files.File]]) -> Iterator[gathering.Chunk]:
  settings = scorers_readers.settings(label_from='directory')
  for split, some in found.items():
    shards = image_files.plan(some, settings).shards
    read = itertools.chain.from_iterable(image_files.read(each, 0, settings) for each in shards)
    for chunk in scorers_readers.to_chunks(read, lambda images: [split] * len(images.ids)):
      yield chunk._replace(labels=[_label(path) for path in chunk.ids])
