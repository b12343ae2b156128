"""The files of a run, local or gs://. Each appears whole or not at all."""

import json
import os
import shutil
import tempfile

import tensorflow as tf
from absl import app

SETTINGS, METRICS = 'settings.json', 'metrics.json'


def check(directory: str, settings: dict) -> None:
  """Finds out, before any work, whether a run with these settings may write to `directory`.

  Raises:
    app.UsageError: it cannot be written, or holds a run with other settings.
  """
  path, probe = os.path.join(directory, SETTINGS), os.path.join(directory, '.writable')
  try:
    tf.io.gfile.makedirs(directory)
    write(probe, b'')
    tf.io.gfile.remove(probe)
    held = json.loads(read(path)) if tf.io.gfile.exists(path) else settings
  except (OSError, tf.errors.OpError) as error:
    raise app.UsageError(f'--workdir={directory}: cannot be written ({_reason(error)}); pass one that can') from error
  differing = [
    f'--{name}={held.get(name)} (now {settings.get(name)})'
    for name in sorted({*held, *settings})
    if held.get(name) != settings.get(name)
  ]
  if differing:
    raise app.UsageError(
      f'--workdir={directory}: holds a run with {", ".join(differing)}; pass those settings, or another --workdir'
    )


def claim(directory: str, settings: dict) -> None:
  """Makes `directory` the run's with these settings."""
  write(os.path.join(directory, SETTINGS), json.dumps(settings, indent=2) + '\n')


def _reason(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def finished(directory: str) -> dict | None:
  """The metrics of a run that ended, or None."""
  path = os.path.join(directory, METRICS)
  return json.loads(read(path)) if tf.io.gfile.exists(path) else None


def read(path: str) -> bytes:
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def write(path: str, content: str | bytes) -> None:
  """Replaces the file at `path` in one step. An object in a bucket only appears when its upload ends."""
  data = content.encode() if isinstance(content, str) else content
  if '://' in path:
    with tf.io.gfile.GFile(path, 'wb') as file:
      file.write(data)
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  handle, beside = tempfile.mkstemp(dir=os.path.dirname(path), prefix='.' + os.path.basename(path))
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(beside, 0o644)
    os.replace(beside, path)
  except BaseException:
    os.unlink(beside)
    raise


def publish(source: str, directory: str, last: str) -> None:
  """Copies the local folder `source` to `directory`, which readers see whole or not at all.

  In a bucket, where folders do not exist, the file named `last`, which readers look for, goes up last.
  """
  if '://' not in directory:
    beside = f'{directory.rstrip("/")}.incomplete-{os.getpid()}'
    shutil.copytree(source, beside)
    remove(directory)
    os.rename(beside, directory)
    return
  remove(directory)
  files = [os.path.relpath(os.path.join(root, name), source) for root, _, names in os.walk(source) for name in names]
  for name in sorted(files, key=lambda name: name == last):
    tf.io.gfile.copy(os.path.join(source, name), os.path.join(directory, name))


def remove(directory: str) -> None:
  if tf.io.gfile.exists(directory):
    tf.io.gfile.rmtree(directory)
