"""Helpers of the tests of the trainer's edges: the smallest trainings there are."""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable

from tests import train_kit
from tests.train_kit import run_trainer, start_trainer
from tests.warm_trainer import Trainer

FLAGS = (
  '--validation_examples=8',
  '--epochs=1',
  '--global_batch_size=8',
  '--precision=float32',
)  # 4 steps of 40 images


def arguments(workdir: object, data_dir: object, *flags: str) -> list[str]:
  return [f'--workdir={workdir}', f'--data_dir={data_dir}', *FLAGS, *flags]


def run(workdir: object, data_dir: object, *flags: str, **kwargs) -> subprocess.CompletedProcess:
  return run_trainer(*arguments(workdir, data_dir, *flags), **kwargs)


def start(workdir: object, data_dir: object, *flags: str, **kwargs) -> Trainer:
  return start_trainer(*arguments(workdir, data_dir, *flags), **kwargs)


def start_command(workdir: object, data_dir: object, *flags: str, **kwargs) -> subprocess.Popen:
  return train_kit.start_command(*arguments(workdir, data_dir, *flags), **kwargs)


def damage(data_dir: pathlib.Path, split: str, how: str) -> None:
  """Cuts the file of a prepared split short, or removes it."""
  (path,) = (data_dir / 'fashion_mnist/3.0.1').glob(f'*{split}.tfrecord*')
  if how == 'cut':
    os.truncate(path, path.stat().st_size // 2)
  else:
    path.unlink()


# Python imports a module of this name by itself. Not even SIGKILL ends a process 1 that sends it to
# itself, but os._exit leaves as little time for cleaning up.
KILLER = """import os, re, sys
def hook(event, arguments):
  if any(re.search({pattern!r}, each) for each in arguments if isinstance(each, str)):
    os._exit({code})
sys.addaudithook(hook)
"""
KILLED = 137  # 128 + SIGKILL, as shells have it


def killed_at(pattern: str, folder: pathlib.Path) -> dict[str, str]:
  """Returns an environment in which Python ends at once if it touches a file of such a name."""
  folder.mkdir()
  (folder / 'sitecustomize.py').write_text(KILLER.format(pattern=pattern, code=KILLED))
  return {**os.environ, 'PYTHONPATH': str(folder)}


def wait_until(sign: Callable[[], bool], process: subprocess.Popen | Trainer) -> None:
  """Returns when `sign` does; fails if the process ends before that."""
  while not sign():
    assert process.poll() is None, process.communicate()[1]
    time.sleep(0.005)


def read_until(process: subprocess.Popen | Trainer, text: str) -> str:
  """Returns standard error up to the line that contains `text`."""
  said = ''
  assert process.stderr
  while text not in said:
    line = process.stderr.readline()
    assert line, said
    said += line
  return said


def assert_one_line(said: str) -> str:
  """Returns the last line of standard error, the only one of ours."""
  assert 'Traceback' not in said
  lines = said.splitlines()
  assert [line for line in lines if line.startswith('lookbook-train: ')] == lines[-1:], said
  return lines[-1]
