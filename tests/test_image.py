"""The image of `make image`, and the Jobs' pods in it: not root, read-only, on a closed network.

The network's only other host is this machine, where the bucket server is.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from benchmarks import collection
from tests import bucket as bucket_server
from tests import manifests, overlays, score_kit
from tests.manifests import Manifest
from tests.overlays import built
from tests.train_kit import ROOT

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    os.geteuid() != 0, reason='only root can install the engine and make the base image'
  ),
]

BUCKET = 'my-bucket'  # the placeholder in k8s/site
NETWORK, SUBNET, THIS_MACHINE = 'lookbook-test', '10.213.47.0/24', '10.213.47.1'
AUTHORITY = '/etc/ssl/authority.pem'
LOCKED = ('--read-only', '--tmpfs=/tmp', '--cap-drop=ALL', '--security-opt=no-new-privileges')
IMAGES = 300
POOL_PORT = 50000


def podman(*args: str, **kwargs) -> subprocess.CompletedProcess:
  return subprocess.run(['podman', *args], capture_output=True, text=True, **kwargs)


@pytest.fixture(scope='module', autouse=True)
def modest_limits(tmp_path_factory) -> Iterator[None]:
  """Podman would raise a container's limits above its own, which not every sandbox's root may."""
  settings = tmp_path_factory.mktemp('podman') / 'containers.conf'
  settings.write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('CONTAINERS_CONF', str(settings))
    yield


@pytest.fixture(scope='module')
def image() -> str:
  subprocess.run(['make', 'image'], cwd=ROOT, check=True)
  return f'localhost/{manifests.containers(overlays.job(built("cpu")))[0]["image"]}'


@pytest.fixture(scope='module')
def network(image) -> Iterator[str]:
  rule = (
    'FORWARD',
    '-s',
    SUBNET,
    '-d',
    SUBNET,
    '-j',
    'ACCEPT',
  )  # where Docker runs too, it lets no others through
  podman('network', 'rm', '--force', NETWORK)
  podman(
    'network',
    'create',
    '--internal',
    f'--subnet={SUBNET}',
    f'--gateway={THIS_MACHINE}',
    NETWORK,
    check=True,
  )
  subprocess.run(['iptables', '-I', *rule], check=True)
  yield NETWORK
  subprocess.run(['iptables', '-D', *rule], check=True)
  podman('network', 'rm', '--force', NETWORK)


@pytest.fixture(scope='module')
def pictures(tfds_dir, tmp_path_factory) -> pathlib.Path:
  """A folder of PNG files."""
  folder = tmp_path_factory.mktemp('pictures')
  collection.write(tfds_dir, 'png', IMAGES, str(folder))
  (folder / 'manifest.csv').unlink()
  return folder


@pytest.fixture(scope='module')
def bucket(small_tfds_dir, pictures, tmp_path_factory) -> Iterator[bucket_server.Bucket]:
  """A bucket with a small dataset and a collection. One request in twenty fails."""
  contents, logs = tmp_path_factory.mktemp('buckets'), tmp_path_factory.mktemp('server')
  shutil.copytree(
    pathlib.Path(small_tfds_dir) / 'fashion_mnist', contents / BUCKET / 'data/fashion_mnist'
  )
  shutil.copytree(pictures, contents / BUCKET / 'images')
  with bucket_server.serving(logs, contents, bind='0.0.0.0') as bucket:  # noqa: S104
    yield bucket


def environment(bucket: bucket_server.Bucket) -> dict[str, str]:
  """What makes gs:// the bucket server, seen from a container."""
  here = {
    name: value.replace('127.0.0.1', THIS_MACHINE) for name, value in bucket.environment().items()
  }
  return {**here, 'CURL_CA_BUNDLE': AUTHORITY}


