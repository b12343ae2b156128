"""What becomes of a Job, by its pods' exit codes: what docs/kubernetes.md says, Kubernetes does."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests import kube_node, manifests
from tests.kube_node import KILLED, PRESSURE, Nodes, path
from tests.manifests import Manifest
from tests.overlays import built, job
from tests.train_kit import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / 'docs/kubernetes.md').read_text()
OVERLAY = {'train': 'gpu', 'score': 'score'}


@pytest.fixture(scope='module')
def nodes(tmp_path_factory) -> Iterator[Nodes]:
  with kube_node.running(tmp_path_factory.mktemp('kube')) as nodes:
    yield nodes


# --- the table ------------------------------------------------------------------------------------


def rows() -> Iterator[tuple[str, int, str]]:
  """Yields Job, exit code and what the table says of it."""
  cells = re.findall(r'^\| (.*?) \| (.*?) \| (.*?) \|$', PAGE.partition('## Exit')[2], re.MULTILINE)
  for codes, train, score in cells:
    if codes[0].isdigit():
      for code in (int(codes.split(',')[0]), *([KILLED] if 'killed' in codes else [])):
        yield from [
          (name, code, says) for name, says in (('train', train), ('score', score)) if says
        ]


ROWS = list(rows())


@pytest.fixture(scope='module')
def verdicts(nodes) -> dict[tuple[str, int], tuple[str, str, int]]:
  """How the Job of each row ends if five pods end so, and then one with 0."""
  jobs = []
  for name, code, _ in ROWS:
    jobs.append(job(built(OVERLAY[name])))
    jobs[-1]['metadata']['name'] = f'{name}-{code}'
    nodes.will_exit(f'{name}-{code}-', *[code] * 5, 0)
  result = nodes.server.kubectl('apply', '-f', '-', input=yaml.safe_dump_all(jobs))
  assert result.returncode == 0, result.stderr
  found = {(name, code): nodes.verdict(f'{name}-{code}') for name, code, _ in ROWS}
  nodes.clear()
  return found


@pytest.mark.parametrize(('name', 'code', 'says'), ROWS, ids=[f'{row[0]}-{row[1]}' for row in ROWS])
def test_the_documents_table(name, code, says, verdicts):
  if 'fails at once' in says:
    expected = ('Failed', 'PodFailurePolicy', 1)
  elif 'retried' in says:
    expected = ('Failed', 'BackoffLimitExceeded', 4)
  else:
    assert ('not counted' in says) == (code != 0)
    expected = ('Complete', 'CompletionsReached', 0)
  assert verdicts[name, code] == expected


# --- disruptions ----------------------------------------------------------------------------------


def drained(nodes: Nodes, pod: Manifest) -> None:
  eviction = {'apiVersion': 'policy/v1', 'kind': 'Eviction', 'metadata': pod['metadata']}
  nodes.server.request('POST', f'{path(pod)}/eviction', eviction)


def evicted(nodes: Nodes, pod: Manifest) -> None:
  nodes.exit(pod, KILLED, PRESSURE)


def preempted(nodes: Nodes, pod: Manifest) -> None:
  """By a pod that takes the whole node."""
  name = pod['metadata']['labels']['batch.kubernetes.io/job-name']
  urgent = {'apiVersion': 'scheduling.k8s.io/v1', 'kind': 'PriorityClass', 'value': 1000}
  urgent['metadata'] = {'name': 'urgent'}
  spec = manifests.pod(job(built({'train': 'spot'}.get(name, name))))
  spec['priorityClassName'] = 'urgent'
  for part in spec['containers'][0]['resources'].values():
    part['cpu'] = '499'
  metadata = {'name': 'urgent', 'namespace': 'lookbook'}
  other = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': spec}
  text = yaml.safe_dump_all([urgent, other])
  assert nodes.server.kubectl('apply', '-f', '-', input=text).returncode == 0
  nodes.until(lambda: pod['metadata']['uid'] not in uids(nodes.pods()))
  nodes.kubectl('-n', 'lookbook', 'delete', 'pod', 'urgent')


def uids(pods: list[Manifest]) -> list[str]:
  return [pod['metadata']['uid'] for pod in pods if pod['status'].get('phase') == 'Running']


@pytest.mark.parametrize(('name', 'overlay'), [('train', 'spot'), ('score', 'score')])
def test_disruptions_do_not_count(name, overlay, nodes):
  nodes.kubectl('apply', '-k', f'k8s/overlays/{overlay}')
  for disrupt in (drained, evicted, preempted):
    (pod,) = nodes.running(name)
    disrupt(nodes, pod)
    nodes.until(lambda pod=pod: pod['metadata']['uid'] not in uids(nodes.pods()))
  nodes.running(name)
  nodes.will_exit(f'{name}-', 0)
  assert nodes.verdict(name) == ('Complete', 'CompletionsReached', 0)
  nodes.clear()


# --- several hosts --------------------------------------------------------------------------------


def test_a_job_is_complete_when_its_chief_is(nodes):
  """A host is lost, which ends the other with 68; the next time the chief ends, and it alone."""
  nodes.kubectl('apply', '-k', 'k8s/overlays/multi-host')
  nodes.will_exit('train-0-', 68, 0)
  nodes.will_exit('train-1-', 1)
  assert nodes.verdict('train')[:2] == ('Complete', 'SuccessPolicy')
  nodes.clear()


def test_each_host_has_its_own_count(nodes):
  limit = job(built('multi-host'))['spec']['backoffLimitPerIndex']
  nodes.kubectl('apply', '-k', 'k8s/overlays/multi-host')
  nodes.will_exit('train-0-', *[68] * limit)
  nodes.will_exit('train-1-', *[1] * (limit + 1))
  assert nodes.verdict('train')[:2] == ('Failed', 'MaxFailedIndexesExceeded')
  nodes.clear()
