"""The manifests and the build files, as `kubectl apply -k` and `gcloud builds submit` get them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest
import yaml

from tests import manifests
from tests.manifests import Manifest
from tests.train_kit import CACHE, ROOT

OVERLAYS = sorted(path.name for path in (ROOT / 'k8s/overlays').iterdir())
KUBECTL = shutil.which('kubectl') or str(CACHE / 'kubectl')
PROJECT = 'my-project'  # the placeholder in k8s/site
LOCAL_IMAGE = 'lookbook'  # what `make image` calls it
BIN = os.path.dirname(sys.executable)


def built(overlay: str) -> list[Manifest]:
  """The documents of an overlay."""
  return manifests.build(str(ROOT / 'k8s/overlays' / overlay), KUBECTL)


@pytest.fixture(scope='module')
def flags() -> dict[str, set[str]]:
  """The flags that each command's --help names."""
  commands = ('lookbook-train', 'lookbook-score')
  helps = {
    name: subprocess.run([f'{BIN}/{name}', '--help'], capture_output=True, text=True)
    for name in commands
  }
  return {name: set(re.findall(r'--\w+', result.stdout)) for name, result in helps.items()}


@pytest.fixture(scope='module')
def cloud_build() -> Manifest:
  return yaml.safe_load((ROOT / 'cloudbuild.yaml').read_text())


@pytest.fixture(scope='module')
def pushed(cloud_build) -> str:
  """The repository that cloudbuild.yaml pushes to, in the project that k8s/site names."""
  values = {'PROJECT_ID': PROJECT, **cloud_build['substitutions']}
  return re.sub(r'\$\{?(\w+)\}?', lambda match: values[match[1]], values['_IMAGE'])


@pytest.fixture(scope='module')
def check(flags, pushed) -> Callable[..., list[str]]:
  return lambda documents, image=pushed: manifests.findings(documents, image=image, flags=flags)


# --- as they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_nothing_is_wrong(overlay, check, pushed):
  assert check(built(overlay), LOCAL_IMAGE if overlay == 'cpu' else pushed) == []


def test_the_base_runs_by_itself(check):
  base = manifests.build(str(ROOT / 'k8s/base'), KUBECTL)
  assert check(base) == []
  assert manifests.of_kind(base, 'Job')


@pytest.mark.parametrize(
  ('overlay', 'gpus', 'pods'),
  [('cpu', 0, 1), ('gpu', 1, 1), ('multi-gpu', 4, 1), ('multi-host', 1, 2), ('spot', 1, 1)],
)
def test_devices(overlay, gpus, pods):
  (job,) = manifests.of_kind(built(overlay), 'Job')
  (container,) = manifests.containers(job)
  assert int(container['resources']['limits'].get('nvidia.com/gpu', 0)) == gpus
  assert job['spec'].get('parallelism', 1) == pods


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_exit_codes(overlay):
  (job,) = manifests.of_kind(built(overlay), 'Job')
  rules = job['spec']['podFailurePolicy']['rules']
  actions = {
    code: rule['action'] for rule in rules for code in rule.get('onExitCodes', {}).get('values', [])
  }
  assert actions == {64: 'FailJob', 75: 'Ignore'} | ({3: 'FailJob'} if overlay == 'score' else {})
  assert [rule['action'] for rule in rules if 'onPodConditions' in rule] == ['Ignore']


def test_each_worker_finds_itself():
  (job,) = manifests.of_kind(built('multi-host'), 'Job')
  (container,) = manifests.containers(job)
  configs = [json.loads(manifests.tf_config(container, index)) for index in range(2)]
  assert [config['task'] for config in configs] == [
    {'type': 'worker', 'index': 0},
    {'type': 'worker', 'index': 1},
  ]
  assert configs[0]['cluster'] == {'worker': ['train-0.workers:2222', 'train-1.workers:2222']}


# --- broken on purpose ----------------------------------------------------------------------------


def job(documents: list[Manifest]) -> Manifest:
  return manifests.of_kind(documents, 'Job')[0]


def container(documents: list[Manifest]) -> Manifest:
  return manifests.containers(job(documents))[0]


def unknown_field(documents):
  manifests.pod(job(documents))['nodeSelectors'] = {'disk': 'ssd'}


def wrong_type(documents):
  job(documents)['spec']['backoffLimit'] = '3'


def missing_volume(documents):
  volumes = manifests.pod(job(documents))['volumes']
  volumes.remove(next(volume for volume in volumes if volume['name'] == 'tmp'))


def bad_quantity(documents):
  container(documents)['resources']['limits']['memory'] = '8GB'


def restart_always(documents):
  manifests.pod(job(documents))['restartPolicy'] = 'Always'


