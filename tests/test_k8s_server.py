"""The manifests on a real control plane: as it is, and as the oldest version supported."""

import json
import re
import shlex
from collections.abc import Iterator

import pytest
import yaml

from tests import breakages, kube_node, manifests, overlays
from tests.kube_node import Nodes
from tests.manifests import Manifest
from tests.overlays import built, job
from tests.train_kit import ROOT

pytestmark = pytest.mark.slow

OLDEST = manifests.OLDEST.rpartition('.')[0]  # 1.31, say
PAGE = (ROOT / 'docs/kubernetes.md').read_text()


@pytest.fixture(scope='module', params=[[], [f'--emulated-version={OLDEST}']], ids=['own', OLDEST])
def nodes(request, tmp_path_factory) -> Iterator[Nodes]:
  with kube_node.running(tmp_path_factory.mktemp('kube'), *request.param) as nodes:
    yield nodes


# --- as they are, all at once ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def everything(nodes, tmp_path_factory) -> Iterator[str]:
  """The folder of all overlays with suffixes, applied."""
  folder = overlays.together(tmp_path_factory.mktemp('overlays'))
  result = nodes.server.kubectl('apply', '-k', folder)
  assert (result.returncode, result.stderr) == (0, '')  # where a server warns, too
  yield folder
  nodes.clear()


def test_what_is_applied_is_what_is_there(everything, nodes):
  assert nodes.kubectl('diff', '-k', everything) == []
  nodes.kubectl('apply', '-k', everything, '--server-side')
  assert nodes.kubectl('diff', '-k', everything, '--server-side') == []


@pytest.mark.parametrize('overlay', overlays.OVERLAYS)
def test_its_pods_run_where_they_ask_to(overlay, everything, nodes):
  spec = job(built(overlay))
  name = f'{spec["metadata"]["name"]}-{overlay}'
  pods = nodes.running(name, spec['spec'].get('parallelism', 1))
  node = {'cpu': 'plain', 'score': 'plain', 'spot': 'spot'}.get(overlay, 'gpus')
  assert {pod['spec']['nodeName'] for pod in pods} == {node}


def test_hosts_find_one_another_and_nobody_else(everything, nodes):
  name = 'train-multi-host'
  pods = nodes.running(name, 2)
  assert [pod['spec']['hostname'] for pod in pods] == [f'{name}-0', f'{name}-1']
  configs = [
    json.loads(manifests.environment(pod, pod['spec']['containers'][0])['TF_CONFIG'])
    for pod in pods
  ]
  assert [config['task']['index'] for config in configs] == [0, 1]
  workers = [f'{name}-0.{name}:2222', f'{name}-1.{name}:2222']
  assert [config['cluster']['worker'] for config in configs] == [workers] * 2
  addresses = {pod['spec']['hostname']: [pod['status']['podIP']] for pod in pods}
  nodes.until(lambda: endpoints(nodes, name) == addresses)


def endpoints(nodes: Nodes, service: str) -> dict[str, list[str]]:
  """Returns the host names that a Service gives, with their addresses."""
  query = f'labelSelector=kubernetes.io/service-name={service}'
  url = f'/apis/discovery.k8s.io/v1/namespaces/lookbook/endpointslices?{query}'
  slices = nodes.server.request('GET', url)['items']
  found = [each for part in slices for each in part['endpoints'] or []]
  return {each.get('hostname'): each['addresses'] for each in found}


# --- what the documents tell people to do ---------------------------------------------------------


@pytest.fixture
def clean(nodes) -> Iterator[None]:
  yield
  nodes.clear()


def test_deleting_an_overlay_leaves_the_others(nodes, clean):
  nodes.kubectl('apply', '-k', 'k8s/overlays/cpu')
  nodes.kubectl('apply', '-k', 'k8s/overlays/score')
  (pod,) = nodes.running('train')
  nodes.running('score')
  nodes.kubectl('delete', '-k', 'k8s/overlays/score')
  nodes.until(lambda: not nodes.pods('score'))
  assert [each['metadata']['uid'] for each in nodes.running('train')] == [pod['metadata']['uid']]
  nodes.kubectl('delete', '-k', 'k8s/overlays/cpu')
  (claim,) = nodes.kubectl('-n', 'lookbook', 'get', 'pvc', '--no-headers')
  assert 'Bound' in claim


