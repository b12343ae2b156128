"""The workdir of a run, local or gs://: ownership and completion."""

import json
import secrets

from absl import app

from storage import files

SETTINGS, METRICS = 'settings.json', 'metrics.json'
OLDEST_SETTINGS = {'dataset': 'fashion_mnist'}  # of workdirs from before there were other datasets


def check(directory: str, settings: dict) -> None:
  """Checks, before any work, whether a run with these settings may write to `directory`.

  Raises:
    app.UsageError: it cannot be written, or contains a run with other settings.
    files.Unavailable: Cloud Storage is not responding.
  """
  path = files.join(directory, SETTINGS)
  probe = files.join(directory, f'.writable-{secrets.token_hex(4)}')  # one per host
  with files.as_usage_error(f'--workdir={directory}: cannot be written'):
    write(probe, b'')
    files.remove([probe])
    stored = json.loads(files.read(path)) if files.exists(path) else settings
  stored = {**OLDEST_SETTINGS, **stored}
  differing = [
    f'--{name}={stored.get(name)} (now {settings.get(name)})'
    for name in sorted({*stored, *settings})
    if stored.get(name) != settings.get(name)
  ]
  if differing:
    raise app.UsageError(
      f'--workdir={directory}: contains a run with {", ".join(differing)}; pass those settings, or '
      'another --workdir'
    )


def claim(directory: str, settings: dict) -> None:
  """Claims `directory` for a run by recording its settings."""
  write(files.join(directory, SETTINGS), json.dumps(settings, indent=2) + '\n')


def finished(directory: str) -> dict | None:
  """Returns the metrics of a finished run, or None."""
  path = files.join(directory, METRICS)
  return json.loads(files.read(path)) if files.exists(path) else None


def write(path: str, content: str | bytes) -> None:
  """Replaces a file of the run in one step; it survives a power failure."""
  files.write(path, content, durable=True)
