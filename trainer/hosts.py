"""Several hosts as one trainer: TF_CONFIG, which host writes, and what all of them agree on."""

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

TASK_TYPES = ('chief', 'worker')
ADDRESS_RE = re.compile(r'\S+:\d{1,5}')
EXAMPLE = (
  '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
COLLECTIVE_TIMEOUT_SECONDS = 40.0  # without an answer; then a host is lost


def configured() -> list[str]:
  """Returns the addresses of all hosts in TF_CONFIG, or none if it is unset or has no cluster.

  Raises:
    app.UsageError: it is not what TensorFlow documents, or has parameter servers or evaluators.
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
  """Returns the addresses in a parsed TF_CONFIG.

  Raises:
    ValueError, KeyError, TypeError, AttributeError: it is not what TensorFlow documents.
  """
  cluster = config.get('cluster')
  if not cluster:
    return []
  if unknown := sorted(set(cluster) - set(TASK_TYPES)):
    raise ValueError(
      f'cluster has {", ".join(unknown)}; every host here is a worker, and one may be the chief'
    )
  if len(cluster.get('chief', [])) > 1:
    raise ValueError('cluster has more than one chief')
  addresses = [address for kind in TASK_TYPES for address in cluster.get(kind, [])]
  if wrong := [address for address in addresses if not ADDRESS_RE.fullmatch(address)]:
    raise ValueError(f'{wrong[0]!r} is not host:port')
  if len(set(addresses)) < len(addresses):
    raise ValueError('cluster has the same address twice')
  kind, index = config['task']['type'], config['task']['index']
  if kind not in cluster or not isinstance(index, int) or not 0 <= index < len(cluster[kind]):
    raise ValueError(f'task is {kind} {index!r}, which cluster does not have')
  return addresses


def create_strategy(
  implementation: tf.distribute.experimental.CommunicationImplementation,
) -> tf.distribute.Strategy:
  """Returns a strategy over all hosts of TF_CONFIG once every one is there; waits up to an hour."""
  options = tf.distribute.experimental.CommunicationOptions(
    implementation=implementation, timeout_seconds=COLLECTIVE_TIMEOUT_SECONDS
  )
  logging.info('waiting for all of %s', ', '.join(configured()))
  with _stoppable():
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
  """Makes SIGTERM end the process while TensorFlow blocks in C++, where no Python handler runs."""
  done = threading.Event()

  def listen() -> None:
    while not done.is_set():
      if signal.sigtimedwait({signal.SIGTERM}, 0.2):
        os._exit(exit_codes.PREEMPTED)

  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
  listener = threading.Thread(target=listen, daemon=True)
  listener.start()
  try:
    yield
  finally:
    done.set()
    listener.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def is_multi_host(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether the strategy trains on several hosts."""
  return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether this process writes: the only one, the chief, or worker 0 if none is chief."""
  if not is_multi_host(strategy):
    return True
  cluster = strategy.cluster_resolver
  return cluster.task_id == 0 and (
    cluster.task_type == 'chief' or 'chief' not in cluster.cluster_spec().jobs
  )


@contextlib.contextmanager
def output_dir(strategy: tf.distribute.Strategy, directory: str) -> Iterator[str]:
  """Yields `directory` on the chief, and a temporary directory on every other worker.

  All of them do the same work, so that none ends while another still waits for it.
  """
  if is_chief(strategy):
    yield directory
    return
  with tempfile.TemporaryDirectory() as scratch:
    yield scratch


class LostWorker(Exception):
  """Another host died or was cut off. This process cannot continue; the job must be restarted."""


@contextlib.contextmanager
def reraise_lost_worker(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Raises LostWorker if a collective operation of several hosts fails."""
  try:
    yield
  except tf.errors.OpError as error:
    if not is_multi_host(strategy):
      raise
    raise LostWorker(
      f'a worker was lost ({str(error).splitlines()[0]}); restart the command on every '
      'host to resume from the last checkpoint'
    ) from error


class Agreement:
  """Averages values over hosts, so that all of them take the same decision."""

  def __init__(self, strategy: tf.distribute.Strategy):
    self._strategy = strategy

  def all_reduce_mean(self, *values: float) -> np.ndarray:
    """Returns the mean over hosts of each value, float32; all hosts call it at the same point."""
    here = np.array(values, np.float32)
    return self._mean(here).numpy() if is_multi_host(self._strategy) else here

  @tf.function(reduce_retracing=True)
  def _mean(self, values: tf.Tensor) -> tf.Tensor:
    return self._strategy.reduce('MEAN', self._strategy.run(tf.identity, [values]), axis=None)


def barrier(strategy: tf.distribute.Strategy) -> None:
  """Waits for all hosts, at the end of a run.

  A chief that restarts before everything is written still needs its peers.

  Raises:
    LostWorker: one of them is gone.
  """
  with reraise_lost_worker(strategy):
    Agreement(strategy).all_reduce_mean(0)
