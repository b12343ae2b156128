"""Finds mistakes in Kubernetes manifests; a finding names the object, the place and the value."""

import functools
import importlib.resources
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import kubernetes_validate
import referencing
import yaml

Manifest = dict[str, Any]

OLDEST = '1.31.0'  # where podFailurePolicy became stable
SCHEMAS = importlib.resources.files(kubernetes_validate) / 'kubernetes-json-schema'

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
QUANTITY = re.compile(
  r'[+-]?(?P<number>\d+\.?\d*|\.\d+)(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?'
)
BINARY = {f'{letter}i': 1024**power for power, letter in enumerate('KMGTPE', 1)}
DECIMAL = {
  'n': 1e-9,
  'u': 1e-6,
  'm': 1e-3,
  'k': 1e3,
  'M': 1e6,
  'G': 1e9,
  'T': 1e12,
  'P': 1e15,
  'E': 1e18,
}
VARIABLE = re.compile(r'\$\((\w+)\)')
METADATA = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
BATCH = 'batch.kubernetes.io'
SAFE_TO_EVICT = 'cluster-autoscaler.kubernetes.io/safe-to-evict'
SAFE_VOLUMES = {'configMap', 'csi', 'downwardAPI', 'emptyDir', 'ephemeral',
                'persistentVolumeClaim', 'projected',
                'secret'}  # fmt: skip
SIGTERM_SECONDS = 10  # what the trainer may take to end a step and write a checkpoint


def findings(
  manifests: Sequence[Manifest], *, image: str, flags: Mapping[str, set[str]]
) -> list[str]:
  """Everything that is wrong with what `kubectl apply` would be given.

  Args:
    manifests: the documents.
    image: the repository that every container's image must come from.
    flags: for each command, the flags that its --help lists, as `--name`.
  """
  return list(_findings(manifests, image, flags))


def _findings(
  manifests: Sequence[Manifest], image: str, flags: Mapping[str, set[str]]
) -> Iterator[str]:
  for manifest in manifests:
    yield from schema(manifest)
    yield from quantities(manifest)
  for service in of_kind(manifests, 'Service'):
    yield from selects(service, service['spec']['selector'], manifests)
  for policy in of_kind(manifests, 'NetworkPolicy'):
    yield from selects(policy, policy['spec']['podSelector'].get('matchLabels', {}), manifests)
  for job in of_kind(manifests, 'Job'):
    yield from job_rules(job)
    yield from workers(job)
    yield from references(job, manifests)
    yield from restricted(job)
    yield from hardened(job)
    for container in containers(job):
      yield from resources(job, container)
      yield from image_name(job, container, image)
      yield from arguments(job, container, manifests, flags)


def build(folder: str, kubectl: str) -> list[Manifest]:
  """The documents that `kubectl apply -k folder` applies."""
  return list(yaml.safe_load_all(_kustomized(folder, kubectl)))


@functools.cache
def _kustomized(folder: str, kubectl: str) -> str:
  return subprocess.run(
    [kubectl, 'kustomize', folder], capture_output=True, text=True, check=True
  ).stdout


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
  return [manifest for manifest in manifests if manifest['kind'] == kind]


def pod(job: Manifest) -> Manifest:
  return job['spec']['template']['spec']


def containers(job: Manifest) -> list[Manifest]:
  return [*pod(job).get('initContainers', []), *pod(job)['containers']]


def name(manifest: Manifest) -> str:
  return f'{manifest["kind"]}/{manifest["metadata"]["name"]}'


# --- one document alone ---------------------------------------------------------------------------


def schema(manifest: Manifest) -> Iterator[str]:
  """Yields violations of Kubernetes' schemas, the oldest supported and the newest, strictly."""
  for version in (OLDEST, kubernetes_validate.latest_version()):
    for error in _validator(version, manifest['kind'], manifest['apiVersion']).iter_errors(
      manifest
    ):
      place = '.'.join(map(str, error.absolute_path))
      yield f'{name(manifest)}: {place}: {error.message} (Kubernetes {version})'


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
  folder = SCHEMAS / f'v{version}-local-strict'
  group = re.sub(
    r'^([^./]*)(\.[^/]*)?/', r'\1-', api_version
  )  # networking.k8s.io/v1 is networking-v1 there
  document, definitions = (
    json.loads((folder / file).read_text())
    for file in (f'{kind.lower()}-{group}.json', '_definitions.json')
  )
  registry = referencing.Registry().with_resources(
    (resource.id() or '', resource)
    for resource in (
      referencing.Resource.from_contents(content) for content in (document, definitions)
    )
  )
  return jsonschema.Draft202012Validator(document, registry=registry)


