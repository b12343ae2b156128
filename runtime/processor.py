"""What this machine's processor can do."""

import functools
import pathlib

CPUINFO = pathlib.Path('/proc/cpuinfo')
BFLOAT16_FLAGS = {'avx512_bf16', 'amx_bf16'}


@functools.cache
def flags() -> frozenset[str]:
  """Returns the instruction sets that Linux lists for the processor; elsewhere none."""
  if not CPUINFO.exists():
    return frozenset()
  listed = [
    line.split(':')[1] for line in CPUINFO.read_text().splitlines() if line.startswith('flags')
  ]
  return frozenset(listed[0].split()) if listed else frozenset()


def computes_bfloat16() -> bool:
  """Returns whether the processor multiplies bfloat16 in hardware, rather than by way of float32."""
  return bool(BFLOAT16_FLAGS & flags())
