"""The signal to stop, which all hosts of a run act on at the same step."""

import signal

from trainer import agreement, failures, signals


class Preempted(failures.Failure):
  """SIGTERM or SIGINT was received; a checkpoint has been written."""


class Stop:
  """What a signal tells one host, and then, at the next agreement, all of them.

  Attributes:
    told: the signal that some host received, once all of them know.
  """

  def __init__(self, agreed: agreement.Agreement):
    self._agreed = agreed
    self._here: signal.Signals | None = None  # that this host received
    self.told: signal.Signals | None = None

  def hear(self, number: signal.Signals) -> None:
    """Takes a signal to stop that this host received."""
    self._here = number

  def agree(self, pace: float = 0.0) -> float:
    """Sets `told`; returns the mean over hosts of `pace`, which is any figure."""
    told, interrupted, mean_pace = self._agreed.all_reduce_mean(
      self._here is not None, self._here == signal.SIGINT, pace
    )
    if told:
      self.told = signal.SIGINT if interrupted else signal.SIGTERM
    return float(mean_pace)

  def end_if_told(self, step: int) -> None:
    """Raises Preempted, on all hosts, if there was a signal; after a checkpoint of `step`."""
    if self.told:
      message = f'stopped by {self.told.name} at step {step}; {failures.RESUME}'
      self._agreed.fail(Preempted(message, signals.CODES[self.told]))
