"""Any image classification dataset of TensorFlow Datasets, by its name there.

The encoded pictures are read and decoded as the scorer decodes files, not by TFDS.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from absl import app, logging

from storage import files
from trainer import data
from trainer.datasets import (
  DATASETS,
  SPLITS,
  Dataset,
  Options,
  gathering,
  pictures,
  prepared,
  tfds_directory,
)
from trainer.datasets import fashion_mnist_files as published

CHUNK_PICTURES = 512  # read and decoded at a time
LARGE_BYTES = 1 << 30  # of a dataset, in TFDS's files: its images are prepared on a disk
NAME = re.compile(r'\w+(/[\w.-]+)?(:[\d.]+)?')  # in TFDS's own catalogue: no path, no community's


def load(name: str, options: Options) -> Dataset:
  """Returns the dataset that TFDS calls `name`, such as `kmnist` or `emnist/letters`.

  It is read from `data_dir`, and prepared there if necessary.

  Raises:
    app.UsageError: TFDS has no such dataset, it is not there and cannot be downloaded, or its
      examples are not one picture with one label.
  """
  for flag in ('source', 'idx_dir', 'image_column', 'label_column', 'split_column'):
    if value := getattr(options, flag):
      raise app.UsageError(f'--{flag}={value}: is not for --dataset={name}; leave it out')
  where = f'--dataset={name}'
  tfds.core.utils.gcs_utils._is_gcs_disabled = True  # or TFDS asks a bucket for metadata
  builder = _builder(name, options.data_dir)
  image, label = _features(where, builder.info)
  root = options.data_dir or os.path.expanduser(tfds.core.constants.DATA_DIR)
  _prepare(where, builder, root)
  splits = [split for split in SPLITS if split in builder.info.splits]
  if 'train' not in splits:
    raise app.UsageError(f'{where}: has no split called train; pass another dataset')
  source = gathering.Source(
    where,
    _chunks(f'--data_dir={root}: {name}', builder, splits, image, label),
    order=builder.info.features[label].names,
    total=sum(builder.info.splits[split].num_examples for split in splits),
    fingerprint=_fingerprint(builder) if _is_for_disk(builder, root) else '',
  )
  return pictures.to_dataset(
    source,
    dataclasses.replace(options, data_dir=root),
    name=f'{name.partition(":")[0]}/{builder.version}',
    title=builder.info.full_name,
    homepage=builder.info.homepage or '',
    license=builder.info.redistribution_info.license,
  )


def _is_for_disk(builder: tfds.core.DatasetBuilder, root: str) -> bool:
  """Returns whether the images are prepared in `root`: if they are many, and it can be written."""
  if builder.info.dataset_size <= LARGE_BYTES:
    return False
  is_there = os.path.isdir(os.path.join(root, prepared.ROOT))
  if is_there or not files.is_local(root) or os.access(root, os.W_OK):
    return True
  logging.warning(f'--data_dir={root}: cannot be written to; all images are kept in memory')
  return False


def _fingerprint(builder: tfds.core.DatasetBuilder) -> str:
  """Returns a text that differs for another dataset, or another version of it."""
  shards = {name: split.shard_lengths for name, split in builder.info.splits.items()}
  return repr((builder.info.full_name, builder.info.dataset_size, sorted(shards.items())))


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """Returns the builder, from TFDS's code or from what is prepared in `data_dir`."""
  root = tfds_directory.literal(data_dir) if data_dir else None
  if not NAME.fullmatch(name):
    raise app.UsageError(_unknown(name))
  try:
    return tfds.builder(name, data_dir=root)
  except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
    raise app.UsageError(_unknown(name)) from error
  except ImportError as error:
    raise app.UsageError(
      f'--dataset={name}: needs a package that is not installed ({error}); install it'
    ) from error


def _unknown(name: str) -> str:
  return (
    f'--dataset={name}: is neither {", ".join(DATASETS)} nor the name of a TensorFlow Datasets '
    'dataset here; for your own pictures pass --dataset=folder --source=DIR'
  )


def _features(where: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
  """Returns the names of the features with the picture and with its class.

  Raises:
    app.UsageError: there is not exactly one of each.
  """
  features = dict(info.features.items()) if hasattr(info.features, 'items') else {}
  images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
  labels = [key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
  if info.supervised_keys and len(info.supervised_keys) == 2:  # which of several are meant
    images, labels = (
      [key for key in info.supervised_keys if key in found] or found for found in (images, labels)
    )
  if len(images) != 1 or len(labels) != 1:
    raise app.UsageError(
      f'{where}: its examples have {len(images)} pictures and {len(labels)} classes, not one of '
      'each; pass a dataset for image classification'
    )
  return images[0], labels[0]


def _prepare(where: str, builder: tfds.core.DatasetBuilder, root: str) -> None:
  """Downloads and prepares the dataset unless it is there.

  Raises:
    app.UsageError: that is not possible.
    failures.Failure: a download failed.
  """
  if builder.is_prepared():
    return
  if not files.is_local(root):
    raise app.UsageError(
      f'--data_dir={root}: has no {builder.name}; prepare it in a local directory, then copy it'
    )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  for url in list(builder.url_infos)[:1]:
    published.check_route(url, 'pass ')
  logging.info('preparing %s in %s', builder.name, root)
  remedy = 'pass a --data_dir in which it is prepared'
  with tfds_directory.locked(root), tfds_directory.preparing(where, remedy):
    builder.download_and_prepare()


def _chunks(
  where: str, builder: tfds.core.DatasetBuilder, splits: Sequence[str], image: str, label: str
) -> Iterator[gathering.Chunk]:
  """Yields the encoded pictures in TFDS's own order. Labels below 0 stand for none."""
  names = builder.info.features[label].names
  config = tfds.ReadConfig(
    try_autocache=False, options=data.without_autotune(), interleave_cycle_length=1
  )
  for split in splits:
    with tfds_directory.damage_named(where):
      dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=config,
        decoders={image: tfds.decode.SkipDecoding()},
      )
      pairs = dataset.map(lambda row: (row[image], row[label])).batch(CHUNK_PICTURES)
      first = 0
      for encoded, classes in pairs.as_numpy_iterator():
        yield gathering.Chunk(
          ids=[f'{split}#{first + i}' for i in range(len(classes))],
          encoded=list(encoded),
          labels=[names[number] if number >= 0 else '' for number in classes],
          splits=[split] * len(classes),
        )
        first += len(classes)
