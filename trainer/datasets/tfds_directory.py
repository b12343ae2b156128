"""A directory of TensorFlow Datasets on volumes as they are: odd names, no locks, damaged files."""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from absl import app, logging

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
    raise app.UsageError(
      f'{where}: cannot be read ({failures.first_line(error)}); {REMEDY}'
    ) from error


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
  """Serializes preparation between processes with a file lock, if the file system has locks."""
  os.makedirs(root, exist_ok=True)
  with open(os.path.join(root, '.fashion_mnist.lock'), 'w', encoding='utf-8') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
      logging.warning('%s has no locks (%s): prepare it by one process only', root, error.strerror)
    yield
