"""Checkpoints: one file each, with its own checksum, whole or not at all.

checkpoint.save('runs/seed/checkpoints', {'step': np.array(100), **arrays}, keep=3)
state = checkpoint.newest('runs/seed/checkpoints')
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging

from storage import files
from trainer import failures, workdir

NAME = re.compile(r'step-(\d{10})\.ckpt')
DIGEST_BYTES = 32


class Damaged(failures.Failure):
  """The content of a checkpoint is not what was written."""


def save(directory: str, state: Mapping[str, np.ndarray], keep: int) -> None:
  """Writes `state`, reads it back, then deletes all but the newest `keep` up to its step.

  Those of later steps are deleted, too: a run goes on from its newest undamaged checkpoint, so they
  are damaged.

  The file is the sha256 of the rest (32 bytes), then a NumPy .npz archive of `state`, which must
  contain `step`.

  Raises:
    Damaged: what is read back is not what was written; the older checkpoints still exist.
  """
  archive = io.BytesIO()
  np.savez(archive, **state)  # type: ignore[arg-type]
  content = archive.getvalue()
  name = f'step-{int(state["step"]):010}.ckpt'
  path = os.path.join(directory, name)
  workdir.write(path, hashlib.sha256(content).digest() + content)
  _verified(path)
  paths = _paths(directory)
  usable = [each for each in paths if os.path.basename(each) <= name]
  files.remove([*paths[len(usable) :], *usable[:-keep]])


def newest(directory: str) -> dict[str, np.ndarray] | None:
  """Returns the newest undamaged checkpoint, or None. Warns of each damaged one that it skips."""
  for path in reversed(_paths(directory)):
    try:
      with np.load(io.BytesIO(_verified(path)), allow_pickle=False) as archive:
        return dict(archive)
    except (Damaged, zipfile.BadZipFile, FileNotFoundError) as error:
      logging.warning('skipping a damaged checkpoint: %s', error)
  return None


def _paths(directory: str) -> list[str]:
  """Returns the checkpoints, oldest first."""
  return [
    file.uri for file in files.list_files(directory) if NAME.fullmatch(os.path.basename(file.uri))
  ]


def _verified(path: str) -> bytes:
  """Returns the archive in a checkpoint. Raises Damaged if it does not match its checksum."""
  stored = files.read(path)
  digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
  if hashlib.sha256(content).digest() != digest:
    raise Damaged(f'{path}: sha256 does not match its content; check the disk')
  return content
