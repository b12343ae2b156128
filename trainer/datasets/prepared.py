"""The pictures of a source, decoded once, in a directory that later trainings read.

    ROOT/prepared/KEY/pixels         the images, records of one size
    ROOT/prepared/KEY/chunks.jsonl   a line for each chunk of them: labels, checksums, rejects

For a ROOT in a bucket it is made in a temporary directory, which is uploaded when it is complete;
later trainings copy it to a disk of their own.
"""

import contextlib
import glob
import hashlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from storage import files
from trainer import stored
from trainer.datasets import prepared_directory, tfds_directory

ROOT = 'prepared'  # in the --data_dir
LEFT_SECONDS = 86_400.0  # no host takes so long for a chunk of pictures
LAYOUT = 1  # raised when a change makes the files of before useless


class Memory:
  """What is read of a source, in memory: for trainings without a directory for it.

  The images are in a file in memory, so that their splits are not copies of them.
  """

  is_complete, name = False, ''

  def __init__(self) -> None:
    self.lines: list[dict[str, Any]] = []
    self._file = _file_in_memory()

  def add(self, line: dict[str, Any], pixels: np.ndarray) -> None:
    """Adds a chunk: uint8 (n, *shape), and `line`, with at least `shape` and n `labels`."""
    self.lines.append(line)
    self._file.write(pixels.tobytes())

  def complete(self) -> None:
    """Does nothing: there are no files."""

  def discard(self) -> None:
    """Does nothing likewise."""

  def images(self) -> stored.Images:
    """Returns all images, uint8 (N, *shape)."""
    self._file.flush()
    return prepared_directory.images_in(self._file, self.lines)


def _file_in_memory() -> BinaryIO:
  if hasattr(os, 'memfd_create'):  # on Linux
    return open(os.memfd_create('pictures'), 'w+b')
  return tempfile.TemporaryFile()


Directory = prepared_directory.Directory
Store = Memory | Directory


@contextlib.contextmanager
def opened(data_dir: str, *identity: Any) -> Iterator[Directory]:
  """Yields the directory for what `identity` describes; other processes wait.

  Raises:
    app.UsageError: `data_dir` cannot be written to.
  """
  key = hashlib.sha256(repr((LAYOUT, *identity)).encode()).hexdigest()[:16]
  if not files.is_local(data_dir):
    with _copied(files.join(data_dir, ROOT, key)) as directory:
      yield directory
    return
  path = os.path.join(data_dir, ROOT, key)
  if os.path.isdir(path):
    yield Directory(path)
    return
  with (
    tfds_directory.locked(data_dir, ROOT) as is_locked,
    _incomplete(path, is_locked) as incomplete,
  ):
    yield Directory(path, incomplete)
    if is_locked and os.path.isdir(path):
      _remove_left(path)


def _remove_left(path: str) -> None:
  """Deletes what hosts that are gone have left of a directory that is complete now."""
  for left in glob.glob(f'{glob.escape(path)}.incomplete*'):
    if time.time() - os.path.getmtime(left) > LEFT_SECONDS:
      files.remove_folder(left)


@contextlib.contextmanager
def _incomplete(path: str, is_locked: bool) -> Iterator[str]:
  """Yields the path of a directory that is not complete, to which no other process writes.

  With the lock it is that of this host, where a killed process may have left it; without, a new
  one, which is deleted at the end of the block.
  """
  of_host = f'{path}.incomplete-{socket.gethostname()}'
  if is_locked:
    yield of_host
    return
  of_process = f'{of_host}-{os.getpid()}-{secrets.token_hex(4)}'
  try:
    yield of_process
  finally:
    files.remove_folder(of_process)


@contextlib.contextmanager
def _copied(uri: str) -> Iterator[Directory]:
  """Yields a directory on a disk with what is prepared in a bucket, if it is.

  It is deleted at the end of the block, but for its open files. Processes that prepare the same at
  the same time upload the same.
  """
  if files.exists(files.join(uri, prepared_directory.JOURNAL)):
    with files.local_copy(uri) as path:
      yield Directory(path)
    return
  with tempfile.TemporaryDirectory() as scratch:
    path = os.path.join(scratch, 'made')
    yield Directory(path, f'{path}.incomplete', uri)