def quantities(manifest: Manifest) -> Iterator[str]:
  for place, value in _leaves(manifest.get('spec', {})):
    holds_quantity = place[-1] == 'sizeLimit' or (
      len(place) > 1 and place[-2] in ('requests', 'limits')
    )
    if holds_quantity and amount(value) is None:
      yield f'{name(manifest)}: {".".join(map(str, place))}: {value!r} is not a quantity'


def amount(quantity: Any) -> float | None:
  """A quantity's value, None where it is none."""
  match = QUANTITY.fullmatch(str(quantity))
  if not match:
    return None
  suffix = match['suffix'] or ''
  factor = {**BINARY, **DECIMAL, '': 1}.get(suffix) or float(f'1{suffix}')
  return float(match['number']) * factor


def _leaves(value: Any, place: tuple = ()) -> Iterator[tuple[tuple, Any]]:
  if isinstance(value, dict | list):
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
      yield from _leaves(child, (*place, key))
  else:
    yield place, value


def job_rules(job: Manifest) -> Iterator[str]:
  """What the API server checks of a Job beyond its schema."""
  policy = pod(job).get('restartPolicy')
  rules = job['spec'].get('podFailurePolicy', {}).get('rules', [])
  if policy not in ('Never', 'OnFailure'):
    yield f'{name(job)}: restartPolicy is {policy!r}; a Job takes Never or OnFailure'
  if rules and policy != 'Never':
    yield f'{name(job)}: restartPolicy is {policy!r}; podFailurePolicy takes Never'
  for rule in rules:
    container = rule.get('onExitCodes', {}).get('containerName')
    if container and container not in {c['name'] for c in containers(job)}:
      yield f'{name(job)}: podFailurePolicy names the container {container!r}, which is not there'


def workers(job: Manifest) -> Iterator[str]:
  """TF_CONFIG names the pods of its own Indexed Job, in the order of their indices."""
  spec = job['spec']
  for container in containers(job):
    text = environment(pod_of(job, 0), container).get('TF_CONFIG')
    if text is None:
      continue
    if unset := sorted(set(VARIABLE.findall(text))):
      yield f'{name(job)}: TF_CONFIG needs {", ".join(unset)}, which is not set above it'
      continue
    found = json.loads(text)['cluster']['worker']
    port = container['ports'][0]['containerPort']
    expected = [f'{address(pod_of(job, i))}:{port}' for i in range(spec.get('completions', 0))]
    if found != expected:
      yield f'{name(job)}: TF_CONFIG lists {found}; the pods are {expected}'
    if (spec.get('completionMode'), spec.get('parallelism')) != ('Indexed', len(found)):
      yield f'{name(job)}: TF_CONFIG lists {len(found)} workers; as many must run at once, indexed'


def pod_of(job: Manifest, index: int) -> Manifest:
  """Returns the pod that Kubernetes makes of an Indexed Job for this index."""
  job_name, template = job['metadata']['name'], job['spec']['template']
  labels = {**template['metadata'].get('labels', {}), f'{BATCH}/job-name': job_name}
  annotations = {
    **template['metadata'].get('annotations', {}),
    f'{BATCH}/job-completion-index': str(index),
  }
  return {
    'metadata': {'labels': labels, 'annotations': annotations},
    'spec': {**template['spec'], 'hostname': f'{job_name}-{index}'},
  }


def address(pod: Manifest) -> str:
  """Returns the name that a pod's Service gives it."""
  return f'{pod["spec"]["hostname"]}.{pod["spec"].get("subdomain")}'


def environment(pod: Manifest, container: Manifest) -> dict[str, str]:
  """Returns what the kubelet makes of the variables that do not depend on the machine."""
  values: dict[str, str] = {}
  for env in container.get('env', []):
    if 'value' in env:
      values[env['name']] = expanded(env['value'], values)
    elif field := env.get('valueFrom', {}).get('fieldRef'):
      part, key = METADATA.fullmatch(field['fieldPath']).groups()  # type: ignore[union-attr]
      values[env['name']] = pod['metadata'][part][key]
  return values


def expanded(text: str, values: Mapping[str, str]) -> str:
  """What the kubelet makes of a text with $(NAME) in it."""
  return VARIABLE.sub(lambda match: values.get(match[1], match[0]), text)


# --- one document against the others --------------------------------------------------------------


