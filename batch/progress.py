"""The progress of a run on this machine, from the names of the chunks that it completes."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from batch import chunk_log
from storage import files

LINE_SECONDS = 1.0  # between updates of a line on a terminal
LOG_SECONDS = 30.0  # between lines in a log
CLEAR_LINE = '\r\033[K'

logger = logging.getLogger(__name__)


class Progress:
  """Adds up the images of completed chunks."""

  def __init__(self, output: str, images: int | None, clock: Callable[[], float] = time.monotonic):
    """Counts the chunks of the run that this one resumes.

    Args:
      output: a local directory.
      images: total number of images, or None if unknown.
      clock: returns seconds.
    """
    self._folder = os.path.join(output, chunk_log.FOLDER)
    self._images, self._clock = images, clock
    self._counted: set[str] = set()
    self._finished: set[str] = set()
    self._seen, self._rejected = 0, 0
    self.update()
    self._seen_before, self._began = self._seen, clock()

  def update(self) -> None:
    """Counts the chunks that were completed since the last call."""
    with contextlib.suppress(FileNotFoundError):
      for shard in set(os.listdir(self._folder)) - self._finished:
        for name in os.listdir(os.path.join(self._folder, shard)):
          self._count(shard, f'{shard}/{name}')

  def _count(self, shard: str, name: str) -> None:
    entry = chunk_log.entry_of(files.File(name, 0))
    if entry and name not in self._counted:
      self._counted.add(name)
      self._seen += entry.seen
      self._rejected += entry.seen - entry.scored
      if entry.place.is_last:
        self._finished.add(shard)

  def line(self) -> str:
    """Returns the images so far, this run's images/s and, if the total is known, the time left."""
    seconds = max(self._clock() - self._began, 1e-9)
    rate = (self._seen - self._seen_before) / seconds
    total = f' of {self._images:,}' if self._images else ''
    parts = [f'{self._seen:,} images{total}', f'{rate:,.0f} images/s']
    if self._rejected:
      parts.append(f'{self._rejected:,} rejected')
    if self._images and rate:
      left = max(self._images - self._seen, 0) / rate
      parts.append(f'{left // 60:.0f}:{left % 60:02.0f} left')
    return ', '.join(parts)


@contextlib.contextmanager
def shown(output: str, images: int | None, to: TextIO | None = None) -> Iterator[None]:
  """Shows the progress during the block, if the output is local.

  On a terminal it is a line that is updated, elsewhere a periodic log line.
  """
  if not files.is_local(output):
    yield
    return
  ended = threading.Event()
  watcher = threading.Thread(
    target=_watch, args=(Progress(output, images), to or sys.stderr, ended), daemon=True
  )
  watcher.start()
  try:
    yield
  finally:
    ended.set()
    watcher.join()


def _watch(progress: Progress, to: TextIO, ended: threading.Event) -> None:
  on_terminal = to.isatty()
  while not ended.wait(LINE_SECONDS if on_terminal else LOG_SECONDS):
    progress.update()
    if on_terminal:
      print(f'{CLEAR_LINE}{progress.line()}', end='', file=to, flush=True)
    else:
      logger.info('%s', progress.line())
  if on_terminal:
    print(CLEAR_LINE, end='', file=to, flush=True)
