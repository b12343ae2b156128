"""Several hosts as one trainer: what TF_CONFIG says, who writes, and what all of them have to agree on."""

import contextlib
import json
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import app, logging

from trainer import exit_codes

KINDS = ('chief', 'worker')
ADDRESS = re.compile(r'\S+:\d{1,5}')
EXAMPLE = (
  '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
COLLECTIVE_TIMEOUT_SECONDS = 40.0  # a host that was cut off is given up after this long


def configured() -> list[str]:
  """The addresses that TF_CONFIG gives all hosts; none of them without one, or without a cluster in it.

  Raises:
    app.UsageError: it is not what TensorFlow documents, or has parameter servers or evaluators in it.
  """
  text = os.environ.get('TF_CONFIG') or '{}'
  try:
    return _addresses(json.loads(text))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    why = f'has no {error}' if isinstance(error, KeyError) else str(error)
    raise app.UsageError(
      f'TF_CONFIG={text}: {why}; on the first of two hosts it would be {EXAMPLE}'
    ) from error


def _addresses(config: dict) -> list[str]:
  """Raises ValueError, KeyError, TypeError or AttributeError where the configuration has another shape."""
  cluster = config.get('cluster')
  if not cluster:
    return []
  if unknown := sorted(set(cluster) - set(KINDS)):
    raise ValueError(
      f'cluster has {", ".join(unknown)}; every host here is a worker, and one may be the chief'
    )
  if len(cluster.get('chief', [])) > 1:
    raise ValueError('cluster has more than one chief')
  addresses = [address for kind in KINDS for address in cluster.get(kind, [])]
  if wrong := [address for address in addresses if not ADDRESS.fullmatch(address)]:
    raise ValueError(f'{wrong[0]!r} is not host:port')
  if len(set(addresses)) < len(addresses):
    raise ValueError('cluster has the same address twice')
  kind, index = config['task']['type'], config['task']['index']
  if kind not in cluster or not isinstance(index, int) or not 0 <= index < len(cluster[kind]):
    raise ValueError(f'task is {kind} {index!r}, which cluster does not have')
  return addresses


def join(
  implementation: tf.distribute.experimental.CommunicationImplementation,
) -> tf.distribute.Strategy:
  """Waits until every host of TF_CONFIG is there, an hour at most, and trains with all of them."""
  options = tf.distribute.experimental.CommunicationOptions(
    implementation=implementation, timeout_seconds=COLLECTIVE_TIMEOUT_SECONDS
  )
  logging.info('waiting for all of %s', ', '.join(configured()))
  with _stoppable():
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
  """Lets SIGTERM end the process while TensorFlow waits where Python runs no handler."""
  over = threading.Event()

  def listen() -> None:
    while not over.is_set():
      if signal.sigtimedwait({signal.SIGTERM}, 0.2):
        os._exit(exit_codes.PREEMPTED)

  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
  listener = threading.Thread(target=listen, daemon=True)
  listener.start()
  try:
    yield
  finally:
    over.set()
    listener.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def several(devices: tf.distribute.Strategy) -> bool:
  return isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(devices: tf.distribute.Strategy) -> bool:
  """Whether this process is the one that writes: the only one, or the chief, or worker 0 where there is none."""
  if not several(devices):
    return True
  cluster = devices.cluster_resolver
  return cluster.task_id == 0 and (
    cluster.task_type == 'chief' or 'chief' not in cluster.cluster_spec().jobs
  )


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


class LostWorker(Exception):
  """Another host died or was cut off. This process cannot train any more; the job has to be started again."""


@contextlib.contextmanager
def watched(devices: tf.distribute.Strategy) -> Iterator[None]:
  """Raises LostWorker when a collective operation fails, where there are several hosts."""
  try:
    yield
  except tf.errors.OpError as error:
    if not several(devices):
      raise
    raise LostWorker(
      f'a worker was lost ({str(error).splitlines()[0]}); start the same command on every host again, and the run '
      'goes on from its last checkpoint'
    ) from error


class Agreement:
  """What each host finds out for itself, in words that are the same on all."""

  def __init__(self, devices: tf.distribute.Strategy):
    self._devices = devices

  def mean(self, *values: float) -> np.ndarray:
    """Over the hosts, float32, one for each of the values. All hosts call it at the same point of the run."""
    here = np.array(values, np.float32)
    return self._mean(here).numpy() if several(self._devices) else here

  @tf.function(reduce_retracing=True)
  def _mean(self, values: tf.Tensor) -> tf.Tensor:
    return self._devices.reduce('MEAN', self._devices.run(tf.identity, [values]), axis=None)


def leave_together(devices: tf.distribute.Strategy) -> None:
  """Waits for the others: if the chief had to start again before all is written, it would find no one to join.

  Raises:
    LostWorker: one of them is gone.
  """
  with watched(devices):
    Agreement(devices).mean(0)
