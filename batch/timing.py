"""The timing of the pipeline's stages."""

import contextlib
import time
from collections.abc import Iterator

from apache_beam.metrics import Metrics
from apache_beam.metrics.metricbase import Counter

NAMESPACE = 'lookbook'  # of all the scorer's counters


def stage_counter(stage: str) -> Counter:
  """Returns Beam's counter of the milliseconds spent in a stage, over all workers."""
  return Metrics.counter(NAMESPACE, f'{stage}_msec')


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str, counter: Counter) -> Iterator[None]:
  """Sets `seconds[stage]` to the time spent in the block, and adds it to a `stage_counter`."""
  began = time.perf_counter()
  yield
  seconds[stage] = time.perf_counter() - began
  counter.inc(round(seconds[stage] * 1000))
