"""The loop around the steps: epochs, validation, checkpoints, resume, and what ends a run early."""

import dataclasses
import math
import os
import signal
import time

import numpy as np
from absl import app, logging

from trainer import checkpoint, data, exit_codes, fit, hosts, progress, record

MOST_STEPS_PER_CALL = 50
CALL_SECONDS = 2.0  # about how long a call may take, so that a request to stop is heard
MOST_ROLLBACKS = 3


class Preempted(Exception):
  """SIGTERM came; a checkpoint of the step that was reached is written."""


class NonFinite(Exception):
  """A loss or a weight stopped being a number; nothing of it is in a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Habits:
  """How a run goes about it; none of this changes the weights."""

  log_every_steps: int
  checkpoint_every_steps: int  # and every epoch; 0 is every epoch alone
  keep_checkpoints: int
  rollback: (
    bool  # after a non-finite loss: go back to the last checkpoint with half the learning rate
  )


class Loop:
  """Trains to the recipe's last epoch, from the newest checkpoint in `directory` if it has one."""

  def __init__(
    self, trainer: fit.Trainer, validation: data.Examples, directory: str, out: str, habits: Habits
  ) -> None:
    """
    Args:
      trainer: what takes the steps.
      validation: what each epoch is judged on.
      directory: the run's workdir, from which it resumes.
      out: where it writes: the workdir, or on every worker but the chief a folder to throw away.
      habits: when to log, save and roll back.
    """
    self.trainer, self.validation, self.out, self.habits = trainer, validation, out, habits
    self.saved = os.path.join(directory, 'checkpoints')
    self.record = record.Record()
    self.agreement = hosts.Agreement(trainer.strategy)
    self.told = False  # by SIGTERM, this host
    self.stopping = False  # all hosts, since one of them was told
    self.advanced = False  # by a step, in this process
    self.steps_per_call = 1

  def run(self) -> record.Record:
    """Returns what was done.

    Raises:
      app.UsageError: the run is already past the recipe's last epoch.
      Preempted: on SIGTERM.
      NonFinite: the training blew up, and either may not roll back or did so too often.
    """
    self._resume()
    before = signal.signal(signal.SIGTERM, self._stop)
    try:
      self._train()
    finally:
      signal.signal(signal.SIGTERM, before)
    return self.record

  def _resume(self) -> None:
    state = checkpoint.newest(self.saved)
    if state is None:
      self._save()
      return
    self.trainer.restore(state)
    self.record = record.Record.restored(state)
    if self.trainer.step > self._last_step():
      done = self.trainer.step / self.trainer.steps_per_epoch
      raise app.UsageError(
        f'--epochs={self.trainer.recipe.epochs}: the run is at epoch {done:.1f}; pass as many or more'
      )
    logging.info('going on from step %d of %d', self.trainer.step, self._last_step())

  def _last_step(self) -> int:
    return self.trainer.recipe.epochs * self.trainer.steps_per_epoch

  def _train(self) -> None:
    batch = self.trainer.recipe.global_batch_size
    bar = progress.Progress(self._last_step() * batch, done=self.trainer.step * batch)
    while self.trainer.step < self._last_step():
      try:
        self._advance(bar)
      except NonFinite as error:
        self._roll_back(error)
      if self.stopping or (self.told and self.trainer.step == self._last_step()):
        raise Preempted(self._stopped())
    bar.close()

  def _advance(self, bar: progress.Progress) -> None:
    """Trains to the next step at which there is something else to do, and does it."""
    trainer, habits = self.trainer, self.habits
    first, every = trainer.step, habits.checkpoint_every_steps or trainer.steps_per_epoch
    stops = (habits.log_every_steps, every, trainer.steps_per_epoch)
    steps = min(self.steps_per_call, *(stop - first % stop for stop in stops))
    started = time.perf_counter()
    losses, correct = trainer.advance(steps)
    self.advanced = True
    self._check_finite(losses, first)
    seconds = time.perf_counter() - started
    self.record.add_steps(losses, correct, seconds)
    told, pace = self.agreement.mean(self.told, seconds / steps)
    self.stopping = told > 0
    self.steps_per_call = int(np.clip(CALL_SECONDS / pace, 1, MOST_STEPS_PER_CALL))
    bar.advance(steps * trainer.recipe.global_batch_size, float(losses.mean()))
    if trainer.step % trainer.steps_per_epoch == 0:
      bar.say(self._end_epoch())
    if self.stopping or trainer.step % every == 0 or trainer.step % trainer.steps_per_epoch == 0:
      self._save()

  def _end_epoch(self) -> str:
    """Validates, writes the history, and says how it went."""
    trainer = self.trainer
    probabilities = fit.predict(trainer.strategy, trainer.averaged, self.validation.pixels)
    losses = self.record.end_epoch(
      images=trainer.steps_per_epoch * trainer.recipe.global_batch_size,
      weights=trainer.averaged.get_weights(),
      epoch=trainer.step // trainer.steps_per_epoch,
      step=trainer.step,
      learning_rate=trainer.learning_rate,
      val_loss=fit.cross_entropy(probabilities, self.validation.labels),
      val_accuracy=fit.accuracy(probabilities, self.validation.labels),
    )
    self.record.write(self.out, losses)
    row, best = self.record.rows[-1], self.record.best
    assert best is not None  # noqa: S101 - an epoch has just ended
    return (
      f'epoch {row["epoch"]}/{trainer.recipe.epochs}: loss {row["train_loss"]:.4f}, '
      f'validation accuracy {row["val_accuracy"]:.4f} (best {best["val_accuracy"]:.4f}), '
      f'{row["images_per_second"]:.0f} images/s'
    )

  def _save(self) -> None:
    state = self.trainer.state()
    for array in state.values():
      if not np.isfinite(array).all():
        raise NonFinite(f'a weight is not finite at step {self.trainer.step}')
    saved = os.path.join(self.out, 'checkpoints')
    checkpoint.save(saved, {**state, **self.record.state()}, self.habits.keep_checkpoints)

  def _check_finite(self, losses: np.ndarray, first: int) -> None:
    if not np.isfinite(losses).all():
      step = first + int(np.argmin(np.isfinite(losses)))
      raise NonFinite(f'the loss of step {step} is {losses[step - first]}')

  def _roll_back(self, error: NonFinite) -> None:
    state = checkpoint.newest(self.saved)
    good = f'step {int(state["step"])}' if state else 'none'
    rate, halvings = self.trainer.learning_rate, -math.log2(float(self.trainer.rate_scale.numpy()))
    said = f'{error}; learning rate {rate:.3g}; last good checkpoint: {good}'
    if not self.habits.rollback or state is None:
      raise NonFinite(f'{said}; lower --learning_rate, or pass --on_nonfinite=rollback') from error
    if halvings >= MOST_ROLLBACKS:
      raise NonFinite(
        f'{said}; rolled back {MOST_ROLLBACKS} times already; lower --learning_rate'
      ) from error
    logging.warning('%s; going back to it with half the learning rate', said)
    scale = self.trainer.rate_scale.numpy() / 2
    self.trainer.restore(state)
    self.trainer.rate_scale.assign(scale)
    self.record = record.Record.restored(state)

  def _stop(self, *_) -> None:
    """Notes the request to stop; ends the process at once while it still traces its first step.

    On a slow machine tracing takes longer than a spot machine gives, and the checkpoint that this process began with
    holds everything. Several hosts stop together instead.
    """
    self.told = True
    if not self.advanced and not hosts.configured():
      logging.warning('%s', self._stopped())
      os._exit(exit_codes.PREEMPTED)

  def _stopped(self) -> str:
    return f'stopped by SIGTERM at step {self.trainer.step}; the same command goes on from there'
