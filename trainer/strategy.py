"""Which devices train, and in which precision."""

import os

import tensorflow as tf
from absl import app

from runtime import processor
from trainer import hosts

ALL_REDUCE = {
  'auto': None,  # NCCL where it is, else reduction to one device
  'nccl': tf.distribute.NcclAllReduce,
  'hierarchical': tf.distribute.HierarchicalCopyAllReduce,
  'reduction_to_one': tf.distribute.ReductionToOneDevice,
}
ALL_REDUCE_OVER_HOSTS = {  # over a ring where it is not NCCL
  'auto': tf.distribute.experimental.CommunicationImplementation.AUTO,
  'nccl': tf.distribute.experimental.CommunicationImplementation.NCCL,
}
CORES_PER_OP = 4  # of a CPU; a step keeps this many busy by itself (see fit.SLICE_ROWS)


def create(replicas: int, all_reduce: str = 'auto') -> tf.distribute.Strategy:
  """A MirroredStrategy over this host's GPUs, or over its CPU; over all hosts' where TF_CONFIG names several.

  Call it before anything else touches a device.

  Args:
    replicas: how many devices train; 0 means every GPU, or the CPU as one device. Without a GPU, two or more split the
      CPU into that many logical devices, at most one a core. Several hosts use all they have.
    all_reduce: how the devices add up their gradients: one host, see ALL_REDUCE; several, ALL_REDUCE_OVER_HOSTS.

  Raises:
    app.UsageError: there are fewer devices than replicas, they cannot add up in that way, or TF_CONFIG is wrong.
  """
  gpus = tf.config.list_physical_devices('GPU')
  if all_reduce == 'nccl' and not gpus:
    raise app.UsageError('--all_reduce=nccl: this host has no GPU; leave it out')
  for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
  if not gpus:
    tf.config.threading.set_intra_op_parallelism_threads(
      max((os.cpu_count() or 1) // CORES_PER_OP, 1)
    )
  if hosts.configured():
    return _over_hosts(replicas, all_reduce)
  available = len(gpus) or os.cpu_count() or 1
  if replicas > available:
    kind = 'GPUs' if gpus else 'CPU cores and no GPU'
    raise app.UsageError(
      f'--replicas={replicas}: this host has {available} {kind}; pass --replicas={available} or fewer'
    )
  devices = _take_gpus(gpus[: replicas or None]) if gpus else _split_cpu(replicas or 1)
  reduce = ALL_REDUCE[all_reduce]
  return tf.distribute.MirroredStrategy(devices, reduce and reduce())


def _take_gpus(gpus: list) -> list[str]:
  tf.config.set_visible_devices(gpus, 'GPU')  # TensorFlow would take some memory of the others too
  return [f'/gpu:{i}' for i in range(len(gpus))]


def _split_cpu(replicas: int) -> list[str]:
  if replicas > 1:
    (cpu,) = tf.config.list_physical_devices('CPU')
    tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
  return [f'/cpu:{i}' for i in range(replicas)]


def _over_hosts(replicas: int, all_reduce: str) -> tf.distribute.Strategy:
  """Raises app.UsageError for a number of replicas: each host uses all its GPUs, or its CPU."""
  if replicas:
    raise app.UsageError(
      f'--replicas={replicas}: with TF_CONFIG every host uses all it has; leave it out'
    )
  if all_reduce not in ALL_REDUCE_OVER_HOSTS:
    known = ' or '.join(ALL_REDUCE_OVER_HOSTS)
    raise app.UsageError(
      f'--all_reduce={all_reduce}: is for the devices of one host; with TF_CONFIG pass {known}'
    )
  return hosts.join(ALL_REDUCE_OVER_HOSTS[all_reduce])


def dtype_policy(precision: str) -> str:
  """The Keras dtype policy for `--precision`: `auto` is the fastest here that costs no accuracy.

  That is bfloat16 arithmetic where the hardware has it, float16 on the GPUs that have only that, else float32.
  Weights, softmax, loss and evaluation are float32 in every case.
  """
  if precision != 'auto':
    return precision
  gpus = tf.config.list_physical_devices('GPU')
  if not gpus:
    return 'mixed_bfloat16' if processor.computes_bfloat16() else 'float32'
  generation = min(
    tf.config.experimental.get_device_details(gpu).get('compute_capability', (0, 0)) for gpu in gpus
  )
  return (
    'mixed_bfloat16'
    if generation >= (8, 0)
    else 'mixed_float16'
    if generation >= (7, 0)
    else 'float32'
  )
