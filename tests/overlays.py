"""The manifests of `k8s/overlays/`, as kubectl builds them."""

import shutil

from tests import manifests
from tests.manifests import Manifest
from tests.train_kit import CACHE, ROOT

OVERLAYS = sorted(path.name for path in (ROOT / 'k8s/overlays').iterdir())
KUBECTL = shutil.which('kubectl') or str(CACHE / 'kubectl')


def built(overlay: str) -> list[Manifest]:
  """Returns the documents of an overlay."""
  return manifests.build(str(ROOT / 'k8s/overlays' / overlay), KUBECTL)


def job(documents: list[Manifest]) -> Manifest:
  """Returns the first Job."""
  return manifests.of_kind(documents, 'Job')[0]
