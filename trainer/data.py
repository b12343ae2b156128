"""Fashion-MNIST through TensorFlow Datasets, its splits, and the batch of any global step."""

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import os
import pathlib
import sys
import tempfile
import threading
import urllib.request
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, logging
from tensorflow_datasets.image_classification import mnist

from storage import files

VERSION = str(mnist.FashionMNIST.VERSION)
EXAMPLES = {'train': 60_000, 'test': 10_000}
REMEDY = 'remove the directory to have it prepared anew'
ROUTE_SECONDS = (
  15  # how long the download's host may take to answer before there counts as being no route
)

# sha256 of the uncompressed IDX files of github.com/zalandoresearch/fashion-mnist. The compressed files' own sums
# differ from one distributor to the next: the gzip header holds a name and a time.
IDX_SHA256 = {
  'train-images-idx3-ubyte.gz': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
  'train-labels-idx1-ubyte.gz': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
  't10k-images-idx3-ubyte.gz': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
  't10k-labels-idx1-ubyte.gz': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
}


@dataclasses.dataclass(frozen=True)
class Examples:
  """Images and what they show: pixels uint8 (N, 28, 28, 1), labels int64 (N,) from 0 to 9."""

  pixels: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, rows: np.ndarray) -> 'Examples':
    return Examples(self.pixels[rows], self.labels[rows])


# --- preparing ---------------------------------------------------------------------------------------------------


def prepare(data_dir: str | None, idx_dir: str | None = None) -> tfds.core.DatasetBuilder:
  """The prepared TFDS dataset: as it is where `data_dir` has it, else made from `idx_dir`, else downloaded.

  Args:
    data_dir: a TFDS directory, local or gs://; None means TFDS's own default.
    idx_dir: a directory with the four IDX .gz files.

  Raises:
    app.UsageError: `data_dir` holds another version, an IDX file is missing or is not the published one, or there is
      nothing local and no route to the download.
  """
  tfds.core.utils.gcs_utils._is_gcs_disabled = (
    True  # or TFDS asks a bucket for metadata, prepared or not
  )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  with _alone_in(data_dir):
    _check_version(data_dir)
    builder = (
      _FromIdx(idx_dir=idx_dir, data_dir=data_dir)
      if idx_dir
      else mnist.FashionMNIST(data_dir=data_dir)
    )
    if not builder.is_prepared():
      if not idx_dir:
        _check_route(builder.URL)
      logging.info('preparing fashion_mnist %s in %s', VERSION, builder.data_dir)
      if not files.is_local(str(builder.data_dir)):
        return _prepare_in_bucket(data_dir, idx_dir)
      builder.download_and_prepare()
  return builder


def _prepare_in_bucket(data_dir: str | None, idx_dir: str | None) -> tfds.core.DatasetBuilder:
  """TFDS would rename file by file, and the one that says that all are there first: another host would read too early.

  Two hosts may do this at the same time: what they write is the same.
  """
  with tempfile.TemporaryDirectory() as scratch:
    prepared = prepare(scratch, idx_dir)
    there = mnist.FashionMNIST(data_dir=data_dir).data_dir
    with files.as_usage_error(f'--data_dir={data_dir}: cannot be written'):
      files.copy(str(prepared.data_dir), str(there), last='dataset_info.json')
  return mnist.FashionMNIST(data_dir=data_dir)


def examples(builder: tfds.core.DatasetBuilder) -> dict[str, int]:
  """How many a prepared dataset has, by split. Fewer than Fashion-MNIST's are taken, for a trial, with a warning.

  Raises:
    app.UsageError: it has no split to train on or to test on.
  """
  found = {
    split: builder.info.splits[split].num_examples
    for split in EXAMPLES
    if split in builder.info.splits
  }
  if not all(found.get(split) for split in EXAMPLES):
    raise app.UsageError(
      f'{builder.data_dir}: has {found}, and both train and test are needed; {REMEDY}'
    )
  if found != EXAMPLES:
    logging.warning('%s has %s, where Fashion-MNIST has %s', builder.data_dir, found, EXAMPLES)
  return found


