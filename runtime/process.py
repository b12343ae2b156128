"""Settings of a process that runs TensorFlow, to be made before TensorFlow is imported."""

import codecs
import contextlib
import ctypes
import gc
import locale
import os
import sys
from collections.abc import Iterator

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
TOP_PAD_BYTES = 256 * 2**20


def prepare() -> None:
  """Makes TensorFlow quiet and fast in this process, and in those that it starts.

  Variables that the environment already has are kept. TensorFlow enables oneDNN's kernels by
  default only on processors with AVX-512 and VNNI. They pay on AVX2, too: a training step of the
  seed CNN takes a quarter less time with them.

  Keras gets none of the user's settings, neither a backend nor the order of an image's axes: the
  networks are made for TensorFlow and channels last.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
  os.environ['KERAS_BACKEND'] = 'tensorflow'
  os.environ['KERAS_HOME'] = os.devnull  # which contains no keras.json, and none can be written to
  _keep_freed_memory()


def open_standard_streams() -> None:
  """Opens /dev/null in place of standard streams that are closed.

  Otherwise the next file that is opened becomes, say, standard error, and logs are written to it.
  """
  for number, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, mode, encoding='utf-8', closefd=False))  # noqa: SIM115


def use_utf8() -> None:
  """Runs the program again in Python's UTF-8 mode if the locale has another encoding.

  Files and their names are then UTF-8 in every library, as they are for TensorFlow.
  """
  if sys.flags.utf8_mode or codecs.lookup(locale.getencoding()).name == 'utf-8':
    return
  os.environ['PYTHONUTF8'] = '1'
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
  """Makes packages imported in the block do without modules that they can do without.

  Those that are imported already stay. After the block all can be imported as usual.
  """
  hidden = [module for module in modules if module not in sys.modules]
  # An import of them raises ModuleNotFoundError.
  sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
  try:
    yield
  finally:
    for module in hidden:
      del sys.modules[module]


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
  """Makes imports in the block faster: TensorFlow's and Beam's by a quarter (AVX2, 2 cores).

  Nothing that the block made is ever visited by a collection, which at exit would take a second.
  """
  gc.disable()
  try:
    yield
  finally:
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
  """Silences TensorFlow's start-up messages, a dozen per process, which ignore the log level."""
  sys.stderr.flush()
  stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(nowhere)


def _keep_freed_memory() -> None:
  """Makes glibc's malloc keep freed memory, up to the peak.

  By default it returns every large tensor to the kernel when it is freed, and the next step faults
  the same pages in again: 39,000 page faults per step of 256 images, and 44 % of the trainer's CPU
  time.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # not glibc: musl, macOS, Windows
    return
  mallopt(M_MMAP_MAX, 0)
  mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
  mallopt(M_ARENA_MAX, 1)
  mallopt(M_TOP_PAD, TOP_PAD_BYTES)
