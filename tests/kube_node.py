"""Nodes that run nothing: they say of their pods what a test wants said."""

import collections
import datetime
import itertools
from typing import Any

from tests.kube_server import Server
from tests.manifests import Manifest

ROOM = {'cpu': '64', 'memory': '256Gi', 'ephemeral-storage': '100Gi', 'pods': '110'}
MERGE = 'application/strategic-merge-patch+json'
STARTED = {'restartCount': 0, 'imageID': ''}
GPUS = {**ROOM, 'nvidia.com/gpu': '8'}
ACCELERATOR, SPOT = 'cloud.google.com/gke-accelerator', 'cloud.google.com/gke-spot'
# By name: what a node has, its labels, and its taints, which are those of GKE's nodes.
NODES = {
  'plain': (ROOM, {}, []),
  'gpus': (GPUS, {ACCELERATOR: 'nvidia-l4'}, ['nvidia.com/gpu']),
  'spot': (GPUS, {ACCELERATOR: 'nvidia-l4', SPOT: 'true'}, ['nvidia.com/gpu', SPOT]),
}


class Nodes:
  """The nodes. `step` does once what their kubelets do all the time."""

  def __init__(self, server: Server):
    self._server = server
    self._exits: dict[str, list[int]] = collections.defaultdict(list)
    self._addresses = itertools.count(2)
    # When containers say that they ended. Kubernetes counts its waits from there: an hour ago, so
    # that no test has to sit one out.
    self.ended_ago = datetime.timedelta(hours=1)
    for name, (room, labels, taints) in NODES.items():
      self._add(name, room, labels, taints)

  def will_exit(self, pod_prefix: str, *codes: int) -> None:
    """Lets the next pods whose names begin so end with these codes, one each."""
    self._exits[pod_prefix] += codes

  def step(self) -> list[Manifest]:
    """Starts the pods that are scheduled, ends those that are to end; returns all that are left."""
    for pod in self.pods():
      phase = pod['status'].get('phase')
      if 'deletionTimestamp' in pod['metadata']:
        self._delete(pod)
      elif phase == 'Pending' and 'nodeName' in pod['spec']:
        self._say(pod, 'Running', {'running': {'startedAt': _ago()}})
      elif phase == 'Running' and (codes := self._codes(pod)):
        self.exit(pod, codes.pop(0))
    return self.pods()

  def pods(self) -> list[Manifest]:
    """Returns all pods of Jobs, the oldest first."""
    pods = self._server.request('GET', '/api/v1/namespaces/lookbook/pods')['items']
    return sorted(pods, key=lambda pod: pod['metadata']['creationTimestamp'])

  def exit(self, pod: Manifest, code: int) -> None:
    """Says that the pod's container has ended."""
    at = _ago(self.ended_ago)
    ended = {'exitCode': code, 'startedAt': at, 'finishedAt': at}
    self._say(pod, 'Failed' if code else 'Succeeded', {'terminated': ended})

  def _codes(self, pod: Manifest) -> list[int]:
    name = pod['metadata']['name']
    return next((codes for prefix, codes in self._exits.items() if name.startswith(prefix)), [])

  def _delete(self, pod: Manifest) -> None:
    """Ends a pod that is told to stop, as the trainer does: with 75."""
    if pod['status'].get('phase') == 'Running':
      self.exit(pod, 75)
    options = {'gracePeriodSeconds': 0, 'preconditions': {'uid': pod['metadata']['uid']}}
    self._server.request('DELETE', _path(pod), options)

  def _say(self, pod: Manifest, phase: str, state: dict[str, Any]) -> None:
    running = phase == 'Running'
    containers = [
      {**STARTED, 'name': c['name'], 'image': c['image'], 'ready': running, 'state': state}
      for c in pod['spec']['containers']
    ]
    ready = {'type': 'Ready', 'status': str(running), 'lastTransitionTime': _ago()}
    status = {'phase': phase, 'containerStatuses': containers, 'conditions': [ready]}
    if running:
      ip = f'10.244.0.{next(self._addresses)}'
      status |= {'podIP': ip, 'podIPs': [{'ip': ip}], 'startTime': _ago()}
    self._server.request('PATCH', f'{_path(pod)}/status', {'status': status}, MERGE)

  def _add(self, name: str, room: dict[str, str], labels: dict, taints: list[str]) -> None:
    node = {'metadata': {'name': name, 'labels': labels}}
    self._server.request('POST', '/api/v1/nodes', node)
    ready = {'type': 'Ready', 'status': 'True', 'lastTransitionTime': _ago()}
    status = {'capacity': room, 'allocatable': room, 'conditions': [ready]}
    path = f'/api/v1/nodes/{name}'
    self._server.request('PATCH', f'{path}/status', {'status': status}, MERGE)
    # Replaces them all, and with them the taint of a node that is not ready.
    spec = {'taints': [{'key': key, 'value': 'true', 'effect': 'NoSchedule'} for key in taints]}
    self._server.request('PATCH', path, {'spec': spec}, 'application/merge-patch+json')


def _path(pod: Manifest) -> str:
  metadata = pod['metadata']
  return f'/api/v1/namespaces/{metadata["namespace"]}/pods/{metadata["name"]}'


def _ago(delta: datetime.timedelta = datetime.timedelta()) -> str:
  """Returns the time that it was this long ago, as Kubernetes writes it."""
  return (datetime.datetime.now(datetime.UTC) - delta).strftime('%Y-%m-%dT%H:%M:%SZ')
