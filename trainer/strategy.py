"""Which devices train, and in which precision."""

import os
import pathlib

import tensorflow as tf
from absl import app

BFLOAT16_CPU_FLAGS = {'avx512_bf16', 'amx_bf16'}


def create(replicas: int) -> tf.distribute.Strategy:
  """A MirroredStrategy over this host's GPUs, or over its CPU where it has none.

  Call it before anything else touches a device.

  Args:
    replicas: how many devices train; 0 means every GPU, or the CPU as one device. Without a GPU, two or more split the
      CPU into that many logical devices, at most one a core.

  Raises:
    app.UsageError: there are fewer devices than replicas.
  """
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
  return tf.distribute.MirroredStrategy([f'/gpu:{i}' for i in range(replicas or len(gpus))])


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
