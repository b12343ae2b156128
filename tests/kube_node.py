"""Nodes that run nothing: they say of their pods what a test wants said."""

import collections
import contextlib
import datetime
import itertools
import pathlib
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from typing import Any

from tests import kube_server
from tests.kube_server import PAUSE_SECONDS, PROBES, Server
from tests.manifests import Manifest
from tests.train_kit import ROOT

PODS = '/api/v1/namespaces/lookbook/pods'
JOBS = '/apis/batch/v1/namespaces/lookbook/jobs'
ENDS = ('Complete', 'Failed')
MERGE = 'application/strategic-merge-patch+json'
GONE = (404, 409)  # what a call is answered whose pod is no longer there, or another's
KILLED = 137  # what a container ends with that is killed; a pod that is deleted says it here
# The kubelet's word for a pod that it ends because the node has too little of something.
PRESSURE = {'type': 'DisruptionTarget', 'status': 'True', 'reason': 'TerminationByKubelet'}

ROOM = {'cpu': '500', 'memory': '2Ti', 'ephemeral-storage': '2Ti', 'pods': '110'}
GPUS = {**ROOM, 'nvidia.com/gpu': '64'}
ACCELERATOR, SPOT = 'cloud.google.com/gke-accelerator', 'cloud.google.com/gke-spot'
# By name: what a node has, its labels, and its taints, which are those of GKE's nodes.
NODES = {
  'plain': (ROOM, {}, []),
  'gpus': (GPUS, {ACCELERATOR: 'nvidia-l4'}, ['nvidia.com/gpu']),
  'spot': (GPUS, {ACCELERATOR: 'nvidia-l4', SPOT: 'true'}, ['nvidia.com/gpu', SPOT]),
}
DISK = {  # for the one claim
  'apiVersion': 'v1',
  'kind': 'PersistentVolume',
  'metadata': {'name': 'disk'},
  'spec': {
    'accessModes': ['ReadWriteOnce'],
    'capacity': {'storage': '2Gi'},
    'hostPath': {'path': '/runs'},
  },
}


