"""Nodes that run nothing: they say of their pods what a test wants said."""

import collections
import datetime
from typing import Any

from tests.kube_server import Server
from tests.manifests import Manifest

ROOM = {'cpu': '64', 'memory': '256Gi', 'ephemeral-storage': '100Gi', 'pods': '110'}
MERGE = 'application/strategic-merge-patch+json'
STARTED = {'restartCount': 0, 'imageID': ''}
# What the taints and selectors of a real GPU node on GKE are, spot machines included.
LABELS = {'cloud.google.com/gke-accelerator': 'nvidia-l4', 'cloud.google.com/gke-spot': 'true'}
TAINTS = [
  {'key': 'nvidia.com/gpu', 'value': 'present', 'effect': 'NoSchedule'},
  {'key': 'cloud.google.com/gke-spot', 'value': 'true', 'effect': 'NoSchedule'},
]


class Nodes:
  """One node with eight GPUs, and one with none. `step` does what a kubelet does all the time."""

  def __init__(self, server: Server):
    self._server = server
    self._exits: dict[str, list[int]] = collections.defaultdict(list)
    # When containers say that they ended. Kubernetes counts its waits from there: an hour ago, so
    # that no test has to sit one out.
    self.ended_ago = datetime.timedelta(hours=1)
    self._add('gpus', {**ROOM, 'nvidia.com/gpu': '8'}, labels=LABELS, taints=TAINTS)
    self._add('plain', ROOM)

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
      ip = f'10.244.0.{pod["metadata"]["uid"].__hash__() % 250 + 2}'
      status |= {'podIP': ip, 'podIPs': [{'ip': ip}], 'startTime': _ago()}
    self._server.request('PATCH', f'{_path(pod)}/status', {'status': status}, MERGE)

  def _add(self, name: str, room: dict[str, str], labels=None, taints=None) -> None:
    node = {'metadata': {'name': name, 'labels': labels or {}}, 'spec': {'taints': taints or []}}
    self._server.request('POST', '/api/v1/nodes', node)
    ready = {'type': 'Ready', 'status': 'True', 'lastTransitionTime': _ago()}
    status = {'capacity': room, 'allocatable': room, 'conditions': [ready]}
    self._server.request('PATCH', f'/api/v1/nodes/{name}/status', {'status': status}, MERGE)


def _path(pod: Manifest) -> str:
  metadata = pod['metadata']
  return f'/api/v1/namespaces/{metadata["namespace"]}/pods/{metadata["name"]}'


def _ago(delta: datetime.timedelta = datetime.timedelta()) -> str:
  """Returns the time that it was this long ago, as Kubernetes writes it."""
  return (datetime.datetime.now(datetime.UTC) - delta).strftime('%Y-%m-%dT%H:%M:%SZ')