def test_the_documents_way_to_run_again(nodes, clean):
  documents = built('gpu')
  breakages.container(documents)['args'].append('--epochs=3')
  nodes.kubectl('apply', '-k', 'k8s/overlays/gpu')
  (old,) = nodes.running('train')
  refused = nodes.server.kubectl('apply', '-f', '-', input=yaml.safe_dump(job(documents)))
  assert (refused.returncode, 'field is immutable' in refused.stderr) == (1, True), refused.stderr
  (line,) = re.findall(r'^    (kubectl delete -k \S*/gpu .* && .*)$', PAGE, re.MULTILINE)
  for command in line.split(' && '):
    nodes.kubectl(*shlex.split(command)[1:])
  (new,) = nodes.running('train')
  assert new['metadata']['uid'] != old['metadata']['uid']


def test_the_documents_way_to_pause(nodes, clean):
  nodes.kubectl('apply', '-k', 'k8s/overlays/gpu')
  nodes.running('train')
  (line,) = re.findall(r"^    kubectl (.*suspend.*\}')", PAGE, re.MULTILINE)
  nodes.kubectl(*shlex.split(line))
  nodes.until(lambda: not nodes.pods('train'))
  nodes.kubectl(*shlex.split(line.replace('true', 'false')))
  nodes.running('train')
  nodes.will_exit('train-', 0)
  _, _, failed = nodes.verdict('train')
  assert failed == 0


# --- broken on purpose --------------------------------------------------------------------------


def no_seccomp_profile(documents: list[Manifest]) -> None:
  del manifests.pod(job(documents))['securityContext']['seccompProfile']


def capabilities(documents: list[Manifest]) -> None:
  del breakages.container(documents)['securityContext']['capabilities']


def host_network(documents: list[Manifest]) -> None:
  manifests.pod(job(documents))['hostNetwork'] = True


def host_folder(documents: list[Manifest]) -> None:
  manifests.pod(job(documents))['volumes'].append({'name': 'host', 'hostPath': {'path': '/'}})


def unknown_account(documents: list[Manifest]) -> None:
  manifests.pod(job(documents))['serviceAccountName'] = 'trainer'


@pytest.mark.parametrize(
  ('break_', 'complaint'),
  [
    (breakages.root_user, 'violates PodSecurity "restricted:latest": runAsUser=0'),
    (no_seccomp_profile, 'violates PodSecurity "restricted:latest": seccompProfile'),
    (capabilities, 'violates PodSecurity "restricted:latest": unrestricted capabilities'),
    (host_network, 'violates PodSecurity "restricted:latest": host namespaces'),
    (host_folder, 'violates PodSecurity "restricted:latest": restricted volume types'),
    (unknown_account, 'error looking up service account lookbook/trainer'),
  ],
)
def test_a_pod_that_asks_for_more_is_refused(break_, complaint, nodes):
  documents = built('gpu')
  break_(documents)
  assert complaint in refusal(nodes, pod_of(documents))


@pytest.mark.parametrize(
  ('break_', 'complaint'),
  [
    (breakages.unknown_field, 'unknown field "spec.template.spec.nodeSelectors"'),
    (breakages.wrong_type, 'backoffLimit'),
    (breakages.missing_volume, 'volumeMounts[1].name: Not found: "tmp"'),
    (breakages.bad_quantity, 'quantities must match the regular expression'),
    (breakages.restart_always, 'Required value: valid values: "OnFailure", "Never"'),
  ],
)
def test_a_job_that_is_wrong_is_refused(break_, complaint, nodes):
  documents = built('gpu')
  break_(documents)
  assert complaint in refusal(nodes, job(documents))


def pod_of(documents: list[Manifest]) -> Manifest:
  """Returns the pod that a controller makes of the Job: the profile refuses pods only."""
  template = job(documents)['spec']['template']
  metadata = {**template['metadata'], 'name': 'by-itself', 'namespace': 'lookbook'}
  return {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': template['spec']}


def refusal(nodes: Nodes, document: Manifest) -> str:
  """Returns what the server says against it."""
  text = yaml.safe_dump(document)
  result = nodes.server.kubectl('apply', '--dry-run=server', '-f', '-', input=text)
  assert result.returncode == 1, result.stdout
  return result.stderr
