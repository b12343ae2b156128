"""TensorFlow's C API through ctypes: the loader of Java and Go, without Python's TensorFlow."""

import ctypes
import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

NUMBERS = {1: np.dtype(np.float32), 4: np.dtype(np.uint8), 9: np.dtype(np.int64)}  # by TF_DataType
STRING = 7
STRING_BYTES = 24  # of a TF_TString

POINTERS = (
  'NewStatus',
  'NewGraph',
  'NewSessionOptions',
  'LoadSessionFromSavedModel',
  'GraphOperationByName',
  'AllocateTensor',
  'TensorData',
  'StringGetDataPointer',
)


class Output(ctypes.Structure):
  """A TF_Output."""

  _fields_ = (('operation', ctypes.c_void_p), ('index', ctypes.c_int))


def _library() -> ctypes.CDLL:
  """Loads the installed libtensorflow_cc. The package `tensorflow` is found, not imported."""
  package = pathlib.Path(importlib.util.find_spec('tensorflow').origin).parent
  ctypes.CDLL(str(package / 'libtensorflow_framework.so.2'), ctypes.RTLD_GLOBAL)
  library = ctypes.CDLL(str(package / 'libtensorflow_cc.so.2'))
  for name in POINTERS:
    getattr(library, f'TF_{name}').restype = ctypes.c_void_p
  library.TF_Message.restype = ctypes.c_char_p
  for name in ('StringGetSize', 'Dim'):
    getattr(library, f'TF_{name}').restype = ctypes.c_int64
  return library


class Session:
  """A SavedModel, loaded by TF_LoadSessionFromSavedModel under the tag `serve`."""

  def __init__(self, export: str):
    self._tf = _library()
    self._status = self._pointer(self._tf.TF_NewStatus())
    self._graph = self._pointer(self._tf.TF_NewGraph())
    options = self._pointer(self._tf.TF_NewSessionOptions())
    tags = (ctypes.c_char_p * 1)(b'serve')
    loaded = self._tf.TF_LoadSessionFromSavedModel(
      options, None, os.fsencode(export), tags, 1, self._graph, None, self._status
    )
    self._check()
    self._session = self._pointer(loaded)

  def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
    """Returns the tensors named by `fetches`, such as `StatefulPartitionedCall:0`."""
    inputs = (Output * len(feeds))(*map(self._output, feeds))
    outputs = (Output * len(fetches))(*map(self._output, fetches))
    given = (ctypes.c_void_p * len(feeds))(*map(self._tensor, feeds.values()))
    got = (ctypes.c_void_p * len(fetches))()
    self._tf.TF_SessionRun(
      self._session,
      None,
      inputs,
      given,
      len(feeds),
      outputs,
      got,
      len(fetches),
      None,
      0,
      None,
      self._status,
    )
    self._check()
    return [self._array(self._pointer(tensor)) for tensor in got]

  @staticmethod
  def _pointer(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)  # ctypes would pass a plain int as 32 bits

  def _check(self) -> None:
    if self._tf.TF_GetCode(self._status):
      raise RuntimeError(self._tf.TF_Message(self._status).decode())

  def _output(self, name: str) -> Output:
    operation, index = name.split(':')
    found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
    if not found:
      raise KeyError(f'the graph has no operation {operation}')
    return Output(found, int(index))

  def _tensor(self, values: np.ndarray) -> int:
    """Returns the address of a TF_Tensor of numbers, or of strings where `values` holds bytes."""
    shape = (ctypes.c_int64 * values.ndim)(*values.shape)
    if values.dtype.kind == 'S':
      kind, size = STRING, values.size * STRING_BYTES
    else:
      kind = next(kind for kind, dtype in NUMBERS.items() if dtype == values.dtype)
      size = values.nbytes
    tensor = self._tf.TF_AllocateTensor(kind, shape, values.ndim, ctypes.c_size_t(size))
    data = self._tf.TF_TensorData(self._pointer(tensor))
    if kind != STRING:
      ctypes.memmove(data, np.ascontiguousarray(values).ctypes.data, size)
      return tensor
    for i, content in enumerate(values.tolist()):
      place = self._pointer(data + i * STRING_BYTES)
      self._tf.TF_StringInit(place)
      self._tf.TF_StringCopy(place, content, ctypes.c_size_t(len(content)))
    return tensor

  def _array(self, tensor: ctypes.c_void_p) -> np.ndarray:
    shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
    kind, data = self._tf.TF_TensorType(tensor), self._tf.TF_TensorData(tensor)
    if kind != STRING:
      dtype = NUMBERS[kind]
      content = ctypes.string_at(data, int(np.prod(shape)) * dtype.itemsize) if data else b''
      return np.frombuffer(content, dtype).reshape(shape)
    places = (self._pointer(data + i * STRING_BYTES) for i in range(int(np.prod(shape))))
    return np.array([self._string(place) for place in places], 'S').reshape(shape)

  def _string(self, place: ctypes.c_void_p) -> bytes:
    size = self._tf.TF_StringGetSize(place)
    return ctypes.string_at(self._tf.TF_StringGetDataPointer(place), size)
