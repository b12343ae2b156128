"""Fashion-MNIST through TensorFlow Datasets: prepared, downloaded, or made from the IDX files."""

import functools
import os
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import app, logging
from tensorflow_datasets.image_classification import mnist

from images import ImageShape
from storage import files
from trainer.data import Examples, without_autotune
from trainer.datasets import Dataset, Options, tfds_directory
from trainer.datasets import fashion_mnist_files as published

VERSION = str(mnist.FashionMNIST.VERSION)
LABELS = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)
IMAGE_SHAPE: ImageShape = (28, 28, 1)
NUM_EXAMPLES = {'train': 60_000, 'test': 10_000}
IDX_REMEDY = (
  "pass --idx_dir=DIR with the four IDX .gz files (Debian's package dataset-fashion-mnist has them)"
)
READ_ROWS = 1000  # images that TFDS decodes at a time


def load(name: str, options: Options) -> Dataset:
  """Returns Fashion-MNIST; the first read prepares it if necessary, see `prepare`.

  Raises:
    app.UsageError: an option is given that is for other datasets.
  """
  _check_options(options)
  data_dir = options.data_dir
  prepared = functools.cache(functools.partial(prepare, data_dir, options.idx_dir))

  def read_split(split: str) -> Examples:
    builder = prepared()
    with tfds_directory.damage_named(_named(data_dir)):
      check_splits(builder)
      return read(builder, split)

  return Dataset(
    name=f'fashion_mnist/{VERSION}',
    title='Fashion-MNIST',
    image_shape=IMAGE_SHAPE,
    labels=LABELS,
    num_examples=NUM_EXAMPLES,
    read=read_split,
    flip=True,
    preprocessing='fashion_mnist',
    license='MIT',
    homepage='https://github.com/zalandoresearch/fashion-mnist',
  )


def _check_options(options: Options) -> None:
  """Raises app.UsageError if an option is not for this dataset."""
  for flag in ('source', 'image_column', 'label_column', 'split_column'):
    if value := getattr(options, flag):
      raise app.UsageError(
        f'--{flag}={value}: is for --dataset=folder or manifest; pass one of them, or leave it out'
      )
  if options.image_size not in (None, IMAGE_SHAPE[0]) or options.channels not in (None, 'grey'):
    raise app.UsageError(
      f'--image_size={options.image_size}, --channels={options.channels}: fashion_mnist is '
      f'{IMAGE_SHAPE[0]}x{IMAGE_SHAPE[1]} grey; leave them out'
    )


