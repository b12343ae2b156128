"""How far a run on this machine is, from the files that its chunks leave."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

LINE_SECS = 1.0  # between updates of a line on a terminal
LOG_SECS = 30.0  # between lines in a log

logger = logging.getLogger(__name__)


class Progress:
  """Adds up the images of chunks as they are written.

  Attributes:
    images: how many there are in all, or None.
  """

  def __init__(self, output: str, images: int | None, clock: Callable[[], float] = time.monotonic):
    self._folder = os.path.join(output, 'counts')
    self._images, self._clock = images, clock
    self._counted: set[str] = set()
    self._seen, self._rejected = 0, 0
    self.update()
    self._seen_before, self._began = self._seen, clock()

  def update(self) -> None:
    """Reads what has been written since the last time."""
    with contextlib.suppress(FileNotFoundError):
      for name in set(os.listdir(self._folder)) - self._counted:
        if name.endswith('.json') and not name.startswith('.'):
          with open(os.path.join(self._folder, name)) as file:
            counts = json.load(file)
          self._counted.add(name)
          self._seen += counts['images_seen']
          self._rejected += counts['images_rejected']

  def line(self) -> str:
    """Images so far, images/s of this run and, where the number of all is known, the time left."""
    seconds = max(self._clock() - self._began, 1e-9)
    rate = (self._seen - self._seen_before) / seconds
    text = (
      f'{self._seen:,} images'
      + (f' of {self._images:,}' if self._images else '')
      + f', {rate:,.0f} images/s'
    )
    if self._rejected:
      text += f', {self._rejected:,} rejected'
    if self._images and rate:
      left = max(self._images - self._seen, 0) / rate
      text += f', {left // 60:.0f}:{left % 60:02.0f} left'
    return text


@contextlib.contextmanager
def shown(output: str, images: int | None, to: TextIO | None = None) -> Iterator[None]:
  """Shows the progress meanwhile: a line that changes on a terminal, elsewhere a line of log now and then."""
  ended, to = threading.Event(), to or sys.stderr
  on_terminal = to.isatty()

  def watch():
    progress = Progress(output, images)
    while not ended.wait(LINE_SECS if on_terminal else LOG_SECS):
      progress.update()
      if on_terminal:
        print(f'\r\033[K{progress.line()}', end='', file=to, flush=True)
      else:
        logger.info('%s', progress.line())
    if on_terminal:
      print('\r\033[K', end='', file=to, flush=True)

  watcher = threading.Thread(target=watch, daemon=True)
  watcher.start()
  try:
    yield
  finally:
    ended.set()
    watcher.join()
