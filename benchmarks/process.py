"""Runs a program and measures its time and memory, including its child processes."""

import contextlib
import subprocess
import tempfile
import threading
import time

import psutil

SAMPLE_SECONDS = 0.2
LOG_BYTES = 4000  # of a failed program's output, which the error repeats


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
  """Returns (seconds, peak of the summed RSS of the program and all its children, in bytes).

  Raises:
    RuntimeError: the program failed; the message ends with what it printed last.
  """
  began = time.perf_counter()
  with tempfile.TemporaryFile() as log:
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
      log.seek(0)
      said = log.read().decode(errors='replace')[-LOG_BYTES:]
      raise RuntimeError(f'{" ".join(command)} ended with {process.returncode}:\n{said}')
  return seconds, max(peaks)


def _watch(process: subprocess.Popen, peaks: list[int]) -> None:
  """Stores the peak in `peaks[0]` until the program ends."""
  with contextlib.suppress(psutil.NoSuchProcess):
    root = psutil.Process(process.pid)
    while process.poll() is None:
      peaks[0] = max(peaks[0], _rss(root))
      time.sleep(SAMPLE_SECONDS)


def _rss(root: psutil.Process) -> int:
  """Returns the summed RSS of a process and its descendants."""
  total = 0
  with contextlib.suppress(psutil.Error):  # one has just ended
    for process in [root, *root.children(recursive=True)]:
      total += process.memory_info().rss
  return total
