"""The history of a run: its finished epochs, the best weights, and the current epoch."""

import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from storage import files
from trainer import workdir

COLUMNS = (
  'epoch',
  'step',
  'learning_rate',
  'train_loss',
  'train_accuracy',
  'val_loss',
  'val_accuracy',
  'images_per_second',
  'train_seconds',
)
STORED = 'record'  # the history's key in a checkpoint
SAVED_FIELDS = ('rows', 'best', 'losses', 'correct', 'seconds')


@dataclasses.dataclass
class History:
  """What a run did so far.

  Losses are mean cross-entropies in nats, accuracies fractions, seconds wall-clock of the training
  steps.

  Attributes:
    rows: one per finished epoch, by COLUMNS.
    best: the row of the best validation accuracy; the first of equals.
    best_weights: the averaged weights after that epoch.
    losses: one per step of the current epoch.
    correct: number of correct predictions in the current epoch.
    seconds: what the current epoch took so far.
  """

  rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
  best: dict[str, float] | None = None
  best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
  losses: list[float] = dataclasses.field(default_factory=list)
  correct: int = 0
  seconds: float = 0.0

  def add_steps(self, losses: np.ndarray, correct: int, seconds: float) -> None:
    """Adds steps to the current epoch."""
    self.losses += losses.tolist()
    self.correct += correct
    self.seconds += seconds

  def end_epoch(self, images: int, weights: list[np.ndarray], **figures: float) -> np.ndarray:
    """Closes the current epoch, which trained on `images` images.

    Args:
      images: number of training images in the epoch.
      weights: the averaged weights.
      **figures: the other columns of its row.

    Returns:
      the loss of each of its steps, float32 (steps,).
    """
    losses = np.array(self.losses, np.float32)
    row = {
      **figures,
      'train_loss': float(losses.mean()),
      'train_accuracy': self.correct / images,
      'images_per_second': images / self.seconds,
      'train_seconds': self.seconds,
    }
    self.rows.append({name: row[name] for name in COLUMNS})
    if self.best is None or row['val_accuracy'] > self.best['val_accuracy']:
      self.best, self.best_weights = self.rows[-1], weights
    self.losses, self.correct, self.seconds = [], 0, 0.0
    return losses

  def state(self) -> dict[str, np.ndarray]:
    """Returns the history as arrays for a checkpoint; `restored` reads them."""
    plain = {name: getattr(self, name) for name in SAVED_FIELDS}
    weights = {f'best/{i:03}': array for i, array in enumerate(self.best_weights)}
    return {STORED: np.frombuffer(json.dumps(plain).encode(), np.uint8), **weights}

  @classmethod
  def restored(cls, state: Mapping[str, np.ndarray]) -> 'History':
    """Returns the history in a checkpoint."""
    weights = [state[name] for name in sorted(state) if name.startswith('best/')]
    return cls(**json.loads(state[STORED].tobytes()), best_weights=weights)

  def write(self, directory: str, losses: np.ndarray) -> None:
    """Writes history.csv and the last epoch's TensorBoard events.

    Each epoch has an events file of its own, so an epoch that is repeated after a crash replaces
    what it wrote.

    Args:
      directory: the workdir.
      losses: one per step of the last epoch.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(self.rows)
    workdir.write(os.path.join(directory, 'history.csv'), table.getvalue())
    figures = {name: self.rows[-1][name] for name in COLUMNS[2:]}
    _write_events(directory, len(self.rows), int(self.rows[-1]['step']), losses, figures)

  def write_unfinished(self, directory: str, step: int) -> None:
    """Writes the TensorBoard events of an epoch that stops at `step`; its end will replace them."""
    if self.losses:
      losses = np.array(self.losses, np.float32)
      _write_events(directory, len(self.rows) + 1, step, losses, figures={})


def _write_events(
  directory: str, epoch: int, step: int, losses: np.ndarray, figures: Mapping[str, float]
) -> None:
  """Writes an epoch's events file: the losses of the steps up to `step`, and figures at `step`."""
  with tempfile.TemporaryDirectory() as scratch:
    board = tf.summary.create_file_writer(scratch)
    with board.as_default():
      for number, loss in enumerate(losses, step - len(losses) + 1):
        tf.summary.scalar('loss/step', loss, number)
      for name, value in figures.items():
        tf.summary.scalar(name, value, step)
    board.close()
    (written,) = os.listdir(scratch)
    content = files.read(os.path.join(scratch, written))
  name = f'events.out.tfevents.{epoch:010}.lookbook'
  workdir.write(os.path.join(directory, 'tensorboard', name), content)
