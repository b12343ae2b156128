"""Makes Beam's local runner take its worker processes from a fork server."""

import logging
import os
import socket
import threading

from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from google.protobuf import json_format, text_format

from batch import fork_server

ABORT_SECONDS = 0.5  # between attempts to abort requests to a dead worker

logger = logging.getLogger(__name__)


def start_from(server: fork_server.ForkServer) -> None:
  """Makes `--direct_running_mode=multi_processing` fork its workers from `server`."""
  ForkedWorkerHandler.server = server
  worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(
    ForkedWorkerHandler
  )


class ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):
  """One worker process. Beam's own handler runs it as a shell command instead."""

  server: fork_server.ForkServer

  def __init__(self, command: bytes, state, provision_info, grpc_server):
    """Takes what Beam passes to the handler of a subprocess; the command is not used."""
    super().__init__(state, provision_info, grpc_server)
    self._stopping = threading.Event()

  def start_worker(self) -> None:
    """Forks the worker, and watches it."""
    options = json_format.MessageToJson(self.provision_info.provision_info.pipeline_options)
    control = text_format.MessageToString(self.control_api_service_descriptor())
    contract = {  # what sdk_worker_main reads
      'WORKER_ID': self.worker_id,
      'CONTROL_API_SERVICE_DESCRIPTOR': control,
      'PIPELINE_OPTIONS': options,
    }
    alive = self.server.fork({**os.environ, **contract})
    self._watcher = threading.Thread(target=self._watch, args=[alive], daemon=True)
    self._watcher.start()

  def stop_worker(self) -> None:
    """Waits until the worker, whose connection is closed, has exited."""
    self._stopping.set()
    self._watcher.join()

  def close(self) -> None:
    """Closes the connection, and waits until the worker has exited."""
    self._stopping.set()
    super().close()

  def _watch(self, alive: socket.socket) -> None:
    """Fails the job, which would otherwise wait forever, if the worker exits too early."""
    with alive:
      alive.recv(1)
    if self._stopping.is_set():
      return
    logger.error('a worker process ended unexpectedly; the kernel may have killed it for memory')
    self.data_conn.close()
    while not self._stopping.wait(ABORT_SECONDS):
      self.control_conn.abort(RuntimeError('a worker process ended unexpectedly'))