@contextlib.contextmanager
def _alone_in(data_dir: str | None) -> Iterator[None]:
  """Makes a second process wait until the first has prepared the dataset, but for one in a bucket."""
  root = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
  if '://' in root:
    yield
    return
  try:
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, '.fashion_mnist.lock'), 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      yield
  except (
    PermissionError
  ):  # a read-only directory can still hold a prepared dataset, and needs no lock
    yield


def _check_version(data_dir: str | None) -> None:
  home = os.path.join(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR), 'fashion_mnist')
  with files.as_usage_error(f'--data_dir={data_dir}'):
    names = {
      file.uri.removeprefix(files.join(home, '')).split('/')[0] for file in files.list_files(home)
    }
  found = sorted(name for name in names if name[:1].isdigit() and 'incomplete' not in name)
  if found and VERSION not in found:
    raise app.UsageError(
      f'--data_dir={data_dir}: holds fashion_mnist {", ".join(found)}, and this trainer reads {VERSION}; '
      'pass another --data_dir to have it prepared there'
    )


class _FromIdx(mnist.FashionMNIST, skip_registration=True):  # type: ignore[call-arg]
  """TFDS's own builder, given local files where it would download them."""

  name = 'fashion_mnist'

  def __init__(self, *, idx_dir: str, **kwargs):
    self._idx_dir = idx_dir
    super().__init__(**kwargs)

  def _download_and_prepare(self, dl_manager, *args, **kwargs):
    with tempfile.TemporaryDirectory() as scratch:
      dl_manager.download_and_extract = lambda urls: _unpack_idx(
        self._idx_dir, urls, pathlib.Path(scratch)
      )
      super()._download_and_prepare(dl_manager, *args, **kwargs)


def _unpack_idx(idx_dir: str, urls: Mapping[str, str], scratch: pathlib.Path) -> dict[str, str]:
  contents = {key: read_idx(idx_dir, url.rsplit('/', 1)[-1]) for key, url in urls.items()}
  for key, content in contents.items():
    (scratch / key).write_bytes(content)
  return {key: str(scratch / key) for key in contents}


def read_idx(idx_dir: str, name: str) -> bytes:
  """The uncompressed content of one published IDX file.

  Raises:
    app.UsageError: the file is missing, damaged, or its content is not the published one.
  """
  path = os.path.join(idx_dir, name)
  remedy = f'--idx_dir needs the four published files {", ".join(IDX_SHA256)}'
  try:
    content = gzip.decompress(files.read(path))
  except (OSError, EOFError, zlib.error) as error:
    raise app.UsageError(
      f'--idx_dir: {path} cannot be read ({_first_line(error)}); {remedy}'
    ) from error
  digest = hashlib.sha256(content).hexdigest()
  if digest != IDX_SHA256[name]:
    raise app.UsageError(
      f'--idx_dir: the content of {path} has sha256 {digest}, the published one {IDX_SHA256[name]}; {remedy}'
    )
  return content


def _check_route(url: str) -> None:
  """TFDS waits minutes for a host that does not answer; a probe with a deadline says so in seconds."""
  request = urllib.request.Request(url + 'train-labels-idx1-ubyte.gz', method='HEAD')  # noqa: S310
  failure: list[str] = ['no answer']

  def probe():
    try:
      urllib.request.urlopen(request, timeout=ROUTE_SECONDS)  # noqa: S310 - TFDS's own http:// address
      failure.clear()
    except OSError as error:
      failure[0] = _first_line(error)

  thread = threading.Thread(target=probe, daemon=True)  # name look-up has no time-out of its own
  thread.start()
  thread.join(ROUTE_SECONDS)
  if failure:
    raise app.UsageError(
      f'no route to {url} ({failure[0]}): pass --idx_dir=DIR with the four IDX .gz files '
      "(Debian's package dataset-fashion-mnist has them), or --data_dir=DIR with the dataset already prepared"
    )


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


