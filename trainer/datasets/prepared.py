"""The pictures of a source, decoded once, in a directory that later trainings read.

    ROOT/prepared/KEY/pixels         the images, records of one size
    ROOT/prepared/KEY/chunks.jsonl   a line for each chunk of them: labels, checksums, rejects

While it is made it is called KEY.incomplete: a line is written after its images, so a preparation
that was killed goes on after its last line. For a ROOT in a bucket that happens in a temporary
directory, which is uploaded when it is complete; later trainings copy it to a disk of their own.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from absl import app

from storage import files
from trainer import stored
from trainer.datasets import tfds_directory

ROOT = 'prepared'  # in the --data_dir
JOURNAL = 'chunks.jsonl'
LAYOUT = 1  # raised when a change makes the files of before useless


class Memory:
  """What is read of a source, in memory: for trainings without a directory for it.

  The images are in a file in memory, so that their splits are not copies of them.
  """

  is_complete = False

  def __init__(self) -> None:
    self.lines: list[dict[str, Any]] = []
    self._file = _file_in_memory()

  def add(self, line: dict[str, Any], pixels: np.ndarray) -> None:
    """Adds a chunk: uint8 (n, *shape), and `line`, with at least `shape` and n `labels`."""
    self.lines.append(line)
    self._file.write(pixels.tobytes())

  def complete(self) -> None:
    """Does nothing: there are no files."""

  def images(self) -> stored.Images:
    """Returns all images, uint8 (N, *shape)."""
    self._file.flush()
    return _images(self._file, self.lines)


def _file_in_memory() -> BinaryIO:
  if hasattr(os, 'memfd_create'):  # on Linux
    return open(os.memfd_create('pictures'), 'w+b')
  return tempfile.TemporaryFile()


def _images(file: BinaryIO, lines: list[dict[str, Any]]) -> stored.Images:
  """Returns the images of these chunks, in a file of nothing else."""
  count = sum(len(line['labels']) for line in lines)
  return stored.Images(file, tuple(lines[0]['shape']), np.arange(count))


class Directory:
  """What is prepared of a source, and where the rest of it goes.

  Attributes:
    lines: what is known of each chunk.
    is_complete: whether there is nothing to add.
  """

  def __init__(self, path: str, bucket: str | None = None):
    """
    Args:
      path: of the directory, once it is complete.
      bucket: the directory in a bucket that becomes a copy of it then.
    """
    self._final, self._incomplete, self._bucket = path, f'{path}.incomplete', bucket
    self.is_complete = os.path.isdir(path)
    self.lines: list[dict[str, Any]] = []
    self._bytes = 0
    if not self.is_complete:
      os.makedirs(self._incomplete, exist_ok=True)
      self._restore()
    else:
      self._check()

  @property
  def pixels(self) -> str:
    """The file of the images."""
    return os.path.join(self._final if self.is_complete else self._incomplete, 'pixels')

  def _journal(self) -> str:
    return os.path.join(os.path.dirname(self.pixels), JOURNAL)

  def _restore(self) -> None:
    """Reads the lines of which all images are there."""
    if not os.path.exists(self._journal()):
      return
    self._read_lines()
    os.truncate(self.pixels, self._bytes)
    self._write_lines('w', self.lines)

  def _check(self) -> None:
    """Reads all lines.

    Raises:
      app.UsageError: a file, or a part of one, is missing.
    """
    with contextlib.suppress(FileNotFoundError):
      self._read_lines()
      if self._bytes == os.path.getsize(self.pixels):
        return
    raise app.UsageError(f'{self._final}: is damaged; delete it to prepare it again')

  def _read_lines(self) -> None:
    available = os.path.getsize(self.pixels)
    with open(self._journal(), encoding='utf-8') as journal, contextlib.suppress(ValueError):
      for text in journal:  # the last one may be cut short
        line = json.loads(text)
        size = self._bytes + len(line['labels']) * math.prod(line['shape'])
        if size > available:
          break
        self.lines.append(line)
        self._bytes = size

  def add(self, line: dict[str, Any], pixels: np.ndarray) -> None:
    """Adds a chunk: uint8 (n, *shape), and `line`, with at least `shape` and n `labels`."""
    with open(self.pixels, 'ab') as file:
      file.write(pixels.tobytes())
    self._write_lines('a', [line])
    self.lines.append(line)

  def _write_lines(self, mode: str, lines: list[dict[str, Any]]) -> None:
    with open(self._journal(), mode, encoding='utf-8') as journal:
      journal.writelines(f'{json.dumps(line)}\n' for line in lines)

  def images(self) -> stored.Images:
    """Returns all images, uint8 (N, *shape)."""
    file = open(self.pixels, 'rb', buffering=0)  # noqa: SIM115 - open as long as the images are used
    return _images(file, self.lines)

  def complete(self) -> None:
    """Gives the directory its final name."""
    if not self.is_complete:
      os.rename(self._incomplete, self._final)
      self.is_complete = True
      if self._bucket:
        files.copy(self._final, self._bucket, last=JOURNAL)


Store = Memory | Directory


@contextlib.contextmanager
def opened(data_dir: str, *identity: Any) -> Iterator[Directory]:
  """Yields the directory for what `identity` describes; other processes wait.

  Raises:
    app.UsageError: `data_dir` cannot be written to.
  """
  key = hashlib.sha256(repr((LAYOUT, *identity)).encode()).hexdigest()[:16]
  if not files.is_local(data_dir):
    home = files.join(data_dir, ROOT, key)
    with files.as_usage_error(f'--data_dir={data_dir}'), _copied(home) as directory:
      yield directory
    return
  path = os.path.join(data_dir, ROOT, key)
  if os.path.isdir(path):
    yield Directory(path)
    return
  with files.as_usage_error(f'--data_dir={data_dir}'), tfds_directory.locked(data_dir, ROOT):
    yield Directory(path)


@contextlib.contextmanager
def _copied(uri: str) -> Iterator[Directory]:
  """Yields a directory on a disk with what is prepared in a bucket, if it is.

  It is deleted at the end of the block, but for its open files. Processes that prepare the same at
  the same time upload the same.
  """
  if files.exists(files.join(uri, JOURNAL)):
    with files.local_copy(uri) as path:
      yield Directory(path)
    return
  with tempfile.TemporaryDirectory() as scratch:
    yield Directory(os.path.join(scratch, 'made'), uri)
