"""What a run has done so far: every finished epoch, the best one's weights, and the epoch under way."""

import csv
import dataclasses
import glob
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
  'epoch', 'step', 'learning_rate', 'train_loss', 'train_accuracy', 'val_loss', 'val_accuracy',
  'images_per_second', 'train_seconds',
)  # fmt: skip


@dataclasses.dataclass
class Record:
  """Losses are mean cross-entropies in nats, accuracies fractions, seconds wall-clock of the training steps."""

  rows: list[dict[str, float]] = dataclasses.field(
    default_factory=list
  )  # an epoch each, by COLUMNS
  best: dict[str, float] | None = (
    None  # the row of the best validation accuracy; the first of equals
  )
  best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
  losses: list[float] = dataclasses.field(
    default_factory=list
  )  # of each step of the epoch under way
  correct: int = 0  # of the images of the epoch under way
  seconds: float = 0.0  # of the epoch under way

  def add_steps(self, losses: np.ndarray, correct: int, seconds: float) -> None:
    self.losses += losses.tolist()
    self.correct += correct
    self.seconds += seconds

  def end_epoch(self, images: int, weights: list[np.ndarray], **figures: float) -> np.ndarray:
    """Closes the epoch under way, of so many images; returns the loss of each of its steps, float32 (steps,)."""
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
    plain = {name: getattr(self, name) for name in ('rows', 'best', 'losses', 'correct', 'seconds')}
    weights = {f'best/{i:03}': array for i, array in enumerate(self.best_weights)}
    return {'record': np.frombuffer(json.dumps(plain).encode(), np.uint8), **weights}

  @classmethod
  def restored(cls, state: Mapping[str, np.ndarray]) -> 'Record':
    weights = [state[name] for name in sorted(state) if name.startswith('best/')]
    return cls(**json.loads(state['record'].tobytes()), best_weights=weights)

  def write(self, directory: str, losses: np.ndarray) -> None:
    """Writes history.csv, and the last epoch, whose steps had these losses, for TensorBoard.

    Each epoch has an events file of its own name, so an epoch that is run again after a crash replaces what it wrote.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(self.rows)
    workdir.write(os.path.join(directory, 'history.csv'), table.getvalue())
    name = f'events.out.tfevents.{self.rows[-1]["epoch"]:010}.lookbook'
    workdir.write(os.path.join(directory, 'tensorboard', name), _events(self.rows[-1], losses))


def _events(row: Mapping[str, float], losses: np.ndarray) -> bytes:
  """One epoch as a TensorBoard events file."""
  with tempfile.TemporaryDirectory() as scratch:
    board = tf.summary.create_file_writer(scratch)
    with board.as_default():
      for step, loss in enumerate(losses, int(row['step']) - len(losses) + 1):
        tf.summary.scalar('loss/step', loss, step)
      for name in COLUMNS[2:]:
        tf.summary.scalar(name, row[name], int(row['step']))
    board.close()
    (path,) = glob.glob(os.path.join(scratch, '*'))
    return files.read(path)