class Nodes:
  """The nodes of a server. `step` does once what their kubelets do all the time."""

  def __init__(self, server: Server):
    self.server = server
    self._exits: dict[str, list[int]] = collections.defaultdict(list)
    self._addresses = itertools.count(2)
    # When containers say that they ended. Kubernetes counts its waits from there: an hour ago, so
    # that no test has to sit one out.
    self.ended_ago = datetime.timedelta(hours=1)
    for name, (room, labels, taints) in NODES.items():
      self._add(name, room, labels, taints)

  def will_exit(self, prefix: str, *codes: int) -> None:
    """Lets the next pods whose names begin with `prefix` end with these codes, one each."""
    self._exits[prefix] += codes

  def until(self, condition: Callable[[], Any]) -> Any:
    """Returns what `condition` returns once that is true; until then the nodes go on."""
    for _ in range(PROBES):
      self.step()
      if result := condition():
        return result
      time.sleep(PAUSE_SECONDS)
    events = self.server.kubectl('-n', 'lookbook', 'get', 'events').stdout
    raise AssertionError(f'never true; the events:\n{events}')

  def kubectl(self, *args: str) -> list[str]:
    """Returns what kubectl printed; while it waits for pods, the nodes go on."""
    pipe = subprocess.PIPE
    command = self.server.command(*args)
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
      while process.poll() is None:
        self.step()
        time.sleep(PAUSE_SECONDS)
      output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return output.splitlines()

  def step(self) -> None:
    """Starts the pods that are scheduled, and ends those that are to end."""
    for pod in self.pods():
      try:
        self._step(pod)
      except urllib.error.HTTPError as error:
        if error.code not in GONE:
          raise

  def _step(self, pod: Manifest) -> None:
    phase = pod['status'].get('phase')
    if 'deletionTimestamp' in pod['metadata']:
      self._delete(pod)
    elif phase == 'Pending' and 'nodeName' in pod['spec']:
      self._say(pod, 'Running', {'running': {'startedAt': _ago()}})
    elif phase == 'Running' and (codes := self._codes(pod)):
      self.exit(pod, codes.pop(0))

  def pods(self, job: str = '') -> list[Manifest]:
    """Returns all pods, or those of one Job."""
    query = f'?labelSelector=batch.kubernetes.io/job-name={job}' if job else ''
    return self.server.request('GET', PODS + query)['items']

  def running(self, job: str, count: int = 1) -> list[Manifest]:
    """Returns the running pods of a Job once there are so many, in the order of their names."""

    def found() -> list[Manifest]:
      pods = [pod for pod in self.pods(job) if pod['status'].get('phase') == 'Running']
      return pods if len(pods) == count else []

    return sorted(self.until(found), key=lambda pod: pod['metadata']['name'])

  def verdict(self, job: str) -> tuple[str, str, int]:
    """Returns how a Job ended, once it has: its condition, the reason, and the pods that count."""

    def found() -> tuple[str, str, int] | None:
      status = self.server.request('GET', f'{JOBS}/{job}')['status']
      ends = [each for each in status.get('conditions', []) if each['type'] in ENDS]
      return ends and (ends[0]['type'], ends[0].get('reason', ''), status.get('failed', 0))

    return self.until(found)

  def clear(self) -> None:
    """Deletes all Jobs with their pods, and forgets how pods were to end."""
    self._exits.clear()
    self.server.request('DELETE', f'{JOBS}?propagationPolicy=Background')
    self.until(lambda: not self.pods())

  def exit(self, pod: Manifest, code: int, *conditions: Manifest) -> None:
    """Says that the pod's container has ended."""
    at = _ago(self.ended_ago)
    ended = {'exitCode': code, 'startedAt': at, 'finishedAt': at}
    self._say(pod, 'Failed' if code else 'Succeeded', {'terminated': ended}, *conditions)

  def _codes(self, pod: Manifest) -> list[int]:
    name = pod['metadata']['name']
    exits = self._exits.items()
    return next((codes for prefix, codes in exits if codes and name.startswith(prefix)), [])

  def _delete(self, pod: Manifest) -> None:
    if pod['status'].get('phase') == 'Running':
      self.exit(pod, KILLED)
    options = {'gracePeriodSeconds': 0, 'preconditions': {'uid': pod['metadata']['uid']}}
    self.server.request('DELETE', path(pod), options)

  def _say(self, pod: Manifest, phase: str, state: Manifest, *conditions: Manifest) -> None:
    running = phase == 'Running'
    always = {'imageID': '', 'restartCount': 0, 'ready': running, 'state': state}
    containers = [
      {'name': each['name'], 'image': each['image'], **always} for each in pod['spec']['containers']
    ]
    ready = {'type': 'Ready', 'status': str(running), 'lastTransitionTime': _ago()}
    status: Manifest = {'phase': phase, 'conditions': [ready, *conditions]}
    status['containerStatuses'] = containers
    if running:
      ip = f'10.244.0.{next(self._addresses)}'
      status |= {'podIP': ip, 'podIPs': [{'ip': ip}], 'startTime': _ago()}
    self.server.request('PATCH', f'{path(pod)}/status', {'status': status}, MERGE)

  def _add(self, name: str, room: dict[str, str], labels: dict, taints: list[str]) -> None:
    node = {'metadata': {'name': name, 'labels': labels}}
    self.server.request('POST', '/api/v1/nodes', node)
    ready = {'type': 'Ready', 'status': 'True', 'lastTransitionTime': _ago()}
    status = {'capacity': room, 'allocatable': room, 'conditions': [ready]}
    self.server.request('PATCH', f'/api/v1/nodes/{name}/status', {'status': status}, MERGE)
    # Replaces them all, and with them the taint of a node that is not ready.
    spec = {'taints': [{'key': key, 'value': 'true', 'effect': 'NoSchedule'} for key in taints]}
    merge = 'application/merge-patch+json'
    self.server.request('PATCH', f'/api/v1/nodes/{name}', {'spec': spec}, merge)


def path(pod: Manifest) -> str:
  """Returns where the API has a pod."""
  return f'{PODS}/{pod["metadata"]["name"]}'


def _ago(delta: datetime.timedelta = datetime.timedelta()) -> str:
  """Returns the time that it was this long ago, as Kubernetes writes it."""
  return (datetime.datetime.now(datetime.UTC) - delta).strftime('%Y-%m-%dT%H:%M:%SZ')


@contextlib.contextmanager
def running(folder: pathlib.Path, *flags: str) -> Iterator[Nodes]:
  """Yields the nodes of a server that has what is applied once."""
  with kube_server.running(folder, *flags) as server:
    nodes = Nodes(server)
    server.request('POST', '/api/v1/persistentvolumes', DISK)
    nodes.kubectl('apply', '-k', 'k8s/laptop')
    yield nodes