# --- reading -----------------------------------------------------------------------------------------------------


def read(builder: tfds.core.DatasetBuilder, split: str) -> Examples:
  """Every example of `train` or `test`, in TFDS's own order.

  Raises:
    app.UsageError: the prepared files do not hold what they say, or not what Fashion-MNIST is.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  read_config = tfds.ReadConfig(try_autocache=False, options=options, interleave_cycle_length=1)
  dataset = builder.as_dataset(
    split=split, as_supervised=True, shuffle_files=False, read_config=read_config, batch_size=1000
  )
  whole = Examples(*(np.concatenate(arrays) for arrays in zip(*dataset.as_numpy_iterator())))
  _check(whole, builder.info.splits[split].num_examples, f'{builder.data_dir}: split {split}')
  return whole


def _check(read: Examples, count: int, where: str) -> None:
  classes = sorted({*range(10), *read.labels.tolist()})  # a small trial set need not have all ten
  found = read.pixels.shape, read.pixels.dtype, read.labels.dtype, classes
  expected = (count, 28, 28, 1), np.uint8, np.int64, list(range(10))
  if found != expected:
    raise app.UsageError(
      f'{where}: has images {found[0]} {found[1]} and labels {found[3]} {found[2]}, where {expected[0]} uint8 and 0 to '
      f'9 int64 are to be; {REMEDY}'
    )


def split_validation(
  train: Examples, validation_examples: int, seed: int
) -> tuple[Examples, Examples]:
  """(training, validation): disjoint, together all of `train`, and the same for the same seed."""
  order = np.random.Generator(np.random.Philox(seed)).permutation(len(train))
  return train.take(order[validation_examples:]), train.take(order[:validation_examples])


# --- batches -----------------------------------------------------------------------------------------------------


def batches(
  train: Examples,
  seed: int,
  global_batch_size: int,
  replicas: int,
  local: range | None = None,
  first_step: int = 0,
) -> tf.data.Dataset:
  """The training batches from `first_step` on, without end, an element for each of the `local` replicas in turn.

  Global step k holds rows [k % steps_per_epoch * B, ... + B) of the permutation keyed by (seed, k // steps_per_epoch):
  nothing needs saving, and any step can come first. The permutation is a block cipher on the row number
  (tf.random.experimental.index_shuffle), so a step costs its own rows only.

  Yields:
    pixels uint8 (b, 28, 28, 1) and labels int64 (b,), b = global_batch_size / replicas; step and first_row int64 (),
    the global step and where in the global batch the element's rows begin.
  """
  pixels, labels = tf.constant(train.pixels), tf.constant(train.labels)
  steps_per_epoch, per_replica = len(train) // global_batch_size, global_batch_size // replicas
  local = local or range(replicas)
  last_index = tf.constant(len(train) - 1, tf.int64)

  def element(position: tf.Tensor) -> dict[str, tf.Tensor]:
    step, first_row = position // len(local), (local.start + position % len(local)) * per_replica
    ranks = (
      step % steps_per_epoch * global_batch_size + first_row + tf.range(per_replica, dtype=tf.int64)
    )
    key = tf.stack([tf.constant(seed, tf.int64), step // steps_per_epoch])
    rows = tf.random.experimental.index_shuffle(ranks, key, last_index)
    return {
      'pixels': tf.gather(pixels, rows),
      'labels': tf.gather(labels, rows),
      'step': step,
      'first_row': first_row,
    }

  options = tf.data.Options()
  options.autotune.enabled = False  # its thread wakes ever later and ends an epoch late
  options.deterministic = True
  positions = tf.data.Dataset.range(first_step * len(local), tf.int64.max)
  endless = tf.data.experimental.assert_cardinality(tf.data.experimental.INFINITE_CARDINALITY)
  return positions.apply(endless).map(element).prefetch(2 * len(local)).with_options(options)
