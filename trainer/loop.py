"""The loop around the steps: epochs, validation, checkpoints, resume, and early ends."""

import contextlib
import math
import os
import time

import numpy as np
from absl import app, logging

from storage import files
from trainer import (
  agreement,
  checkpoint,
  data,
  evaluate,
  exit_codes,
  failures,
  fit,
  progress,
  signals,
  stopping,
)
from trainer.config import LoopOptions
from trainer.history import History

MAX_STEPS_PER_CALL = 50
CALL_SECONDS = 2.0  # about how long steps may take in a call, after which SIGTERM is noticed
MAX_ROLLBACKS = 3


class NonFinite(failures.Failure):
  """A loss or a weight became NaN or infinite; no checkpoint contains it."""

  code = exit_codes.NON_FINITE


class Loop:
  """Trains to the recipe's last epoch, from the newest checkpoint in the workdir if it has one."""

  def __init__(
    self,
    trainer: fit.Trainer,
    validation: data.Examples,
    directory: str,
    out: str,
    options: LoopOptions,
    agreed: agreement.Agreement,
  ) -> None:
    """
    Args:
      trainer: takes the steps.
      validation: the images that each epoch is evaluated on.
      directory: the run's workdir, from which it resumes.
      out: where it writes: the workdir, or a temporary directory on every worker except the chief.
      options: when to log, save and roll back.
      agreed: what all hosts decide together.
    """
    self.trainer, self.validation, self.out, self.options = trainer, validation, out, options
    self.resume_dir = os.path.join(directory, 'checkpoints')
    self.averaged = evaluate.Predictor(trainer.strategy, trainer.averaged)
    self.history = History()
    self.agreed = agreed
    self.stepped = False  # this process finished a step
    self.stop = stopping.Stop(agreed)
    self.steps_per_call = 1

  def run(self) -> History:
    """Returns the history of the finished training.

    Raises:
      app.UsageError: the run is already past the recipe's last epoch.
      stopping.Preempted: on SIGTERM or SIGINT.
      NonFinite: the training diverged, and rollback is off or its limit was reached.
    """
    self._resume()
    with signals.deferred(self.stop.hear, self._can_save):
      try:
        self._train()
      except Exception:
        with contextlib.suppress(
          OSError, files.Unavailable
        ):  # the first error is the one to report
          self.history.write_unfinished(self.out, self.trainer.step)
        raise
    return self.history

  def _resume(self) -> None:
    state = checkpoint.newest(self.resume_dir)
    step = 0 if state is None else int(state['step'])
    self.agreed.require_same(lambda: {'step of the newest checkpoint': step})
    if state is None:
      self.trainer.start()
      self._save()
      return
    self.trainer.restore(state)
    self.history = History.restored(state)
    if self.trainer.step > self._last_step():
      epoch = self.trainer.step / self.trainer.steps_per_epoch
      raise app.UsageError(
        f'--epochs={self.trainer.recipe.num_epochs}: the run is at epoch {epoch:.1f}; pass at '
        'least as many'
      )
    logging.info('resuming from step %d of %d', self.trainer.step, self._last_step())

  def _last_step(self) -> int:
    return self.trainer.recipe.num_epochs * self.trainer.steps_per_epoch

  def _train(self) -> None:
    batch = self.trainer.recipe.global_batch_size
    bar = progress.Progress(self._last_step() * batch, done=self.trainer.step * batch)
    while self.trainer.step < self._last_step() or self._ends_epoch():
      try:
        self._advance(bar)
      except NonFinite as error:
        self._roll_back(error)
      self.stop.end_if_told(self.trainer.step)
    bar.close()

  def _advance(self, bar: progress.Progress) -> None:
    """Trains up to the next log, checkpoint or epoch boundary, and handles it.

    Once told to stop it saves what it has: the next run validates where this one did not.
    """
    if not self._ends_epoch():
      losses = self._train_steps(self._steps_to_boundary())
      bar.advance(len(losses) * self.trainer.recipe.global_batch_size, float(losses.mean()))
    ends_epoch = self._ends_epoch()
    if ends_epoch and not self.stop.told and (probabilities := self._validate()) is not None:
      bar.say(self._end_epoch(probabilities))
    if self.stop.told or ends_epoch or self.trainer.step % self._checkpoint_every() == 0:
      self._save()
      self.stop.agree()

  def _ends_epoch(self) -> bool:
    """Returns whether the last step was the last one of an epoch that is not validated yet."""
    return bool(self.history.losses) and self.trainer.step % self.trainer.steps_per_epoch == 0

  def _steps_to_boundary(self) -> int:
    step = self.trainer.step
    return min(
      self.steps_per_call,
      _steps_until_next(step, self.options.log_every_steps),
      _steps_until_next(step, self._checkpoint_every()),
      _steps_until_next(step, self.trainer.steps_per_epoch),
    )

  def _checkpoint_every(self) -> int:
    return self.options.checkpoint_every_steps or self.trainer.steps_per_epoch

  def _train_steps(self, steps: int) -> np.ndarray:
    """Takes steps and returns their losses; agrees with the other hosts on what comes next."""
    first, started = self.trainer.step, time.perf_counter()
    losses, correct = self.trainer.train_steps(steps)
    self.stepped = True
    _check_finite(losses, first)
    seconds = time.perf_counter() - started
    self.history.add_steps(losses, correct, seconds)
    pace = self.stop.agree(seconds / steps)
    self.steps_per_call = int(np.clip(CALL_SECONDS / pace, 1, MAX_STEPS_PER_CALL))
    return losses

  def _validate(self) -> np.ndarray | None:
    """Returns the averaged model's answers to the validation images; None if told to stop."""
    parts = []
    for part in self.averaged.predict(self.validation.pixels):
      parts.append(part)
      self.stop.agree()
      if self.stop.told:
        return None
    return np.concatenate(parts)

  def _end_epoch(self, probabilities: np.ndarray) -> str:
    """Adds the epoch to the history, writes that, and returns a line about it.

    Args:
      probabilities: float32 (N, classes), the answers to the validation images.
    """
    trainer = self.trainer
    losses = self.history.end_epoch(
      images=trainer.steps_per_epoch * trainer.recipe.global_batch_size,
      weights=trainer.averaged.get_weights(),
      epoch=trainer.step // trainer.steps_per_epoch,
      step=trainer.step,
      learning_rate=trainer.learning_rate,
      val_loss=evaluate.cross_entropy(probabilities, self.validation.labels),
      val_accuracy=evaluate.accuracy(probabilities, self.validation.labels),
    )
    self.history.write(self.out, losses)
    row, best = self.history.rows[-1], self.history.best
    assert best is not None  # noqa: S101 - an epoch has just ended
    return (
      f'epoch {row["epoch"]}/{trainer.recipe.num_epochs}: loss {row["train_loss"]:.4f}, '
      f'validation accuracy {row["val_accuracy"]:.4f} (best {best["val_accuracy"]:.4f}), '
      f'{row["images_per_second"]:.0f} images/s'
    )

  def _save(self) -> None:
    state = self.trainer.state()
    for array in state.values():
      if not np.isfinite(array).all():
        raise NonFinite(f'a weight is not finite at step {self.trainer.step}')
    directory = os.path.join(self.out, 'checkpoints')
    checkpoint.save(directory, {**state, **self.history.state()}, self.options.keep_checkpoints)

  def _roll_back(self, error: NonFinite) -> None:
    state = checkpoint.newest(self.resume_dir)
    good = f'step {int(state["step"])}' if state else 'none'
    rate, halvings = self.trainer.learning_rate, -math.log2(float(self.trainer.rate_scale.numpy()))
    message = f'{error}; learning rate {rate:.3g}; last good checkpoint: {good}'
    if self.options.on_nonfinite != 'rollback' or state is None:
      raise NonFinite(
        f'{message}; lower --learning_rate, or pass --on_nonfinite=rollback'
      ) from error
    if halvings >= MAX_ROLLBACKS:
      raise NonFinite(
        f'{message}; rolled back {MAX_ROLLBACKS} times already; lower --learning_rate'
      ) from error
    logging.warning('%s; returning to it with half the learning rate', message)
    scale = self.trainer.rate_scale.numpy() / 2
    self.trainer.restore(state)
    self.trainer.rate_scale.assign(scale)
    self.history = History.restored(state)

  def _can_save(self) -> bool:
    """Returns whether a signal to stop has to wait for the end of a call.

    Until the first step is taken it need not: on a slow machine tracing takes longer than a spot
    machine allows, and the checkpoint that this process began with contains everything. Several
    hosts stop together instead.
    """
    return self.stepped or not self.agreed.is_alone


def _steps_until_next(step: int, every: int) -> int:
  """Returns the number of steps from `step` to the next multiple of `every`, at least one."""
  return every - step % every


def _check_finite(losses: np.ndarray, first_step: int) -> None:
  """Raises NonFinite, which counts steps from 1, for losses of the steps after `first_step`."""
  if not np.isfinite(losses).all():
    i = int(np.argmin(np.isfinite(losses)))
    raise NonFinite(f'the loss of step {first_step + i + 1} is {losses[i]}')
