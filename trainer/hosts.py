"""Several hosts as one trainer: TF_CONFIG, which host writes, and what all of them agree on."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from absl import app, logging

from trainer import connecting, exit_codes, failures, rendezvous, signals

TASK_TYPES = ('chief', 'worker')
ADDRESS_RE = re.compile(r'\S+:\d{1,5}')
EXAMPLE = (
  '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def configured() -> list[str]:
  """Returns the addresses of all hosts in TF_CONFIG, or none if it is unset or has no cluster.

  Raises:
    app.UsageError: it is not what TensorFlow documents, or has parameter servers or evaluators.
  """
  return [address for _, address in _tasks()]


def _tasks() -> list[tuple[str, str]]:
  """Returns the name and the address of each host in TF_CONFIG, the one that writes first."""
  text = os.environ.get('TF_CONFIG') or '{}'
  try:
    return _parsed(json.loads(text))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    why = f'has no {error}' if isinstance(error, KeyError) else str(error)
    one_line = ' '.join(text.split())
    raise app.UsageError(
      f'TF_CONFIG={one_line}: {why}; on the first of two hosts it would be {EXAMPLE}'
    ) from error


def _parsed(config: dict) -> list[tuple[str, str]]:
  """Returns the names and addresses in a parsed TF_CONFIG.

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
  named = [
    (f'{kind} {i}', address)
    for kind in TASK_TYPES
    for i, address in enumerate(cluster.get(kind, []))
  ]
  addresses = [address for _, address in named]
  if wrong := [address for address in addresses if not ADDRESS_RE.fullmatch(address)]:
    raise ValueError(f'{wrong[0]!r} is not host:port')
  if wrong := [address for address in addresses if not 0 < rendezvous.split(address)[1] < 2**16]:
    raise ValueError(f'{wrong[0]!r}: a port is a number from 1 to 65535')
  if len(set(addresses)) < len(addresses):
    raise ValueError('cluster has the same address twice')
  kind, index = config['task']['type'], config['task']['index']
  if kind not in cluster or not isinstance(index, int) or not 0 <= index < len(cluster[kind]):
    raise ValueError(f'task is {kind} {index!r}, which cluster does not have')
  return named


def names() -> list[str]:
  """Returns what messages call each host in TF_CONFIG, the one that writes first."""
  return [f'{name} ({address})' for name, address in _tasks()]


def own_index() -> int:
  """Returns the position of this host in `configured` and `names`."""
  task = json.loads(os.environ['TF_CONFIG'])['task']
  return [name for name, _ in _tasks()].index(f'{task["type"]} {task["index"]}')


def create_strategy(
  implementation: tf.distribute.experimental.CommunicationImplementation, lookup_seconds: int
) -> tf.distribute.Strategy:
  """Returns a strategy over all hosts of TF_CONFIG once every one is there; waits up to an hour.

  The hosts wait for each other without a limit, because one may write a checkpoint for minutes.
  TensorFlow's coordination service has heartbeats of every host, and without them for ten seconds
  it ends what the others wait for.

  Raises:
    app.UsageError: this host's port is taken, or a host's name has no address.
    failures.Failure: not all of them came.
  """
  logging.info('waiting for all of %s', ', '.join(configured()))
  rendezvous.wait(configured(), own_index(), lookup_seconds)
  logging.info('every host is there')
  options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
  try:
    with signals.kept(), connecting.without_global_lock():
      return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
  except tf.errors.OpError as error:
    raise _lost(error) from error


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


class LostWorker(failures.Failure):
  """Another host died or was cut off. This process cannot continue; the job must be restarted."""

  code = exit_codes.LOST_HOST


def _lost(error: tf.errors.OpError) -> LostWorker:
  return LostWorker(
    f'a worker was lost ({failures.first_line(error)}); restart the command on every host to '
    'resume from the last checkpoint'
  )


@contextlib.contextmanager
def reraise_lost_worker(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Raises LostWorker if a collective operation of several hosts fails."""
  try:
    yield
  except tf.errors.ResourceExhaustedError:  # this host's memory or disk
    raise
  except tf.errors.OpError as error:
    if not is_multi_host(strategy):
      raise
    raise _lost(error) from error
