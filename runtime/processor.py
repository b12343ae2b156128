"""The capabilities of this machine's processor."""

import functools
import pathlib

CPUINFO = pathlib.Path('/proc/cpuinfo')
BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16'}


@functools.cache
def flags() -> frozenset[str]:
  """Returns the processor's feature flags that Linux lists; none on other systems."""
  if not CPUINFO.exists():
    return frozenset()
  listed = [
    line.split(':')[1]
    for line in CPUINFO.read_text('utf-8', 'replace').splitlines()
    if line.startswith('flags')
  ]
  return frozenset(listed[0].split()) if listed else frozenset()


def computes_bfloat16() -> bool:
  """Returns whether the processor multiplies bfloat16 in hardware, not by conversion to float32."""
  return bool(BFLOAT16_FLAGS & flags())
