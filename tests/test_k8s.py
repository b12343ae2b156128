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

from tests import breakages, manifests
from tests.manifests import Manifest
from tests.overlays import KUBECTL, OVERLAYS, another, built, job, once, whole
from tests.train_kit import ROOT
from trainer import exit_codes

PROJECT = 'my-project'  # the placeholder in k8s/site
LOCAL_IMAGE = 'lookbook'  # what `make image` calls it
BIN = os.path.dirname(sys.executable)


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
  assert check(whole(overlay), LOCAL_IMAGE if overlay == 'cpu' else pushed) == []


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_deleting_it_deletes_nothing_of_others(overlay):
  kinds = {document['kind'] for document in built(overlay)}
  assert kinds <= {'Job', 'ConfigMap', 'Service', 'NetworkPolicy'}  # no volume, no namespace
  jobs = [document for document in built(overlay) if document['kind'] == 'Job']
  assert [document['metadata']['namespace'] for document in jobs] == ['lookbook']


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_everything_has_a_label(overlay):
  labels = [document['metadata'].get('labels', {}) for document in whole(overlay)]
  assert {each.get('app.kubernetes.io/name') for each in labels} == {'lookbook'}


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_two_of_a_kind_share_nothing(overlay, tmp_path, check, pushed):
  second = manifests.build(another(overlay, '-second', tmp_path), KUBECTL)
  names = {manifests.name(document) for document in second}
  assert not names & {manifests.name(document) for document in built(overlay)}
  prerequisites = manifests.build(str(ROOT / once(overlay)), KUBECTL)
  assert check(prerequisites + second, LOCAL_IMAGE if overlay == 'cpu' else pushed) == []
  if overlay != 'score':
    assert workdir(second) == workdir(built(overlay)) + '-second'


def workdir(documents: list[Manifest]) -> str:
  """Returns the workdir of the first pod."""
  pod = manifests.pod_of(job(documents), 0)
  (container,) = pod['spec']['containers']
  (flag,) = (arg for arg in container['args'] if arg.startswith('--workdir='))
  return manifests.expanded(flag, manifests.environment(pod, container))


def test_a_queue_of_kueue_is_one_edit(tmp_path):
  """The lines at the end of k8s/site, uncommented."""
  shutil.copytree(ROOT / 'k8s', tmp_path / 'k8s')
  site = tmp_path / 'k8s/site/kustomization.yaml'
  site.write_text(re.sub('^# (labels:|- pairs: )', r'\1', site.read_text(), flags=re.MULTILINE))
  documents = manifests.build(str(tmp_path / 'k8s/overlays/gpu'), KUBECTL)
  assert job(documents)['metadata']['labels']['kueue.x-k8s.io/queue-name'] == 'my-queue'


def test_the_base_runs_by_itself(check):
  base = manifests.build(str(ROOT / 'k8s/base'), KUBECTL)
  namespace = manifests.build(str(ROOT / 'k8s/namespace'), KUBECTL)
  assert check(namespace + base) == []
  assert manifests.of_kind(base, 'Job')


@pytest.mark.parametrize(
  ('overlay', 'gpus', 'pods'),
  [('cpu', 0, 1), ('gpu', 1, 1), ('multi-gpu', 4, 1), ('multi-host', 1, 2), ('spot', 1, 1)],
)
def test_devices(overlay, gpus, pods):
  (container,) = manifests.containers(job(built(overlay)))
  assert int(container['resources']['limits'].get('nvidia.com/gpu', 0)) == gpus
  assert job(built(overlay))['spec'].get('parallelism', 1) == pods


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_exit_codes(overlay):
  rules = job(built(overlay))['spec']['podFailurePolicy']['rules']
  actions = {
    code: rule['action'] for rule in rules for code in rule.get('onExitCodes', {}).get('values', [])
  }
  own = {3: 'FailJob'} if overlay == 'score' else {exit_codes.NON_FINITE: 'FailJob'}
  assert actions == {exit_codes.BAD_INPUT: 'FailJob', exit_codes.PREEMPTED: 'Ignore'} | own
  assert [rule['action'] for rule in rules if 'onPodConditions' in rule] == ['Ignore']


def test_each_worker_finds_itself():
  pods = [manifests.pod_of(job(built('multi-host')), index) for index in range(2)]
  configs = [
    json.loads(manifests.environment(pod, pod['spec']['containers'][0])['TF_CONFIG'])
    for pod in pods
  ]
  assert [config['task'] for config in configs] == [
    {'type': 'worker', 'index': 0},
    {'type': 'worker', 'index': 1},
  ]
  assert configs[0]['cluster'] == {'worker': ['train-0.train:2222', 'train-1.train:2222']}


# --- broken on purpose ----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('break_', 'finding'),
  [
    (
      breakages.unknown_field,
      "Job/train: spec.template.spec: Additional properties .*'nodeSelectors' was unexpected",
    ),
    (breakages.wrong_type, "Job/train: spec.backoffLimit: '3' is not of type"),
    (breakages.missing_volume, "Job/train: /tmp mounts the volume 'tmp', which is not there"),
    (breakages.bad_quantity, "Job/train: .*limits.memory: '8GB' is not a quantity"),
    (
      breakages.restart_always,
      "Job/train: restartPolicy is 'Always'; a Job takes Never or OnFailure",
    ),
    (breakages.mismatched_service, 'Job/train: needs Service/train, which is not there'),
    (
      breakages.unknown_flag,
      "Job/train: container 'train': --epoch is not a flag of lookbook-train",
    ),
    (
      breakages.unknown_flag_in_the_config_map,
      "Job/train: container 'train': --batch is not a flag of lookbook-train",
    ),
    (breakages.root_user, "Job/train: container 'train': runAsUser is 0, which is root"),
    (breakages.no_deadline, 'Job/train: no activeDeadlineSeconds'),
    (breakages.missing_limits, "Job/train: container 'train': no limits.memory"),
    (breakages.latest, "Job/train: container 'train': image .*:latest does not say which version"),
    (
      breakages.selector_of_nothing,
      "Service/train: selects {'app': 'trainer'}, and no pod has these labels",
    ),
    (breakages.variable_too_late, 'Job/train: TF_CONFIG needs JOB, which is not set above it'),
    (
      breakages.a_worker_too_few,
      'Job/train: TF_CONFIG lists .*; the pods are .*train-2.train:2222',
    ),
    (breakages.missing_account, 'Job/train: needs ServiceAccount/lookbook, which is not there'),
    (
      breakages.another_image,
      "Job/train: container 'train': image docker.io/tensorflow/tensorflow:2.21.0 is not one of ",
    ),
  ],
)
def test_what_is_broken_is_found(break_, finding, check):
  documents = whole('multi-host')
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
  assert manifests.containers(job(built('cpu')))[0]['image'] == f'{LOCAL_IMAGE}:{version}'


def test_dockerfile_is_clean():
  result = subprocess.run(
    [f'{BIN}/hadolint', 'Dockerfile'], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout
