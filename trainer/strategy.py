"""Which devices train, and in which precision."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from absl import app

ALL_REDUCE = {
  'auto': None,  # NCCL where it is, else reduction to one device
  'nccl': tf.distribute.NcclAllReduce,
  'hierarchical': tf.distribute.HierarchicalCopyAllReduce,
  'reduction_to_one': tf.distribute.ReductionToOneDevice,
}
BFLOAT16_CPU_FLAGS = {'avx512_bf16', 'amx_bf16'}


COLLECTIVE_TIMEOUT_SECONDS = 40.0  # a host that was cut off is given up after this long


def create(replicas: int, all_reduce: str = 'auto') -> tf.distribute.Strategy:
  """A MirroredStrategy over this host's GPUs, or over its CPU; over all hosts' where TF_CONFIG names several.

  Call it before anything else touches a device.

  Args:
    replicas: how many devices train; 0 means every GPU, or the CPU as one device. Without a GPU, two or more split the
      CPU into that many logical devices, at most one a core. Several hosts use all they have.
    all_reduce: how one host's GPUs add up their gradients; see ALL_REDUCE.

  Raises:
    app.UsageError: there are fewer devices than replicas.
  """
  if os.environ.get('TF_CONFIG'):
    return _several_hosts(replicas)
  gpus = tf.config.list_physical_devices('GPU')
  available = len(gpus) or os.cpu_count() or 1
  if replicas > available:
    kind = 'GPUs' if gpus else 'CPU cores and no GPU'
    raise app.UsageError(
      f'--replicas={replicas}: this host has {available} {kind}; pass --replicas={available} or fewer'
    )
  if not gpus:
    return _mirror_cpu(replicas or 1)
  for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
  reduce = ALL_REDUCE[all_reduce]
  return tf.distribute.MirroredStrategy([f'/gpu:{i}' for i in range(replicas or len(gpus))], reduce and reduce())


def _several_hosts(replicas: int) -> tf.distribute.Strategy:
  """Raises app.UsageError for a number of replicas: each host uses all its GPUs, or its CPU."""
  if replicas:
    raise app.UsageError(f'--replicas={replicas}: with TF_CONFIG every host uses all it has; leave it out')
  options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=COLLECTIVE_TIMEOUT_SECONDS)
  return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def several_hosts(devices: tf.distribute.Strategy) -> bool:
  return isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(devices: tf.distribute.Strategy) -> bool:
  """Whether this process is the one that writes: the only one, or worker 0."""
  if not several_hosts(devices):
    return True
  cluster = devices.cluster_resolver
  return (cluster.task_type, cluster.task_id) in {('chief', 0), ('worker', 0)}


@contextlib.contextmanager
def output(devices: tf.distribute.Strategy, directory: str) -> Iterator[str]:
  """Where this process writes: `directory` on the chief, a folder that is thrown away on every other worker.

  All of them do the same work, so that none ends while another still waits for it.
  """
  if is_chief(devices):
    yield directory
    return
  with tempfile.TemporaryDirectory() as scratch:
    yield scratch


def _mirror_cpu(replicas: int) -> tf.distribute.Strategy:
  if replicas > 1:
    (cpu,) = tf.config.list_physical_devices('CPU')
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
  return tf.distribute.MirroredStrategy([f'/cpu:{i}' for i in range(replicas)])


def dtype_policy(precision: str) -> str:
  """The Keras dtype policy for `--precision`: `auto` is the fastest here that costs no accuracy.

  That is bfloat16 arithmetic where the hardware has it, float16 on the GPUs that have only that, else float32.
  Weights, softmax, loss and evaluation are float32 in every case.
  """
  if precision != 'auto':
    return precision
  gpus = tf.config.list_physical_devices('GPU')
  if not gpus:
    return 'mixed_bfloat16' if BFLOAT16_CPU_FLAGS & _cpu_flags() else 'float32'
  generation = min(tf.config.experimental.get_device_details(gpu).get('compute_capability', (0, 0)) for gpu in gpus)
  return 'mixed_bfloat16' if generation >= (8, 0) else 'mixed_float16' if generation >= (7, 0) else 'float32'


def _cpu_flags() -> set[str]:
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