def prepare(data_dir: str | None, idx_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """Returns the prepared TFDS dataset: from `data_dir`, made from `idx_dir`, or downloaded.

  Args:
    data_dir: a TFDS directory, local or gs://; None means TFDS's own default.
    idx_dir: a directory with the four IDX .gz files.

  Raises:
    app.UsageError: `data_dir` has another version, an IDX file is missing or is not the published
      one, or there is nothing local and no route to the download.
    failures.Failure: the download failed.
  """
  # Or TFDS asks a bucket for metadata, prepared or not.
  tfds.core.utils.gcs_utils._is_gcs_disabled = True
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  _check_version(data_dir)
  with tfds_directory.damage_named(_named(data_dir)):
    builder = _builder(data_dir, idx_dir)
    if builder.is_prepared():  # it appeared whole: TFDS renames the directory
      return builder
  if not idx_dir:
    published.check_route(f'{builder.URL}train-labels-idx1-ubyte.gz', f'{IDX_REMEDY}, or ')
  logging.info('preparing fashion_mnist %s in %s', VERSION, builder.data_dir)
  if not files.is_local(str(builder.data_dir)):
    return _prepare_in_bucket(data_dir, idx_dir)
  with (
    tfds_directory.locked(_root(data_dir)),
    tfds_directory.preparing(_named(data_dir), IDX_REMEDY),
  ):
    builder = _builder(data_dir, idx_dir)
    if not builder.is_prepared():  # by another process that had the lock
      builder.download_and_prepare()
  return builder


def _builder(data_dir: str | None, idx_dir: str | None) -> tfds.core.DatasetBuilder:
  """Returns TFDS's builder, of a dataset that is prepared or not."""
  root = tfds_directory.literal(data_dir) if data_dir else None
  if idx_dir:
    return _FromIdx(idx_dir=idx_dir, data_dir=root)
  return mnist.FashionMNIST(data_dir=root)


def _root(data_dir: str | None) -> str:
  return data_dir or os.path.expanduser(tfds.core.constants.DATA_DIR)


def _named(data_dir: str | None) -> str:
  """Returns what messages call the prepared dataset."""
  return f'--data_dir={_root(data_dir)}: fashion_mnist/{VERSION}'


def _prepare_in_bucket(data_dir: str | None, idx_dir: str | None) -> tfds.core.DatasetBuilder:
  """Prepares locally, then uploads.

  TFDS renames files one by one, the completeness marker first, so another host could read a partial
  dataset. Two hosts may do this at the same time: they write the same.
  """
  with tempfile.TemporaryDirectory() as scratch:
    prepared = prepare(scratch, idx_dir)
    target = mnist.FashionMNIST(data_dir=data_dir).data_dir
    with files.as_usage_error(f'--data_dir={data_dir}: cannot be written'):
      files.copy(str(prepared.data_dir), str(target), last='dataset_info.json')
  return mnist.FashionMNIST(data_dir=data_dir)


def check_splits(builder: tfds.core.DatasetBuilder) -> None:
  """Warns if a prepared dataset is smaller than the published one, as for a trial.

  Raises:
    app.UsageError: it has no split to train on or to test on.
  """
  found = {
    split: builder.info.splits[split].num_examples
    for split in NUM_EXAMPLES
    if split in builder.info.splits
  }
  if not all(found.get(split) for split in NUM_EXAMPLES):
    raise app.UsageError(
      f'{builder.data_dir}: has {found}, and both train and test are needed; '
      f'{tfds_directory.REMEDY}'
    )
  if found != NUM_EXAMPLES:
    logging.warning('%s has %s; Fashion-MNIST has %s', builder.data_dir, found, NUM_EXAMPLES)


def _check_version(data_dir: str | None) -> None:
  home = os.path.join(_root(data_dir), 'fashion_mnist')
  with files.as_usage_error(f'--data_dir={data_dir}'):
    prefix = files.join(home, '')
    names = {file.uri.removeprefix(prefix).split('/')[0] for file in files.list_files(home)}
  found = sorted(name for name in names if name[:1].isdigit() and 'incomplete' not in name)
  if found and VERSION not in found:
    raise app.UsageError(
      f'--data_dir={data_dir}: has fashion_mnist {", ".join(found)}, and this trainer reads '
      f'{VERSION}; pass another --data_dir to have it prepared there'
    )


class _FromIdx(mnist.FashionMNIST, skip_registration=True):  # type: ignore[call-arg]
  """TFDS's own builder, given local files instead of downloads."""

  name = 'fashion_mnist'

  def __init__(self, *, idx_dir: str, **kwargs: Any):
    self._idx_dir = idx_dir
    super().__init__(**kwargs)

  def _download_and_prepare(self, dl_manager: Any, *args: Any, **kwargs: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
      dl_manager.download_and_extract = functools.partial(
        published.unpack_idx, self._idx_dir, pathlib.Path(scratch)
      )
      super()._download_and_prepare(dl_manager, *args, **kwargs)


def read(builder: tfds.core.DatasetBuilder, split: str) -> Examples:
  """Returns every example of `train` or `test`, in TFDS's own order.

  Raises:
    app.UsageError: the prepared files are not complete, or not Fashion-MNIST.
  """
  config = tfds.ReadConfig(
    try_autocache=False, options=without_autotune(), interleave_cycle_length=1
  )
  dataset = builder.as_dataset(
    split=split, as_supervised=True, shuffle_files=False, read_config=config, batch_size=READ_ROWS
  )
  whole = Examples(*(np.concatenate(arrays) for arrays in zip(*dataset.as_numpy_iterator())))
  _check(whole, builder.info.splits[split].num_examples, f'{builder.data_dir}: split {split}')
  return whole


def _check(read: Examples, count: int, where: str) -> None:
  known = range(len(LABELS))
  classes = sorted({*known, *read.labels.tolist()})  # a trial dataset need not have all of them
  found = read.pixels.shape, read.pixels.dtype, read.labels.dtype, classes
  shape = (count, *IMAGE_SHAPE)
  if found != (shape, np.uint8, np.int64, list(known)):
    raise app.UsageError(
      f'{where}: has images {found[0]} {found[1]} and labels {found[3]} {found[2]}; expected '
      f'uint8 images of shape {shape} and int64 labels 0 to {known[-1]}; {tfds_directory.REMEDY}'
    )
