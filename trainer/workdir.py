"""The workdir of a run, local or gs://: whose it is, and whether it ended."""

import json
import secrets

from absl import app

from storage import files

SETTINGS, METRICS = 'settings.json', 'metrics.json'


def check(directory: str, settings: dict) -> None:
  """Finds out, before any work, whether a run with these settings may write to `directory`.

  Raises:
    app.UsageError: it cannot be written, or holds a run with other settings.
    files.Unavailable: Cloud Storage does not answer.
  """
  path = files.join(directory, SETTINGS)
  probe = files.join(directory, f'.writable-{secrets.token_hex(4)}')  # every host's own
  with files.as_usage_error(f'--workdir={directory}: cannot be written'):
    write(probe, b'')
    files.remove([probe])
    held = json.loads(files.read(path)) if files.exists(path) else settings
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
  write(files.join(directory, SETTINGS), json.dumps(settings, indent=2) + '\n')


def finished(directory: str) -> dict | None:
  """The metrics of a run that ended, or None."""
  path = files.join(directory, METRICS)
  return json.loads(files.read(path)) if files.exists(path) else None


def write(path: str, content: str | bytes) -> None:
  """Replaces a file of the run in one step; it survives a power failure."""
  files.write(path, content, durable=True)
