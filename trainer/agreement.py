"""What all hosts of a run agree on: before its first step, after every call, and at its end."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf
from absl import app

from trainer import failures, hosts

PULSE_SECONDS = 0.5  # between asking the others whether they are done, or failed

Facts = dict[str, Any]


class Agreement:
  """Exchanges small values between hosts; every method is called by all of them together.

  With one host there is nobody to agree with, and nothing is computed.
  """

  def __init__(self, strategy: tf.distribute.Strategy):
    self._strategy = strategy
    self.is_alone = not hosts.is_multi_host(strategy)

  def all_reduce_mean(self, *values: float) -> np.ndarray:
    """Returns the mean over hosts of each value, float32."""
    here = np.array(values, np.float32)
    return here if self.is_alone else self._mean(here).numpy()

  @tf.function(reduce_retracing=True)
  def _mean(self, values: tf.Tensor) -> tf.Tensor:
    return self._strategy.reduce('MEAN', self._strategy.run(tf.identity, [values]), axis=None)

  def barrier(self) -> None:
    """Waits for all hosts, at the end of a run.

    A chief that restarts before everything is written still needs its peers.

    Raises:
      hosts.LostWorker: one of them is gone.
    """
    with hosts.reraise_lost_worker(self._strategy):
      self.all_reduce_mean(0)
    self._await_others()

  def fail(self, failure: Exception) -> NoReturn:
    """Raises what all hosts know from the last exchange and are about to raise."""
    self._await_others()
    raise failure

  def _await_others(self) -> None:
    """Returns when all hosts have the result of the last exchange.

    A process that ended sooner would cut off one that is still receiving it. In here nothing is
    exchanged, so it does not matter if another one is gone.
    """
    with contextlib.suppress(tf.errors.OpError):
      self.all_reduce_mean(0)

  def together(self, work: Callable[[], Facts]) -> list[Facts]:
    """Returns what `work` returns on each host, in the order of hosts.names().

    It may take minutes on one of them.

    Raises:
      failures.Failure: it failed on some host, and all of them raise that.
      hosts.LostWorker: one of them is gone.
    """
    if self.is_alone:
      return [work()]
    job = _Job(work)
    while True:
      with hosts.reraise_lost_worker(self._strategy):
        reports = self._exchange(job.report())
      if failure := _failure(reports):
        self.fail(failure)
      if all('facts' in report for report in reports):
        return [report['facts'] for report in reports]
      time.sleep(PULSE_SECONDS)

  def require_same(self, work: Callable[[], Facts]) -> None:
    """Raises an error if `work` returns other plain values, by the users' names, on some host.

    Raises:
      app.UsageError: it does; the message has the name and the values on both hosts.
      failures.Failure, hosts.LostWorker: as `together`.
    """
    if difference := _difference(self.together(work)):
      self.fail(app.UsageError(f'{difference}; pass the same on every host'))

  def _exchange(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what each host passes, in the order of hosts.names()."""
    encoded = json.dumps({**mine, 'host': hosts.own_index()}).encode()
    size = int(self._gather(np.array([[len(encoded)]], np.int32)).numpy().max())
    row = np.frombuffer(encoded.ljust(size), np.uint8).astype(np.int32)
    rows = self._gather(row[None]).numpy().astype(np.uint8)
    found = [json.loads(row.tobytes()) for row in rows]  # from each replica of each host
    by_host = {report['host']: report for report in found}
    return [by_host[host] for host in sorted(by_host)]

  @tf.function(reduce_retracing=True)
  def _gather(self, row: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all replicas, int32 (replicas, N); N is the same on all of them."""
    return self._strategy.gather(self._strategy.run(tf.identity, [row]), axis=0)


class _Job:
  """Work in a thread, so that its host can answer the others meanwhile."""

  def __init__(self, work: Callable[[], Facts]):
    self._work = work
    self._report: dict[str, Any] = {}
    self._defect: Exception | None = None
    threading.Thread(target=self._run, daemon=True).start()

  def _run(self) -> None:
    try:
      self._report = {'facts': self._work()}
    except Exception as error:
      failure = failures.explained(error)
      if failure is None:
        self._defect = error
      else:
        self._report = {'failure': str(failure), 'code': failure.code}

  def report(self) -> dict[str, Any]:
    """Returns what the others should know; nothing while the work goes on."""
    if self._defect:
      raise self._defect
    return self._report


def _failure(reports: list[dict[str, Any]]) -> failures.Failure | None:
  """Returns the first failure among the hosts' reports, with the host's name."""
  for name, report in zip(hosts.names(), reports):
    if 'failure' in report:
      return failures.Failure(f'{name}: {report["failure"]}', report['code'])
  return None


def _difference(facts: list[Facts]) -> str:
  """Returns the names and values of what is not the same on a host as on the first one."""
  for i, theirs in enumerate(facts[1:], 1):
    names = hosts.names()
    differing = [
      f'{name}={facts[0].get(name)} on {names[0]}, {name}={theirs.get(name)} on {names[i]}'
      for name in {**facts[0], **theirs}
      if facts[0].get(name) != theirs.get(name)
    ]
    if differing:
      return '; '.join(differing)
  return ''
