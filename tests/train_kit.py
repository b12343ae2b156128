"""Helpers of the trainer's tests: running it, and reading its outputs."""

import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from tests import warm_trainer

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / '.cache'


def unpacked_libraries() -> str:
  """Returns an LD_LIBRARY_PATH for the programs that make test unpacked."""
  folders = {str(path.parent) for path in (CACHE / 'debian/root').glob('**/lib*.so*')}
  return ':'.join(sorted(folders))


def run_trainer(*flags: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
  """Runs trainer.main with these flags, its standard error captured as text."""
  trainer = start_trainer(*flags, env=env)
  _, said = trainer.communicate()
  return subprocess.CompletedProcess(flags, trainer.wait(), stderr=said)


def start_trainer(*flags: str, env: Mapping[str, str] | None = None) -> warm_trainer.Trainer:
  """Starts trainer.main with these flags."""
  return warm_trainer.Trainer(flags, os.environ if env is None else env)


def run_command(*flags: str, **kwargs) -> subprocess.CompletedProcess:
  """Runs the command `python -m trainer.main` as a user does, its output captured as text."""
  return subprocess.run(command(*flags), cwd=ROOT, capture_output=True, text=True, **kwargs)


def start_command(*flags: str, inside: Sequence[object] = (), **kwargs) -> subprocess.Popen:
  """Starts that command, as the last words of the command `inside`."""
  return subprocess.Popen(
    [*inside, *command(*flags)], cwd=ROOT, stderr=subprocess.PIPE, text=True, **kwargs
  )


def command(*flags: str) -> list[str]:
  """Returns the words that a user types."""
  return [sys.executable, '-m', 'trainer.main', *flags]


def file_contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of each file by its name in the folder."""
  paths = (path for path in folder.rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


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


def write_image_folder(
  root: pathlib.Path,
  shape: tuple[int, int, int] = (20, 22, 3),
  labels: Sequence[str] = ('dark', 'grey', 'light'),
  images: int = 12,
) -> pathlib.Path:
  """Writes PNG files as --dataset=folder takes them, and returns `root`.

  Class i is that of noise around the brightness 40 + 80 i; `images` per class and split.
  """
  random = np.random.default_rng(0)
  for split in ('train', 'test'):
    for i, label in enumerate(labels):
      folder = root / split / label
      folder.mkdir(parents=True)
      for number in range(images):
        pixels = np.clip(random.normal(40 + 80 * i, 20, shape), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels)
        image.save(folder / f'{number:04}.png')
  return root


def write_report(
  directory: pathlib.Path,
  probabilities: np.ndarray,
  truth: np.ndarray,
  name: str = 'class',
  shape: tuple[int, int, int] = (20, 20, 3),
) -> str:
  """Writes the report of a made-up run on noise, and returns its page.

  Args:
    directory: the workdir.
    probabilities: float32 (N, classes), the predictions.
    truth: int64 (N,), the right classes.
    name: what the classes are called, before their numbers.
    shape: (height, width, channels) of the images.
  """
  from trainer import config, data, datasets, quality, report

  names = tuple(f'{name} {i}' for i in range(probabilities.shape[1]))
  noise = np.random.default_rng(0).integers(0, 256, (len(truth), *shape), np.uint8)
  images = data.Examples(noise, truth)
  dataset = datasets.Dataset('x', 'x', shape, names, {}, lambda _: images, False, 'fit')
  row = {
    **{f'{split}_{what}': 0.5 for split in ('train', 'val') for what in ('accuracy', 'loss')},
    'epoch': 1,
  }
  metrics = {
    **quality.figures(probabilities, truth, names),
    **dict.fromkeys(('test_accuracy', 'val_accuracy', 'images_per_second', 'train_seconds'), 0.5),
    **dict.fromkeys(('parameters', 'best_epoch', 'test_images_in_training'), 1),
    **dict.fromkeys(('version', 'device', 'finished', 'git_commit'), 'x'),
    **config.Recipe(calibrate=True).settings(),
    'replicas': 1,
    'versions': {},
  }
  report.write(str(directory), metrics, dataset, [row], images, images, probabilities)
  return (directory / 'report/report.html').read_text()
