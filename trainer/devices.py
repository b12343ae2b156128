"""Which devices train, and in which precision."""

import os

import tensorflow as tf
from absl import app

from runtime import processor
from trainer import hosts
from trainer.config import ALL_REDUCE

ALL_REDUCE_OVER_HOSTS = {  # over a ring if it is not NCCL
  'auto': tf.distribute.experimental.CommunicationImplementation.AUTO,
  'nccl': tf.distribute.experimental.CommunicationImplementation.NCCL,
}
CORES_PER_OP = 4  # of a CPU; the slices of a step keep this many busy (see slices.py)


def create_strategy(
  replicas: int = 0, all_reduce: str = 'auto', lookup_seconds: int = 0
) -> tf.distribute.Strategy:
  """Returns a MirroredStrategy over this host's GPUs, or its CPU; with TF_CONFIG, over all hosts'.

  Call it before anything else touches a device.

  Args:
    replicas: number of devices that train; 0 means every GPU, or the CPU as one device. Without a
      GPU, two or more split the CPU into that many logical devices, at most one per core. Several
      hosts use all they have.
    all_reduce: how the devices add up their gradients: a key of config.ALL_REDUCE for one host, of
      ALL_REDUCE_OVER_HOSTS for several.
    lookup_seconds: how long to look for hosts whose names have no address.

  Raises:
    app.UsageError: there are fewer devices than replicas, they cannot add up in that way, or
      TF_CONFIG is wrong.
  """
  gpus = tf.config.list_physical_devices('GPU')
  if all_reduce == 'nccl' and not gpus:
    raise app.UsageError('--all_reduce=nccl: this host has no GPU; leave it out')
  for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
  if not gpus:
    threads = max((os.cpu_count() or 1) // CORES_PER_OP, 1)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  if hosts.configured():
    return _over_hosts(replicas, all_reduce, lookup_seconds)
  return _on_this_host(gpus, replicas, all_reduce)


def _on_this_host(gpus: list, replicas: int, all_reduce: str) -> tf.distribute.Strategy:
  available = len(gpus) or os.cpu_count() or 1
  if replicas > available:
    kind = 'GPUs' if gpus else 'CPU cores and no GPU'
    raise app.UsageError(
      f'--replicas={replicas}: this host has {available} {kind}; pass --replicas={available} or '
      'fewer'
    )
  devices = _take_gpus(gpus[: replicas or None]) if gpus else _split_cpu(replicas or 1)
  reduction = ALL_REDUCE[all_reduce]
  cross_device_ops = getattr(tf.distribute, reduction)() if reduction else None
  return tf.distribute.MirroredStrategy(devices, cross_device_ops)


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


def _over_hosts(replicas: int, all_reduce: str, lookup_seconds: int) -> tf.distribute.Strategy:
  """Returns a strategy over all hosts, each with all its GPUs, or its CPU.

  Raises:
    app.UsageError: `replicas` is not 0, or `all_reduce` is for the devices of one host.
  """
  if replicas:
    raise app.UsageError(
      f'--replicas={replicas}: with TF_CONFIG every host uses all it has; leave it out'
    )
  if all_reduce not in ALL_REDUCE_OVER_HOSTS:
    known = ' or '.join(ALL_REDUCE_OVER_HOSTS)
    raise app.UsageError(
      f'--all_reduce={all_reduce}: is for the devices of one host; with TF_CONFIG pass {known}'
    )
  return hosts.create_strategy(ALL_REDUCE_OVER_HOSTS[all_reduce], lookup_seconds)


def dtype_policy(precision: str) -> str:
  """Returns the Keras dtype policy for `--precision`.

  `auto` is the fastest without loss of accuracy: bfloat16 arithmetic if the hardware has it,
  float16 on GPUs that have only that, otherwise float32. Weights, softmax, loss and evaluation are
  float32 in every case.
  """
  if precision != 'auto':
    return precision
  gpus = tf.config.list_physical_devices('GPU')
  if not gpus:
    return 'mixed_bfloat16' if processor.computes_bfloat16() else 'float32'
  generation = min(
    tf.config.experimental.get_device_details(gpu).get('compute_capability', (0, 0)) for gpu in gpus
  )
  if generation >= (8, 0):
    return 'mixed_bfloat16'
  if generation >= (7, 0):
    return 'mixed_float16'
  return 'float32'


def device_name() -> str:
  """Returns the name of the first GPU, or `CPU`."""
  gpus = tf.config.list_physical_devices('GPU')
  if not gpus:
    return 'CPU'
  return tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'GPU')