def pod(
  overlay: str, image: str, bucket: bucket_server.Bucket, *flags: str, index: int = 0
) -> list[Manifest]:
  """Returns the ConfigMaps, and the pod with this index, that an overlay's Job would start.

  The image, its requests and the address of gs:// are changed, and `flags` added. $(NAME) is
  replaced, which the kubelet does and podman does not.
  """
  job = overlays.job(built(overlay))
  made = manifests.pod_of(job, index)
  config_maps = manifests.of_kind(built(overlay), 'ConfigMap')
  spec = made['spec']
  spec.pop('hostname')  # podman's network has the name
  (container,) = spec['containers']
  values = manifests.environment(made, container)
  for env in container['env']:
    if env['name'] in values:
      env.pop('valueFrom', None)
      env['value'] = values[env['name']]
  container['args'] = [manifests.expanded(arg, values) for arg in [*container['args'], *flags]]
  container['env'] += [
    {'name': name, 'value': value} for name, value in environment(bucket).items()
  ]
  container['image'] = image
  container['resources'] = {'limits': {'cpu': '2', 'memory': '4Gi'}}
  container.pop('ports', None)  # podman would take them on the host
  container['volumeMounts'].append({'name': 'authority', 'mountPath': AUTHORITY, 'readOnly': True})
  spec['volumes'].append(
    {'name': 'authority', 'hostPath': {'path': str(bucket.authority), 'type': 'File'}}
  )
  metadata = {'name': f'{job["metadata"]["name"]}-{index}'}
  return [*config_maps, {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': metadata, 'spec': spec}]


def start(documents: list[Manifest]) -> str:
  """Starts a pod under the name that its Service would give it, and returns the name."""
  pod = documents[-1]
  name = pod['metadata']['name']
  alias = f':alias={name}.{pod["spec"]["subdomain"]}' if 'subdomain' in pod['spec'] else ''
  podman('pod', 'rm', '--force', name)
  result = podman(
    'kube', 'play', f'--network={NETWORK}{alias}', '-', input=yaml.safe_dump_all(documents)
  )
  assert result.returncode == 0, result.stderr
  return name


def finish(name: str) -> tuple[int, str, dict]:
  """Waits until a pod's container ends; returns its exit code, output and the engine's record."""
  container = f'{name}-{name.rpartition("-")[0]}'
  try:
    code = int(podman('wait', container, check=True).stdout)
    logs = podman('logs', container)
    (facts,) = json.loads(podman('inspect', container, check=True).stdout)
    return code, logs.stdout + logs.stderr, facts
  finally:
    podman('pod', 'rm', '--force', name)


def play(documents: list[Manifest]) -> tuple[int, str, dict]:
  return finish(start(documents))


def objects(bucket: bucket_server.Bucket) -> dict[str, str]:
  """Returns the bucket's objects: name to generation, which changes with every write."""
  return {item['name']: item['generation'] for item in bucket.listing(BUCKET)}


def content(bucket: bucket_server.Bucket, name: str) -> str:
  return bucket.content(BUCKET, name, objects(bucket)[name]).decode()


# --- the image alone ------------------------------------------------------------------------------


def run(image: str, *command: str) -> subprocess.CompletedProcess:
  return podman('run', '--rm', '--network=none', *LOCKED, image, *command)


def test_is_not_root_and_cannot_write(image):
  result = run(image, 'python', '-c', 'import os; print(os.getuid()); open("/opt/venv/here", "w")')
  assert result.stdout == '10001\n'
  assert 'Read-only file system' in result.stderr


def test_bad_flags_are_exit_code_64(image):
  assert run(image, 'lookbook-train', '--workdir=/tmp/run', '--epochs=0').returncode == 64
  assert run(image, 'lookbook-score', '--top_k=11').returncode == 64


def test_lists_its_parts(image):
  parts = json.loads(run(image, 'cat', '/usr/share/lookbook/sbom.cdx.json').stdout)
  names = {part['name']: part['version'] for part in parts['components']}
  assert parts['specVersion'] == '1.5'
  assert names['tensorflow'].startswith('2.21')
  assert 'pytest' not in names


def test_says_which_commit_it_is_of(image):
  (facts,) = json.loads(podman('image', 'inspect', image, check=True).stdout)
  commit = facts['Labels']['org.opencontainers.image.revision']
  subprocess.run(['git', 'cat-file', '-e', f'{commit}^{{commit}}'], cwd=ROOT, check=True)
  assert f'LOOKBOOK_COMMIT={commit}' in facts['Config']['Env']
  assert facts['User'] == '10001:10001'


# --- the Jobs' pods -------------------------------------------------------------------------------

TINY = ('--epochs=1', '--global_batch_size=2000', '--validation_examples=500')  # two steps


@pytest.fixture(scope='module')
def trained(image, network, bucket) -> dict:
  """Returns the engine's record of the training container after two steps of 2,000 images."""
  code, output, facts = play(pod('gpu', image, bucket, *TINY))
  assert code == 0, output
  return facts


def test_the_training_pod_trains(trained, bucket):
  assert {'runs/train/metrics.json', 'runs/train/export/1/saved_model.pb'} <= objects(bucket).keys()
  assert content(bucket, 'runs/train/history.csv').splitlines()[1].split(',')[1] == '2'


def test_the_pod_is_locked_up(trained):
  assert trained['HostConfig']['ReadonlyRootfs']
  assert trained['Config']['User'].split(':')[0] == '10001'
  assert trained['EffectiveCaps'] in ([], None)
  assert list(trained['NetworkSettings']['Networks']) == [NETWORK]


def test_the_scoring_pod_scores(trained, image, bucket):
  code, output, _ = play(pod('score', image, bucket))
  assert code == 0, output
  assert 'scored/_SUCCESS' in objects(bucket)
  summary = json.loads(content(bucket, 'scored/summary.json'))
  assert (summary['images_scored'], summary['images_rejected']) == (IMAGES, 0)


def test_a_second_scoring_pod_resumes(trained, image, bucket):
  """As after a pod was lost: the Job's own --resume finds all chunks written."""
  before = predictions(bucket)
  code, output, _ = play(pod('score', image, bucket))
  assert code == 0, output
  assert predictions(bucket) == before != {}


def predictions(bucket) -> dict[str, str]:
  return {
    name: generation
    for name, generation in objects(bucket).items()
    if name.startswith('scored/predictions/')
  }


def test_two_hosts_train_together(image, network, bucket):
  flags = (*TINY, f'--workdir=gs://{BUCKET}/runs/two')
  names = [start(pod('multi-host', image, bucket, *flags, index=index)) for index in range(2)]
  for code, output, _ in [finish(name) for name in names]:
    assert code == 0, output
  assert json.loads(content(bucket, 'runs/two/metrics.json'))['replicas'] == 2


def test_a_pod_of_a_spot_machine_that_is_taken_ends_with_75(image, network, bucket):
  """As process 1 of its container, which gets no signal that it does not handle."""
  documents = pod(
    'spot', image, bucket, *TINY, '--epochs=1000', f'--workdir=gs://{BUCKET}/runs/spot'
  )
  name = start(documents)
  while not any(path.startswith('runs/spot/checkpoints/') for path in objects(bucket)):
    assert (
      podman('container', 'inspect', '--format={{.State.Running}}', f'{name}-train').stdout
      == 'true\n'
    )
    time.sleep(0.5)
  grace = documents[-1]['spec']['terminationGracePeriodSeconds']
  podman('stop', f'--time={grace}', f'{name}-train', check=True)
  code, output, _ = finish(name)
  assert code == 75, output


def test_a_bad_flag_in_a_pod_is_exit_code_64(image, network, bucket):
  code, output, _ = play(pod('gpu', image, bucket, '--seed=-1'))
  assert code == 64, output


# --- an engine's worker ---------------------------------------------------------------------------


@pytest.fixture
def pool(image, network, bucket) -> Iterator[tuple[str, str]]:
  """A Beam worker pool in the image: the container, and its HOST:PORT."""
  variables = [f'--env={name}={value}' for name, value in environment(bucket).items()]
  container = podman(
    'run', '--detach', '--init', f'--network={NETWORK}', *LOCKED, *variables,
    f'--add-host={socket.getfqdn()}:{THIS_MACHINE}',  # where Beam tells the workers that the job is
    f'--volume={bucket.authority}:{AUTHORITY}:ro',
    image, 'python', '-m', 'apache_beam.runners.worker.worker_pool_main',
    f'--service_port={POOL_PORT}',
    check=True,
  ).stdout.strip()  # fmt: skip
  (facts,) = json.loads(podman('inspect', container, check=True).stdout)
  host = facts['NetworkSettings']['Networks'][NETWORK]['IPAddress']
  while True:
    try:
      socket.create_connection((host, POOL_PORT)).close()
      break
    except ConnectionRefusedError:
      time.sleep(0.1)
  yield container, f'{host}:{POOL_PORT}'
  podman('rm', '--force', '--time=0', container)


def test_a_worker_pool_scores(trained, pool, bucket):
  """Runs the scorer here and its workers in the container, as environment_type=EXTERNAL does."""
  container, address = pool
  flags = ('--runner=PortableRunner', '--job_endpoint=embed', '--environment_type=EXTERNAL',
           f'--environment_config={address}')  # fmt: skip
  command = score_kit.command(
    f'gs://{BUCKET}/runs/train/export/1',
    f'gs://{BUCKET}/images',
    f'gs://{BUCKET}/scored-by-a-pool',
    *flags,
  )
  result = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **bucket.environment()}
  )
  assert result.returncode == 0, result.stderr
  summary = json.loads(content(bucket, 'scored-by-a-pool/summary.json'))
  assert (summary['images_scored'], summary['images_rejected']) == (IMAGES, 0)
  assert 'Starting worker with command' in podman('logs', container).stderr
