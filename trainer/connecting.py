"""TensorFlow's wait for several hosts to connect, during which Python's other threads run.

It happens in C++, takes up to an hour if a host has died meanwhile, and TensorFlow keeps Python's
global lock for it: no thread could act on a signal. The same function of TensorFlow's C API, called
through ctypes, does without the lock.
"""

import contextlib
import ctypes
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe

LIBRARIES = ('libtensorflow_framework.so.2', 'libtensorflow_cc.so.2')  # on Linux


@contextlib.contextmanager
def without_global_lock() -> Iterator[None]:
  """Makes what connects hosts in the block release Python's global lock."""
  original = pywrap_tfe.TFE_EnableCollectiveOps
  paths = [pathlib.Path(tf.__file__).parent / name for name in LIBRARIES]
  if all(path.exists() for path in paths):
    pywrap_tfe.TFE_EnableCollectiveOps = _Connect(*(ctypes.CDLL(str(path)) for path in paths))
  try:
    yield
  finally:
    pywrap_tfe.TFE_EnableCollectiveOps = original


class _Connect:
  """TFE_EnableCollectiveOps of TensorFlow's C API."""

  def __init__(self, framework: ctypes.CDLL, library: ctypes.CDLL):
    self._framework, self._library = framework, library
    framework.TF_NewStatus.restype = ctypes.c_void_p
    framework.TF_Message.restype = ctypes.c_char_p

  def __call__(self, context: Any, server: bytes) -> None:
    """Connects to all hosts.

    Args:
      context: TensorFlow's eager context, as a capsule.
      server: a serialized ServerDef.

    Raises:
      tf.errors.OpError: that failed.
    """
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = ctypes.c_void_p(pointer(context, None))
    status = ctypes.c_void_p(self._framework.TF_NewStatus())
    try:
      self._library.TFE_EnableCollectiveOps(address, server, ctypes.c_size_t(len(server)), status)
      if code := self._framework.TF_GetCode(status):
        message = self._framework.TF_Message(status).decode(errors='replace')
        raise tf.compat.v1.errors.exception_type_from_error_code(code)(None, None, message)
    finally:
      self._framework.TF_DeleteStatus(status)
