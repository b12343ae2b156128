"""Helpers of the tests that kill, stop and resume trainings."""

import csv
import json
import os
import pathlib
import subprocess
import time

from tests import train_kit
from tests.train_kit import start_trainer, step_losses
from tests.warm_trainer import Trainer
from trainer import checkpoint, history

# LOOKBOOK_KILLS=20 takes ten minutes more.
KILLS = int(os.environ.get('LOOKBOOK_KILLS', '4'))
# 64 steps of 124 of the small set's images, validated twice.
FLAGS = (
  '--validation_examples=500',
  '--epochs=2',
  '--global_batch_size=124',
  '--precision=float32',
)


def final_weights(workdir: pathlib.Path) -> dict[str, bytes]:
  """Returns model, average and optimizer, bit for bit, after the last step."""
  state = checkpoint.newest(str(workdir / 'checkpoints'))
  return {
    name: array.tobytes() for name, array in state.items() if name.startswith('variable/')
  } | {'step': int(state['step'])}


def arguments(workdir: pathlib.Path, small_tfds_dir: str, *flags: str) -> list[str]:
  return [f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *FLAGS, *flags]


def start(workdir: pathlib.Path, small_tfds_dir: str, *flags: str, **kwargs) -> Trainer:
  return start_trainer(*arguments(workdir, small_tfds_dir, *flags), **kwargs)


def start_command(
  workdir: pathlib.Path, small_tfds_dir: str, *flags: str, **kwargs
) -> subprocess.Popen:
  return train_kit.start_command(*arguments(workdir, small_tfds_dir, *flags), **kwargs)


def newest_step(workdir: pathlib.Path) -> int:
  return max(
    (int(path.stem.split('-')[1]) for path in workdir.glob('checkpoints/step-*.ckpt')), default=-1
  )


def kill_after_progress(
  processes: list[Trainer], workdir: pathlib.Path, delay_seconds: float
) -> bool:
  """Kills all of them `delay_seconds` after the next checkpoint appears.

  Returns:
    whether they were still running.
  """
  before = newest_step(workdir)
  while newest_step(workdir) <= before and processes[0].poll() is None:
    time.sleep(0.01)
  time.sleep(delay_seconds)
  alive = processes[0].poll() is None
  for process in processes:
    process.kill()
    process.communicate()
  return alive


def assert_ends_as(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
  assert final_weights(workdir) == final_weights(undisturbed)
  assert step_losses(workdir) == step_losses(undisturbed)
  kept = [name for name in history.COLUMNS if name not in ('images_per_second', 'train_seconds')]
  rows, theirs = (
    list(csv.DictReader((path / 'history.csv').open())) for path in (workdir, undisturbed)
  )
  assert [[row[name] for name in kept] for row in rows] == [
    [row[name] for name in kept] for row in theirs
  ]
  ours, others = (
    json.loads((path / 'metrics.json').read_text()) for path in (workdir, undisturbed)
  )
  assert {name: ours[name] for name in ('version', 'test_accuracy', 'best_epoch', 'confusion')} == {
    name: others[name] for name in ('version', 'test_accuracy', 'best_epoch', 'confusion')
  }


def files_of(workdir: pathlib.Path) -> list[str]:
  """Returns all files of a run, including half-written ones."""
  return sorted(str(path.relative_to(workdir)) for path in workdir.rglob('*') if path.is_file())
