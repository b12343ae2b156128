"""A directory of TensorFlow Datasets on volumes as they are: odd names, no locks, damaged files."""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator

import requests
import tensorflow as tf
from absl import app, logging
from tensorflow_datasets.core.download import util as tfds_download

from storage import files
from trainer import failures

REMEDY = 'delete the directory to prepare it again'
NO_DAMAGE = (
  app.UsageError,
  files.Unavailable,
  MemoryError,
  PermissionError,
  tf.errors.PermissionDeniedError,
  tf.errors.UnavailableError,
)
OF_DOWNLOADS = (requests.RequestException, tfds_download.DownloadError)
EXPLAINED = (app.UsageError, files.Unavailable, MemoryError, OSError, tf.errors.OpError)


@functools.cache
def literal(data_dir: str) -> str:
  """Returns a name for a directory that TFDS does not take for a pattern of names."""
  if not files.is_local(data_dir) or not set('*?[~') & set(os.path.abspath(data_dir)):
    return data_dir
  scratch = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, scratch, ignore_errors=True)
  link = os.path.join(scratch, 'data')
  os.symlink(os.path.abspath(data_dir), link)
  return link


@contextlib.contextmanager
def damage_named(where: str) -> Iterator[None]:
  """Turns what TFDS and TensorFlow raise about a prepared dataset's files into a UsageError.

  They are of any kind: those of JSON, Protocol Buffers, the file system, and TensorFlow.

  Raises:
    app.UsageError: a file is missing, damaged or cannot be read.
  """
  try:
    yield
  except NO_DAMAGE:
    raise
  except Exception as error:
    if isinstance(error, OSError) and error.errno and error.errno not in failures.USERS:
      raise  # the disk's, which may pass
    raise app.UsageError(f'{where}: cannot be read ({_reason(error)}); {REMEDY}') from error


@contextlib.contextmanager
def preparing(where: str, remedy: str) -> Iterator[None]:
  """Turns what TFDS raises while it downloads and prepares a dataset into one line.

  Errors of the disk pass: `failures` explains them.

  Raises:
    app.UsageError: it cannot be prepared; a file has another checksum, for example.
    failures.Failure: a download was interrupted, or its server refused it.
  """
  try:
    yield
  except OF_DOWNLOADS as error:
    raise failures.Failure(
      f'{where}: the download failed ({failures.first_line(error)}); {remedy}, or {failures.RESUME}'
    ) from error
  except EXPLAINED:
    raise
  except Exception as error:  # of any kind: of TFDS, or of the dataset's own code
    raise app.UsageError(
      f'{where}: TFDS cannot prepare it ({failures.first_line(error).rstrip(":")}); {remedy}'
    ) from error


def _reason(error: Exception) -> str:
  """Returns what is wrong, in words that do not depend on TensorFlow's version if it says it."""
  if isinstance(error, tf.errors.DataLossError | tf.errors.OutOfRangeError):
    return 'one of its files is damaged or cut short'
  if isinstance(error, tf.errors.NotFoundError | FileNotFoundError):
    return 'one of its files is missing'
  if isinstance(error, tf.errors.InvalidArgumentError):
    return 'one of its records is damaged'
  return failures.first_line(error)


@contextlib.contextmanager
def locked(data_dir: str, folder: str = '') -> Iterator[bool]:
  """Serializes preparation between processes with a file lock; yields whether there are locks.

  They may reach the processes of this host only.

  Args:
    data_dir: the value of the flag.
    folder: the name of the folder in it where that happens, if not in itself.

  Raises:
    app.UsageError: it cannot be written to.
  """
  root = os.path.join(data_dir, folder) if folder else data_dir
  try:
    os.makedirs(root, exist_ok=True)
    lock = open(os.path.join(root, '.lookbook.lock'), 'w', encoding='utf-8')  # noqa: SIM115
  except OSError as error:
    if error.errno not in failures.USERS:
      raise
    raise app.UsageError(
      f'--data_dir={data_dir}: cannot be written to ({error.strerror}); change that, or pass '
      'another directory'
    ) from error
  with lock:
    is_locked = True
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
      is_locked = False
      logging.warning('%s has no locks (%s): prepare it by one process only', root, error.strerror)
    yield is_locked
