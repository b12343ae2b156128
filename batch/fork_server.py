"""A process that imports what the local runner's workers need, and forks them.

Importing TensorFlow and Beam takes a process four to five seconds. The fork server does it once,
while the launcher plans the job. Workers start in milliseconds and share the memory of the imports.

The launcher sends one message per worker: its environment, and a socket that the worker keeps open
until it exits, so that the launcher sees the end of that socket when the worker exits or is killed.
No process outlives the launcher: the server exits with the launcher's socket, workers with the
server.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping

# Beam imports them if they are installed, which takes a third of its time: its connectors to
# Google Cloud and its data frames. The local runner's workers use none of them.
UNUSED_BY_BEAM = (
  'google.cloud.bigquery',
  'google.cloud.dataflow',
  'google.cloud.dataflow_v1beta3',
  'google.cloud.pubsub',
  'pandas',
)
MAX_MESSAGE_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


class ForkServer:
  """The launcher's end of a fork server, which it starts at once."""

  def __init__(self, verbose: bool):
    """Starts the server; returns before it has imported anything.

    Args:
      verbose: whether workers print the tracebacks of their errors.
    """
    self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
      # A fork would lack the threads that a library starts when it is imported.
      environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}
      command = [sys.executable, '-m', 'batch.fork_server', str(other.fileno()), str(int(verbose))]
      self._process = subprocess.Popen(command, pass_fds=[other.fileno()], env=environment)

  def fork(self, environment: Mapping[str, str]) -> socket.socket:
    """Starts a worker and returns a socket that reaches its end when the worker exits."""
    mine, other = socket.socketpair()
    with other:
      message = json.dumps(dict(environment)).encode()
      socket.send_fds(self._socket, [message], [other.fileno()])
    return mine

  def close(self) -> None:
    """Kills the server, and with it any worker that is left."""
    self._process.kill()
    self._process.wait()
    self._socket.close()


def main() -> None:
  """Serves until the launcher closes the socket whose file descriptor is the first argument.

  The second is 1 if workers print tracebacks, else 0.
  """
  descriptor, verbose = map(int, sys.argv[1:])
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher hears Ctrl-C, too, and ends this
  _import_all()
  # Python 3.12 and later warn of threads, whose locks a forked process would find taken for ever.
  # There are OpenBLAS's and jemalloc's, which prepare for a fork.
  warnings.filterwarnings('ignore', 'This process .* is multi-threaded', DeprecationWarning)
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the workers
  server = os.getpid()
  with socket.socket(fileno=descriptor) as launcher:
    while True:
      message, descriptors, _, _ = socket.recv_fds(launcher, MAX_MESSAGE_BYTES, 1)
      if not message:
        return
      if os.fork() == 0:
        launcher.close()
        if not verbose:
          # Beam prints each error's traceback. What dies in C still reaches the real stderr.
          sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
        _work(json.loads(message), server)
      os.close(descriptors[0])


def _import_all() -> None:
  from runtime import process

  process.prepare()
  # A later collection, in a worker, would copy every page that it visits.
  with process.without_garbage_collection():
    with process.without('keras'), process.silent_stderr():
      import tensorflow  # noqa: F401
    with process.without(*UNUSED_BY_BEAM):
      import apache_beam.runners.worker.sdk_worker_main  # noqa: F401

    from batch import pipeline  # noqa: F401


def _work(environment: Mapping[str, str], server: int) -> None:
  """Runs Beam's worker in this process, and exits."""
  from apache_beam.runners.worker import sdk_worker_main

  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != server:  # it died before the line above
    os._exit(1)
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  handler = logging.StreamHandler()
  handler.setLevel(logging.CRITICAL)  # the launcher reports a worker's errors
  logging.basicConfig(format='%(message)s', handlers=[handler], force=True)
  os.environ.clear()
  os.environ.update(environment)
  status = 1
  try:
    sdk_worker_main.main([])
    status = 0
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the seconds that TensorFlow's destructors take


if __name__ == '__main__':
  main()
