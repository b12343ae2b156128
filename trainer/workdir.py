"""The workdir of a run, local or gs://: whose it is, and whether it is finished."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from absl import app

from storage import files

SETTINGS, METRICS = 'settings.json', 'metrics.json'
DATA = 'data'  # the description of the images, among the settings
OUTPUTS = ('export/1/saved_model.pb', 'keras/model.keras', 'report/report.html')
OLDEST_SETTINGS = {  # of workdirs from before there were others
  'dataset': 'fashion_mnist',
  'image_size': None,
  'channels': None,
  'flip': 'auto',
  'class_weights': 'equal',
  'init_from': None,
  'calibrate': False,
}
OLDEST_SMOOTHING = {'seed': 0.0, 'best': 0.05}  # of workdirs from before it was a setting


def check_writable(directory: str) -> None:
  """Checks, before any work, that files can be written to `directory`.

  Raises:
    app.UsageError: they cannot.
    files.Unavailable: Cloud Storage is not responding.
  """
  probe = files.join(directory, f'.writable-{secrets.token_hex(4)}')
  with files.as_usage_error(f'--workdir={directory}: cannot be written'):
    write(probe, b'')
    files.remove([probe])


def check(directory: str, settings: dict[str, Any]) -> None:
  """Checks that a run with some of its settings may write to `directory`.

  Raises:
    app.UsageError: it contains a run with other settings, or on other images.
    files.Unavailable: Cloud Storage is not responding.
  """
  recorded = _read_json(directory, SETTINGS)
  if recorded is None:
    return
  smoothing = OLDEST_SMOOTHING[recorded.get('model', settings['model'])]
  stored = {**settings, **OLDEST_SETTINGS, 'label_smoothing': smoothing, **recorded}
  differing = [
    f'{_label(name)}={stored[name]} (now {settings[name]})'
    for name in sorted(settings)
    if stored[name] != settings[name]
  ]
  if differing:
    raise app.UsageError(
      f'--workdir={directory}: contains a run with {", ".join(differing)}; pass those settings, or '
      'another --workdir'
    )


def _label(name: str) -> str:
  return name if name == DATA else f'--{name}'


def claim(directory: str, settings: dict) -> None:
  """Claims `directory` for a run by recording its settings."""
  write(files.join(directory, SETTINGS), json.dumps(settings, indent=2) + '\n')


def finished(directory: str) -> dict | None:
  """Returns the metrics of a finished run, or None if one of its results is missing."""
  found = _read_json(directory, METRICS, needed=('epochs', 'test_accuracy'))
  whole = all(files.exists(files.join(directory, name)) for name in OUTPUTS)
  return found if whole else None


def _read_json(directory: str, name: str, needed: Sequence[str] = ()) -> dict | None:
  """Returns the content of a file in the workdir, with the keys needed; None if there is none.

  Raises:
    app.UsageError: it is damaged.
  """
  path = files.join(directory, name)
  with files.as_usage_error(f'--workdir={directory}'):
    content = files.read(path) if files.exists(path) else None
  if content is None:
    return None
  try:
    found = json.loads(content)
    if isinstance(found, dict) and set(needed) <= set(found):
      return found
    reason = f'not a JSON object with {", ".join(needed) or "settings"}'
  except ValueError as error:
    reason = str(error)
  raise app.UsageError(
    f'{path}: is damaged ({reason}); restore it, delete it, or pass another --workdir'
  )


def write(path: str, content: str | bytes) -> None:
  """Replaces a file of the run in one step; it survives a power failure.

  Raises:
    OSError: one that names the file, even if the system's did not.
  """
  try:
    files.write(path, content, durable=True)
  except OSError as error:
    if error.errno and not error.filename:
      error.filename = path
    raise