def references(job: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
  """Yields volumes, ConfigMaps, claims, accounts and Services that pods name but lack."""
  spec = pod(job)
  there = {kind: {m['metadata']['name'] for m in of_kind(manifests, kind)} for kind in REFERRED}
  volumes = {volume['name']: volume for volume in spec.get('volumes', [])}
  mounts = [mount for container in containers(job) for mount in container.get('volumeMounts', [])]
  for mount in mounts:
    if mount['name'] not in volumes:
      yield (
        f'{name(job)}: {mount["mountPath"]} mounts the volume {mount["name"]!r}, which is not there'
      )
  for unused in volumes.keys() - {mount['name'] for mount in mounts}:
    yield f'{name(job)}: nothing mounts the volume {unused!r}'
  for kind, referred in _referred(job):
    if referred not in there[kind]:
      yield f'{name(job)}: needs {kind}/{referred}, which is not there'
  for service in of_kind(manifests, 'Service'):
    if (
      service['metadata']['name'] == spec.get('subdomain')
      and service['spec'].get('clusterIP') != 'None'
    ):
      yield f'{name(service)}: gives names to pods only with clusterIP: None'


REFERRED = ('ConfigMap', 'PersistentVolumeClaim', 'Service', 'ServiceAccount', 'Namespace')


def _referred(job: Manifest) -> Iterator[tuple[str, str]]:
  spec = pod(job)
  yield 'Namespace', job['metadata'].get('namespace', 'default')
  yield 'ServiceAccount', spec.get('serviceAccountName', 'default')
  if 'subdomain' in spec:
    yield 'Service', spec['subdomain']
  for volume in spec.get('volumes', []):
    if 'configMap' in volume:
      yield 'ConfigMap', volume['configMap']['name']
    if 'persistentVolumeClaim' in volume:
      yield 'PersistentVolumeClaim', volume['persistentVolumeClaim']['claimName']


def config_map(manifests: Sequence[Manifest], wanted: str) -> Manifest:
  return next((m for m in of_kind(manifests, 'ConfigMap') if m['metadata']['name'] == wanted), {})


def selects(
  owner: Manifest, selector: Mapping[str, str], manifests: Sequence[Manifest]
) -> Iterator[str]:
  """A selector finds at least one Job's pods."""
  labels = [pod_of(job, 0)['metadata']['labels'] for job in of_kind(manifests, 'Job')]
  if not any(selector.items() <= label.items() for label in labels):
    yield f'{name(owner)}: selects {dict(selector)}, and no pod has these labels'


# --- pods and containers --------------------------------------------------------------------------


def restricted(job: Manifest) -> Iterator[str]:
  """The restricted profile, with the baseline that it contains.

  https://kubernetes.io/docs/concepts/security/pod-security-standards/
  """
  spec = pod(job)
  for shared in ('hostNetwork', 'hostPID', 'hostIPC'):
    if spec.get(shared):
      yield f'{name(job)}: {shared} is true'
  for volume in spec.get('volumes', []):
    for kind in volume.keys() - {'name'} - SAFE_VOLUMES:
      yield f'{name(job)}: the volume {volume["name"]!r} is a {kind}'
  if spec.get('securityContext', {}).get('sysctls'):
    yield f'{name(job)}: sets sysctls'
  for container in containers(job):
    for complaint in _container_restricted(spec.get('securityContext', {}), container):
      yield f'{name(job)}: container {container["name"]!r}: {complaint}'


def _container_restricted(of_pod: Manifest, container: Manifest) -> Iterator[str]:
  own = container.get('securityContext', {})
  both = {**of_pod, **own}  # the container's settings win
  capabilities = own.get('capabilities', {})
  if both.get('runAsNonRoot') is not True:
    yield f'runAsNonRoot is {both.get("runAsNonRoot")}, not true'
  if both.get('runAsUser') == 0:
    yield 'runAsUser is 0, which is root'
  if both.get('seccompProfile', {}).get('type') not in ('RuntimeDefault', 'Localhost'):
    yield 'seccompProfile is neither RuntimeDefault nor Localhost'
  if own.get('allowPrivilegeEscalation') is not False:
    yield 'allowPrivilegeEscalation is not false'
  if 'ALL' not in capabilities.get('drop', []):
    yield 'capabilities are not dropped: drop has to name ALL'
  if set(capabilities.get('add', [])) - {'NET_BIND_SERVICE'}:
    yield f'adds capabilities {capabilities["add"]}'
  if own.get('privileged'):
    yield 'is privileged'
  if own.get('procMount', 'Default') != 'Default':
    yield f'procMount is {own["procMount"]}'
  for unsafe in ('seLinuxOptions', 'appArmorProfile', 'windowsOptions'):
    if unsafe in both:
      yield f'sets {unsafe}'
  if any('hostPort' in port for port in container.get('ports', [])):
    yield 'takes a port of the host'


def hardened(job: Manifest) -> Iterator[str]:
  """What this project asks for beyond the restricted profile."""
  spec = pod(job)
  for limit in ('activeDeadlineSeconds', 'ttlSecondsAfterFinished'):
    if limit not in job['spec']:
      yield f'{name(job)}: no {limit}'
  if SAFE_TO_EVICT not in job['spec']['template']['metadata'].get('annotations', {}):
    yield f'{name(job)}: its pods do not say {SAFE_TO_EVICT}'
  if spec.get('automountServiceAccountToken') is not False:
    yield f'{name(job)}: automountServiceAccountToken is not false'
  if spec.get('terminationGracePeriodSeconds', 30) <= SIGTERM_SECONDS:
    yield f'{name(job)}: terminationGracePeriodSeconds is no more than {SIGTERM_SECONDS}'
  for container in containers(job):
    mounts = {mount['mountPath'] for mount in container.get('volumeMounts', [])}
    read_only = container.get('securityContext', {}).get('readOnlyRootFilesystem')
    if read_only is not True or '/tmp' not in mounts:  # noqa: S108
      yield (
        f'{name(job)}: container {container["name"]!r}: wants a read-only root file system and a '
        'volume at /tmp'
      )
  for volume in spec.get('volumes', []):
    if 'sizeLimit' not in volume.get('emptyDir', {'sizeLimit': None}):
      yield f'{name(job)}: the volume {volume["name"]!r} has no sizeLimit'


def resources(job: Manifest, container: Manifest) -> Iterator[str]:
  """Requests and limits on everything, no request above its limit."""
  requests, limits = (
    container.get('resources', {}).get(part, {}) for part in ('requests', 'limits')
  )
  where = f'{name(job)}: container {container["name"]!r}'
  for resource in ('cpu', 'memory', 'ephemeral-storage'):
    for part, given in (('requests', requests), ('limits', limits)):
      if resource not in given:
        yield f'{where}: no {part}.{resource}'
  for resource in requests.keys() & limits.keys():
    asked, most = amount(requests[resource]), amount(limits[resource])
    if asked is not None and most is not None and asked > most:
      yield (
        f'{where}: requests.{resource} {requests[resource]} is more than its limit '
        f'{limits[resource]}'
      )
  for device in {resource for resource in (*requests, *limits) if '/' in resource}:
    if requests.get(device) != limits.get(device):
      yield f'{where}: requests and limits of {device} differ'


def image_name(job: Manifest, container: Manifest, repository: str) -> Iterator[str]:
  image = container['image']
  found, _, version = image.partition('@') if '@' in image else image.rpartition(':')
  if found != repository:
    yield f'{name(job)}: container {container["name"]!r}: image {image} is not one of {repository}'
  if not version or version == 'latest':
    yield f'{name(job)}: container {container["name"]!r}: image {image} does not say which version'


def arguments(
  job: Manifest, container: Manifest, manifests: Sequence[Manifest], flags: Mapping[str, set[str]]
) -> Iterator[str]:
  """Every argument, given directly or through a --flagfile, is a flag that the command knows."""
  where = f'{name(job)}: container {container["name"]!r}'
  command = container.get('command', [''])[0]
  if command not in flags:
    yield f'{where}: command {command!r} is not one of {", ".join(flags)}'
    return
  for given in _given(job, container, manifests):
    flag = given.partition('=')[0]
    if flag not in flags[command]:
      yield f'{where}: {flag} is not a flag of {command}'
    for variable in VARIABLE.findall(given):
      if variable not in {env['name'] for env in container.get('env', [])}:
        yield f'{where}: {given} needs the variable {variable}, which is not set'


def _given(job: Manifest, container: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
  for arg in container.get('args', []):
    if arg.startswith('--flagfile='):
      yield from _flagfile(arg.removeprefix('--flagfile='), job, container, manifests)
    else:
      yield arg


def _flagfile(
  path: str, job: Manifest, container: Manifest, manifests: Sequence[Manifest]
) -> list[str]:
  """The flags in a file that a ConfigMap's volume holds; the path itself where no volume has it."""
  folder, _, key = path.rpartition('/')
  mounted = {mount['mountPath']: mount['name'] for mount in container.get('volumeMounts', [])}
  maps = {
    v['name']: v['configMap']['name'] for v in pod(job).get('volumes', []) if 'configMap' in v
  }
  text = config_map(manifests, maps.get(mounted.get(folder, ''), '')).get('data', {}).get(key, path)
  return [line for line in text.splitlines() if line and not line.startswith('#')]
