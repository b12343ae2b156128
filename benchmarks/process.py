"""Runs a program and measures the time and the memory that it takes, its children included."""

import contextlib
import subprocess
import tempfile
import threading
import time

import psutil

SAMPLE_SECONDS = 0.2
LOG_BYTES = 4000  # how much of a failed program's output the error repeats


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
  """Keeps the peak in the list's one place until the program ends."""
  with contextlib.suppress(psutil.NoSuchProcess):
    root = psutil.Process(process.pid)
    while process.poll() is None:
      peaks[0] = max(peaks[0], _rss(root))
      time.sleep(SAMPLE_SECONDS)


def _rss(root: psutil.Process) -> int:
  total = 0
  with contextlib.suppress(psutil.Error):  # one has just ended
    for process in [root, *root.children(recursive=True)]:
      total += process.memory_info().rss
  return total
