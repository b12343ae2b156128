"""What the trainer's tests share: running it, and reading what a run left."""

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np

from trainer import noise
from trainer.models import Spec

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / '.cache'
FASHION = Spec((28, 28, 1), 10)


def run_trainer(*flags: str, **kwargs) -> subprocess.CompletedProcess:
  """Runs `python -m trainer.main` with these flags, its output captured as text."""
  command = [sys.executable, '-m', 'trainer.main', *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


def step_losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
  """Returns (step, loss) of every step, as TensorBoard reads them."""
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(workdir / 'tensorboard'), {'tensors': 0})
  events.Reload()
  return [
    (event.step, float(np.frombuffer(event.tensor_proto.tensor_content, np.float32)[0]))
    for event in events.Tensors('loss/step')
  ]


def weights_sha256(workdir: pathlib.Path) -> str:
  """Returns the checksum of the exported weights."""
  (variables,) = (workdir / 'export/1/variables').glob('variables.data-*')
  return hashlib.sha256(variables.read_bytes()).hexdigest()
