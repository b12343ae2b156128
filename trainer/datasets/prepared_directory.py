"""A directory of prepared pictures, while it is made and when it is whole.

While it is made it is called KEY.incomplete-HOST: a line is written after its images, so one that
was killed goes on after its last line, on the same host. No host writes to another's, because a
lock may not reach it; whoever is complete second takes the first one's.
"""

import contextlib
import json
import math
import os
from typing import Any, BinaryIO

import numpy as np
from absl import app

from storage import files
from trainer import stored

JOURNAL = 'chunks.jsonl'


def images_in(file: BinaryIO, lines: list[dict[str, Any]]) -> stored.Images:
  """Returns the images of these chunks, in a file of nothing else."""
  count = sum(len(line['labels']) for line in lines)
  return stored.Images(file, tuple(lines[0]['shape']), np.arange(count))


class Directory:
  """What is prepared of a source, and where the rest of it goes.

  Attributes:
    name: where it is once it is complete.
    lines: what is known of each chunk.
    is_complete: whether there is nothing to add.
  """

  def __init__(self, path: str, incomplete: str = '', bucket: str | None = None):
    """
    Args:
      path: of the directory, once it is complete.
      incomplete: its path until then, to which no other process writes.
      bucket: the directory in a bucket that becomes a copy of it then.
    """
    self._final, self._incomplete, self._bucket = path, incomplete, bucket
    self.name = bucket or path
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
    """Returns the file of the images."""
    return os.path.join(self._final if self.is_complete else self._incomplete, 'pixels')

  def _journal(self) -> str:
    return os.path.join(os.path.dirname(self.pixels), JOURNAL)

  def _restore(self) -> None:
    """Reads the lines of which all images are there; what comes after them is cut off."""
    if not os.path.exists(self._journal()):
      open(self.pixels, 'wb').close()
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
    """Reads the lines up to the first that lacks images."""
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
    """Adds a chunk: uint8 (n, *shape), and `line`, with at least `shape` and n `labels`.

    Raises:
      OSError: one that names the directory, even if the system's did not.
    """
    try:
      with open(self.pixels, 'ab') as file:
        file.write(pixels.tobytes())
      self._write_lines('a', [line])
    except OSError as error:
      error.filename = error.filename or self._incomplete
      raise
    self.lines.append(line)

  def _write_lines(self, mode: str, lines: list[dict[str, Any]]) -> None:
    with open(self._journal(), mode, encoding='utf-8') as journal:
      journal.writelines(f'{json.dumps(line)}\n' for line in lines)

  def images(self) -> stored.Images:
    """Returns all images, uint8 (N, *shape)."""
    file = open(self.pixels, 'rb', buffering=0)  # noqa: SIM115 - open as long as the images are used
    return images_in(file, self.lines)

  def discard(self) -> None:
    """Deletes what there is, so that the next training begins anew."""
    files.remove_folder(self._incomplete)

  def complete(self) -> None:
    """Gives the directory its final name."""
    self._rename()
    if self._bucket:
      files.copy(self._final, self._bucket, last=JOURNAL)

  def _rename(self) -> None:
    """Gives the directory its final name, or takes the one that has it already."""
    try:
      os.rename(self._incomplete, self._final)
    except OSError:
      if not os.path.isdir(self._final):
        raise
      files.remove_folder(self._incomplete)
      self.lines, self._bytes, self.is_complete = [], 0, True
      self._check()
    self.is_complete = True
