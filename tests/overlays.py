"""The manifests of `k8s/overlays/`, as kubectl builds them."""

import os
import pathlib
import shutil

from tests import manifests
from tests.manifests import Manifest
from tests.train_kit import CACHE, ROOT

FOLDER = ROOT / 'k8s/overlays'
OVERLAYS = sorted(path.name for path in FOLDER.iterdir())
KUBECTL = shutil.which('kubectl') or str(CACHE / 'kubectl')


def built(overlay: str) -> list[Manifest]:
  """Returns the documents of an overlay."""
  return manifests.build(str(FOLDER / overlay), KUBECTL)


def once(overlay: str) -> str:
  """Returns the folder that is applied once, before the overlay."""
  return 'k8s/laptop' if overlay == 'cpu' else 'k8s/namespace'


def whole(overlay: str) -> list[Manifest]:
  """Returns the documents of an overlay after those that it needs."""
  return manifests.build(str(ROOT / once(overlay)), KUBECTL) + built(overlay)


def another(overlay: str, suffix: str, folder: pathlib.Path) -> str:
  """Makes an overlay in `folder`, of the same objects with this suffix; returns the folder."""
  folder.mkdir(exist_ok=True)
  resource = os.path.relpath(FOLDER / overlay, folder.resolve())
  text = f'resources: [{resource}]\nnameSuffix: {suffix}\n'
  (folder / 'kustomization.yaml').write_text(text)
  return str(folder)


def together(folder: pathlib.Path) -> str:
  """Makes one overlay of all, each with its own name for a suffix, and of what is applied once.

  Returns the folder.
  """
  for overlay in OVERLAYS:
    another(overlay, f'-{overlay}', folder / overlay)
  resources = [*OVERLAYS, os.path.relpath(ROOT / once('cpu'), folder.resolve())]
  (folder / 'kustomization.yaml').write_text(f'resources: [{", ".join(resources)}]\n')
  return str(folder)


def job(documents: list[Manifest]) -> Manifest:
  """Returns the first Job."""
  return manifests.of_kind(documents, 'Job')[0]
