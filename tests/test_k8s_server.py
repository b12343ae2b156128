"""What a real API server says to the manifests: as itself, and as the oldest version supported."""

import copy
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests import breakages, kube_server, manifests
from tests.kube_server import Server
from tests.manifests import Manifest
from tests.overlays import OVERLAYS, built, job

pytestmark = pytest.mark.slow

OLDEST = manifests.OLDEST.rpartition('.')[0]  # 1.31, say


@pytest.fixture(scope='module', params=[[], [f'--emulated-version={OLDEST}']], ids=['own', OLDEST])
def server(request, tmp_path_factory) -> Iterator[Server]:
  """A server with the namespace and its account, without which nothing can be tried."""
  with kube_server.running(tmp_path_factory.mktemp('kube'), *request.param) as server:
    succeed(server.kubectl('apply', '-k', 'k8s/namespace'))
    yield server


def succeed(result: subprocess.CompletedProcess[str]) -> list[str]:
  """Returns the lines that kubectl printed, once it is sure that kubectl did what it was told."""
  assert result.returncode == 0, result.stderr
  return result.stdout.splitlines()


def tried(server: Server, *documents: Manifest) -> subprocess.CompletedProcess[str]:
  """Returns what the server says to them without keeping them."""
  text = yaml.safe_dump_all(documents)
  return server.kubectl('apply', '--dry-run=server', '--output=name', '-f', '-', input=text)


def pod(documents: list[Manifest]) -> Manifest:
  """Returns the pod that a controller makes of the Job: the profile refuses pods only."""
  template = job(documents)['spec']['template']
  metadata = {**template['metadata'], 'name': 'by-itself', 'namespace': 'lookbook'}
  return {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': template['spec']}


# --- as they are --------------------------------------------------------------------------------


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_a_server_admits_it(overlay, server):
  documents = built(overlay)
  command = ('apply', '--dry-run=server', '--output=name', '-k', f'k8s/overlays/{overlay}')
  result = server.kubectl(*command)
  admitted = succeed(result)
  assert result.stderr == ''  # where a server warns of what it will not know for long
  assert len(admitted) == len(documents)
  assert f'job.batch/{job(documents)["metadata"]["name"]}' in admitted
  assert succeed(server.kubectl(*command, '--server-side')) == admitted


@pytest.mark.parametrize('overlay', OVERLAYS)
def test_a_server_admits_its_pods(overlay, server):
  assert succeed(tried(server, pod(built(overlay)))) == ['pod/by-itself']


def test_a_job_is_not_changed_but_made_anew(server):
  """As docs/kubernetes.md has it."""
  documents = built('gpu')
  changed = copy.deepcopy(documents)
  breakages.container(changed)['args'].append('--epochs=3')
  command = ('apply', '-f', '-')
  succeed(server.kubectl(*command, input=yaml.safe_dump_all(documents)))
  refused = server.kubectl(*command, input=yaml.safe_dump_all(changed))
  assert (refused.returncode, 'field is immutable' in refused.stderr) == (1, True), refused.stderr
  succeed(server.kubectl('-n', 'lookbook', 'delete', 'job', 'train'))
  succeed(server.kubectl(*command, input=yaml.safe_dump_all(changed)))


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
def test_a_pod_that_asks_for_more_is_refused(break_, complaint, server):
  documents = built('gpu')
  break_(documents)
  assert_refused(tried(server, pod(documents)), complaint)


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
def test_a_job_that_is_wrong_is_refused(break_, complaint, server):
  documents = built('gpu')
  break_(documents)
  assert_refused(tried(server, job(documents)), complaint)


def assert_refused(result: subprocess.CompletedProcess[str], complaint: str) -> None:
  assert result.returncode == 1
  assert complaint in result.stderr
