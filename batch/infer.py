"""Beam's RunInference over a SavedModel, a whole chunk at a time."""

import concurrent.futures
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from batch import chunk
from images import model_card
from runtime import process, processor
from storage import files

# Of the 70,000 Fashion-MNIST images, bfloat16 gives 50 to 110 another class than float32 does. Over six trained seed
# CNNs and a `best`, none of these had its two likeliest classes more than 0.16 apart. Where they are closer than this,
# float32 decides: one in 30.
CLOSE_MARGIN = 0.2
ROWS_STEP = (
  8  # rescored rows are padded to a multiple: each new batch size costs oneDNN a compilation
)

CPU_BATCH_IMAGES = 256  # a call's tensors should fit a core's share of the cache
GPU_BATCH_IMAGES = 2048

_bfloat16_lock = threading.Lock()


def resolve_precision(precision: str) -> str:
  """`auto` is bfloat16 where this machine's processor computes in it, else float32."""
  if precision != 'auto':
    return precision
  return 'bfloat16' if processor.computes_bfloat16() else 'float32'


class Model:
  """A loaded SavedModel and the batch size that fits in memory.

  The object that tf.saved_model.load returns has to live as long as its signatures.
  """

  def __init__(self, directory: str, precision: str, batch_images: int, calls: int = 1):
    """
    Args:
      directory: the SavedModel.
      precision: float32 or bfloat16.
      batch_images: images in one call, at most; 0 chooses by the device.
      calls: how many calls are made at the same time.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices('GPU')
    for gpu in gpus:
      with contextlib.suppress(RuntimeError):  # already started
        tf.config.experimental.set_memory_growth(gpu, True)
    self.loaded = tf.saved_model.load(directory)
    self.signature = self.loaded.signatures[model_card.SIGNATURE]
    self.precision = precision
    self.batch_images = batch_images or (GPU_BATCH_IMAGES if gpus else CPU_BATCH_IMAGES)
    self._callers = concurrent.futures.ThreadPoolExecutor(calls)

  def probabilities(self, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Scores pixels uint8 (N, 28, 28, 1).

    Returns:
      Probabilities float32 (N, 10), and how many of the N float32 decided after bfloat16.
    """
    if self.precision == 'float32' or not len(pixels):
      return self._run(pixels, False), 0
    scored = self._run(pixels, True)
    top = np.partition(scored, -2, axis=1)[:, -2:]
    close = np.flatnonzero(top[:, 1] - top[:, 0] < CLOSE_MARGIN)
    if len(close):
      scored[close] = self._run(_padded(pixels[close]), False)[: len(close)]
    return scored, len(close)

  def _run(self, pixels: np.ndarray, bfloat16: bool) -> np.ndarray:
    starts = range(0, len(pixels), self.batch_images)
    batches = [pixels[start : start + self.batch_images] for start in starts]
    with _arithmetic(bfloat16):
      return np.concatenate(
        [np.zeros((0, 10), np.float32), *self._callers.map(self._score, batches)]
      )

  def _score(self, pixels: np.ndarray) -> np.ndarray:
    """Returns the probabilities of a batch, which is scored in parts if memory does not suffice for the whole."""
    parts: list[np.ndarray] = []
    first = 0
    while first < len(pixels):
      parts.append(self._call(pixels[first : first + self.batch_images]))
      first += len(parts[-1])
    return np.concatenate(parts)

  def _call(self, pixels: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the first rows, as many as memory has room for; it asks for no more after that."""
    import tensorflow as tf

    try:
      return self.signature(pixels=tf.constant(pixels))['probabilities'].numpy()
    except tf.errors.ResourceExhaustedError:
      if len(pixels) == 1:
        raise
    self.batch_images = max(len(pixels) // 2, 1)
    return self._call(pixels[: self.batch_images])


@contextlib.contextmanager
def _arithmetic(bfloat16: bool) -> Iterator[None]:
  """Whether calls made inside may compute in bfloat16. Weights stay float32: TensorFlow's graph rewriter adds casts.

  The option is the process's, and TensorFlow keeps a function for each of its values: changing it costs microseconds.
  """
  import tensorflow as tf

  with _bfloat16_lock:
    tf.config.optimizer.set_experimental_options({'auto_mixed_precision_onednn_bfloat16': bfloat16})
    yield


def _padded(pixels: np.ndarray) -> np.ndarray:
  rows = -(-len(pixels) // ROWS_STEP) * ROWS_STEP
  return np.concatenate([pixels, np.zeros((rows - len(pixels), *pixels.shape[1:]), pixels.dtype)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without what TensorFlow writes to stderr before its log has a level: a dozen lines from each process."""
  sys.stderr.flush()
  stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(nowhere)


class Handler(ModelHandler[chunk.Decoded, chunk.Scored, Model]):
  """Scores chunks. To RunInference a chunk is a batch: its metrics count images. It keeps one model a process."""

  def __init__(self, model: str, precision: str, batch_images: int, threads: int):
    """
    Args:
      model: the SavedModel's directory.
      precision: auto, float32 or bfloat16.
      batch_images: images in one call, at most; 0 chooses by the device.
      threads: how many calls one process makes at the same time. Each runs on one thread of a CPU, so that what it
        computes does not depend on how many there are: oneDNN's kernels round otherwise when they share out an image.
    """
    super().__init__()
    self._model, self._precision, self._batch_images, self._threads = (
      model,
      precision,
      batch_images,
      threads,
    )

  def load_model(self) -> Model:
    process.prepare()
    with _quiet():
      with process.without_keras():
        import tensorflow as tf

      with contextlib.suppress(
        RuntimeError
      ):  # TensorFlow has started in this process, with the threads it has
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
      with files.local_copy(
        self._model
      ) as directory:  # TensorFlow's own gs:// knows fewer kinds of credentials
        model = Model(
          directory, resolve_precision(self._precision), self._batch_images, self._threads
        )
    gc.freeze()  # all this stays: looking through it for garbage costs half a second at a time, and more at the end
    return model

  def should_skip_batching(self) -> bool:
    return True

  def get_num_bytes(self, batch: Sequence[chunk.Decoded]) -> int:
    return batch.pixels.nbytes  # type: ignore[attr-defined]

  def run_inference(
    self,
    batch: Sequence[chunk.Decoded],
    model: Model,
    inference_args: Mapping[str, Any] | None = None,
  ) -> list[chunk.Scored]:
    decoded: chunk.Decoded = batch  # type: ignore[assignment]  # a chunk is the batch
    began = time.perf_counter()
    probabilities, rescored = model.probabilities(decoded.pixels)
    seconds = {**decoded.seconds, 'infer': time.perf_counter() - began}
    return [chunk.Scored(decoded, probabilities, model.precision, rescored, seconds)]

  def get_metrics_namespace(self) -> str:
    return 'lookbook'
