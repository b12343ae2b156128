"""Ways to break manifests, each of which changes the documents of an overlay in place."""

from tests import manifests
from tests.manifests import Manifest
from tests.overlays import job


def container(documents: list[Manifest]) -> Manifest:
  """Returns the first container of the Job."""
  return manifests.containers(job(documents))[0]


def unknown_field(documents: list[Manifest]) -> None:
  """Adds a field that Kubernetes does not know."""
  manifests.pod(job(documents))['nodeSelectors'] = {'disk': 'ssd'}


def wrong_type(documents: list[Manifest]) -> None:
  """Makes a number a string."""
  job(documents)['spec']['backoffLimit'] = '3'


def missing_volume(documents: list[Manifest]) -> None:
  """Removes a volume that is mounted."""
  volumes = manifests.pod(job(documents))['volumes']
  volumes.remove(next(volume for volume in volumes if volume['name'] == 'tmp'))


def bad_quantity(documents: list[Manifest]) -> None:
  """Uses a unit that quantities do not have."""
  container(documents)['resources']['limits']['memory'] = '8GB'


def restart_always(documents: list[Manifest]) -> None:
  """Uses a restart policy that Jobs do not have."""
  manifests.pod(job(documents))['restartPolicy'] = 'Always'


def mismatched_service(documents: list[Manifest]) -> None:
  """Renames the Service."""
  manifests.of_kind(documents, 'Service')[0]['metadata']['name'] = 'workers'


def unknown_flag(documents: list[Manifest]) -> None:
  """Adds an unknown flag."""
  container(documents)['args'].append('--epoch=3')


def unknown_flag_in_the_config_map(documents: list[Manifest]) -> None:
  """Adds an unknown flag to the flag file."""
  config_map = next(
    m for m in manifests.of_kind(documents, 'ConfigMap') if 'train.flags' in m['data']
  )
  config_map['data']['train.flags'] += '--batch=3\n'


def root_user(documents: list[Manifest]) -> None:
  """Runs as root."""
  manifests.pod(job(documents))['securityContext']['runAsUser'] = 0


def no_deadline(documents: list[Manifest]) -> None:
  """Lets the Job wait for ever."""
  del job(documents)['spec']['activeDeadlineSeconds']


def missing_limits(documents: list[Manifest]) -> None:
  """Removes the limit of memory."""
  del container(documents)['resources']['limits']['memory']


def latest(documents: list[Manifest]) -> None:
  """Uses the tag `latest`."""
  container(documents)['image'] = container(documents)['image'].rpartition(':')[0] + ':latest'


def selector_of_nothing(documents: list[Manifest]) -> None:
  """Makes the Service select no pod."""
  manifests.of_kind(documents, 'Service')[0]['spec']['selector'] = {'app': 'trainer'}


def variable_too_late(documents: list[Manifest]) -> None:
  """Sets a variable below those that need it."""
  env = container(documents)['env']
  env.append(env.pop(next(i for i, each in enumerate(env) if each['name'] == 'JOB')))


def a_worker_too_few(documents: list[Manifest]) -> None:
  """Lists fewer workers than the Job has pods."""
  job(documents)['spec']['completions'] = 3


def missing_account(documents: list[Manifest]) -> None:
  """Removes the ServiceAccount."""
  documents.remove(manifests.of_kind(documents, 'ServiceAccount')[0])


def another_image(documents: list[Manifest]) -> None:
  """Uses the image of another project."""
  container(documents)['image'] = 'docker.io/tensorflow/tensorflow:2.21.0'