def mismatched_service(documents):
  manifests.of_kind(documents, 'Service')[0]['metadata']['name'] = 'worker'


def unknown_flag(documents):
  container(documents)['args'].append('--epoch=3')


def unknown_flag_in_the_config_map(documents):
  config_map = next(
    m for m in manifests.of_kind(documents, 'ConfigMap') if 'train.flags' in m['data']
  )
  config_map['data']['train.flags'] += '--batch=3\n'


def root_user(documents):
  manifests.pod(job(documents))['securityContext']['runAsUser'] = 0


def missing_limits(documents):
  del container(documents)['resources']['limits']['memory']


def latest(documents):
  container(documents)['image'] = container(documents)['image'].rpartition(':')[0] + ':latest'


def selector_of_nothing(documents):
  manifests.of_kind(documents, 'Service')[0]['spec']['selector'] = {'app': 'trainer'}


def a_worker_too_few(documents):
  job(documents)['spec']['completions'] = 3


def missing_account(documents):
  documents.remove(manifests.of_kind(documents, 'ServiceAccount')[0])


def another_image(documents):
  container(documents)['image'] = 'docker.io/tensorflow/tensorflow:2.21.0'


@pytest.mark.parametrize(
  ('break_', 'finding'),
  [
    (
      unknown_field,
      "Job/train: spec.template.spec: Additional properties .*'nodeSelectors' was unexpected",
    ),
    (wrong_type, "Job/train: spec.backoffLimit: '3' is not of type"),
    (missing_volume, "Job/train: /tmp mounts the volume 'tmp', which is not there"),
    (bad_quantity, "Job/train: .*limits.memory: '8GB' is not a quantity"),
    (restart_always, "Job/train: restartPolicy is 'Always'; a Job takes Never or OnFailure"),
    (mismatched_service, 'Job/train: needs Service/workers, which is not there'),
    (unknown_flag, "Job/train: container 'train': --epoch is not a flag of lookbook-train"),
    (
      unknown_flag_in_the_config_map,
      "Job/train: container 'train': --batch is not a flag of lookbook-train",
    ),
    (root_user, "Job/train: container 'train': runAsUser is 0, which is root"),
    (missing_limits, "Job/train: container 'train': no limits.memory"),
    (latest, "Job/train: container 'train': image .*:latest does not say which version"),
    (
      selector_of_nothing,
      "Service/workers: selects {'app': 'trainer'}, and no pod has these labels",
    ),
    (a_worker_too_few, 'Job/train: TF_CONFIG lists .*; the pods are .*train-2.workers:2222'),
    (missing_account, 'Job/train: needs ServiceAccount/lookbook, which is not there'),
    (
      another_image,
      "Job/train: container 'train': image docker.io/tensorflow/tensorflow:2.21.0 is not one of ",
    ),
  ],
)
def test_what_is_broken_is_found(break_, finding, check):
  documents = built('multi-host')
  break_(documents)
  found = check(documents)
  assert [line for line in found if re.match(finding, line)], found


# --- the files around them ------------------------------------------------------------------------


def test_cloud_build_fits_its_schema():
  command = [f'{BIN}/check-jsonschema', '--builtin-schema', 'vendor.cloudbuild', 'cloudbuild.yaml']
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


def test_cloud_build_pins_its_steps_and_builds_what_the_dockerfile_has(cloud_build):
  stages = re.findall(r'^FROM .* AS (\w+)$', (ROOT / 'Dockerfile').read_text(), re.MULTILINE)
  for step in cloud_build['steps']:
    assert re.search(r':v?\d+\.\d+\.\d+(-\w+)?$', step['name']), step['name']
    targets = [
      arg.removeprefix('--target=') for arg in step.get('args', []) if arg.startswith('--target=')
    ]
    assert set(targets) <= set(stages), targets


def test_one_version_everywhere(cloud_build):
  version = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']
  site = yaml.safe_load((ROOT / 'k8s/site/kustomization.yaml').read_text())
  assert cloud_build['substitutions']['_VERSION'] == version
  assert {image['name']: image['newTag'] for image in site['images']} == {
    'lookbook': version,
    'lookbook-gpu': f'{version}-gpu',
  }
  assert f'org.opencontainers.image.version={version} ' in (ROOT / 'Dockerfile').read_text()
  (cpu_job,) = manifests.of_kind(built('cpu'), 'Job')
  assert manifests.containers(cpu_job)[0]['image'] == f'{LOCAL_IMAGE}:{version}'


def test_dockerfile_is_clean():
  result = subprocess.run(
    [f'{BIN}/hadolint', 'Dockerfile'], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout
