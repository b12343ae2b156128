"""Progress display: a bar on a terminal, a periodic log line elsewhere."""

import sys
import time
from collections.abc import Callable

import tqdm
from absl import logging

LOG_EVERY_SECONDS = 30.0


class Progress:
  """Counts images towards `total` and shows images/s, the time left and the loss."""

  def __init__(
    self,
    total: int,
    done: int = 0,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the display.

    Args:
      total: images in the whole training; 0 if it is not known.
      done: how many of them earlier processes counted.
      terminal: whether standard error is a terminal; by default it is asked.
      clock: returns seconds.
    """
    self.total, self.done, self.earlier, self.clock = total, done, done, clock
    self.terminal = sys.stderr.isatty() if terminal is None else terminal
    self.bar = tqdm.tqdm(
      total=total,
      initial=done,
      unit=' images',
      unit_scale=True,
      disable=not self.terminal,
      dynamic_ncols=True,
    )
    self.started = self.logged = clock()

  def advance(self, images: int, loss: float | None = None) -> None:
    """Counts `images` more, in training at a mean loss in nats."""
    self.done += images
    if loss is not None:
      self.bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
    self.bar.update(images)
    now = self.clock()
    is_last = 0 < self.total <= self.done
    if not self.terminal and (now - self.logged >= LOG_EVERY_SECONDS or is_last):
      self.logged = now
      rate = (self.done - self.earlier) / max(now - self.started, 1e-9)
      left = max(self.total - self.done, 0) / rate
      logging.info(
        f'{self.done} of {self.total} images, {rate:.0f} images/s, {left:.0f} s left'
        + ('' if loss is None else f', loss {loss:.4f}')
      )

  def say(self, message: str) -> None:
    """Prints a line that stays: above the bar on a terminal, in the log elsewhere."""
    if self.terminal:
      self.bar.write(message, file=sys.stderr)
    else:
      logging.info('%s', message)

  def close(self) -> None:
    """Ends the bar."""
    self.bar.close()
