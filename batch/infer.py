"""Beam's RunInference over a SavedModel, a whole chunk at a time."""

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from batch import chunk, timing
from images import model_card
from runtime import process, processor
from storage import files

# Of the 70,000 Fashion-MNIST images, 50 to 110 get another class in bfloat16 than in float32. Over
# six trained seed CNNs and a `best`, none of these had its two most likely classes more than 0.16
# apart. Images whose classes are closer than this, one in 30, are rescored in float32.
RESCORE_MARGIN = 0.2
# Rescored batches are padded to a multiple: each new size costs oneDNN a compilation.
RESCORE_BATCH_STEP = 8

CPU_BATCH_IMAGES = 256  # a call's tensors should fit a core's share of the cache
GPU_BATCH_IMAGES = 2048

_bfloat16_lock = threading.Lock()


def resolve_precision(precision: str) -> str:
  """Returns the precision that `auto` selects on this processor, or `precision` itself."""
  if precision != 'auto':
    return precision
  return 'bfloat16' if processor.computes_bfloat16() else 'float32'


class Model:
  """A loaded SavedModel and the batch size that fits in memory.

  The object that tf.saved_model.load returns must live as long as its signatures.
  """

  def __init__(self, directory: str, precision: str, batch_images: int, calls: int = 1):
    """Loads the model.

    Args:
      directory: the SavedModel.
      precision: float32 or bfloat16.
      batch_images: maximum number of images per call; 0 chooses by the device.
      calls: number of concurrent calls.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices('GPU')
    for gpu in gpus:
      with contextlib.suppress(RuntimeError):  # already started
        tf.config.experimental.set_memory_growth(gpu, True)
    self.loaded = tf.saved_model.load(directory)
    self.signature = self.loaded.signatures[model_card.SIGNATURE]
    self.num_classes = self.signature.structured_outputs['probabilities'].shape[-1]
    self.precision = precision
    self.batch_images = batch_images or (GPU_BATCH_IMAGES if gpus else CPU_BATCH_IMAGES)
    self._callers = concurrent.futures.ThreadPoolExecutor(calls)

  def probabilities(self, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Scores images.

    Args:
      pixels: uint8 (N, height, width, channels).

    Returns:
      Probabilities, float32 (N, classes), and how many of the N were rescored in float32.
    """
    if self.precision == 'float32' or not len(pixels):
      return self._run(pixels, False), 0
    scored = self._run(pixels, True)
    top = np.partition(scored, -2, axis=1)[:, -2:]
    close = np.flatnonzero(top[:, 1] - top[:, 0] < RESCORE_MARGIN)
    if len(close):
      scored[close] = self._run(_pad(pixels[close]), False)[: len(close)]
    return scored, len(close)

  def _run(self, pixels: np.ndarray, bfloat16: bool) -> np.ndarray:
    starts = range(0, len(pixels), self.batch_images)
    batches = [pixels[start : start + self.batch_images] for start in starts]
    none = np.zeros((0, self.num_classes), np.float32)
    with _arithmetic(bfloat16):
      return np.concatenate([none, *self._callers.map(self._score, batches)])

  def _score(self, pixels: np.ndarray) -> np.ndarray:
    """Returns the probabilities of a batch, scored in parts if the whole does not fit in memory."""
    parts: list[np.ndarray] = []
    first = 0
    while first < len(pixels):
      parts.append(self._call(pixels[first : first + self.batch_images]))
      first += len(parts[-1])
    return np.concatenate(parts)

  def _call(self, pixels: np.ndarray) -> np.ndarray:
    """Scores the first rows, halving the batch size for good until it fits in memory."""
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
  """Sets whether calls in the block may compute in bfloat16.

  Weights stay float32; TensorFlow's graph rewriter adds casts. The option applies to the process.
  TensorFlow keeps a function for each of its values, so that changing it costs microseconds.
  """
  import tensorflow as tf

  with _bfloat16_lock:
    tf.config.optimizer.set_experimental_options({'auto_mixed_precision_onednn_bfloat16': bfloat16})
    yield


def _pad(pixels: np.ndarray) -> np.ndarray:
  """Appends black images up to a multiple of RESCORE_BATCH_STEP."""
  rows = math.ceil(len(pixels) / RESCORE_BATCH_STEP) * RESCORE_BATCH_STEP
  return np.concatenate([pixels, np.zeros((rows - len(pixels), *pixels.shape[1:]), pixels.dtype)])


class Handler(ModelHandler[chunk.Decoded, chunk.Scored, Model]):
  """Scores chunks, with one model per process.

  To RunInference a chunk is a batch; its metrics count images.
  """

  def __init__(self, model: str, precision: str, batch_images: int, threads: int):
    """Records the options.

    Args:
      model: the SavedModel's directory.
      precision: auto, float32 or bfloat16.
      batch_images: maximum number of images per call; 0 chooses by the device.
      threads: number of concurrent calls per process. Each runs on one thread of a CPU, so that its
        results do not depend on their number: when oneDNN's kernels split an image between threads,
        they round differently.
    """
    super().__init__()
    self._model = model
    self._precision = precision
    self._batch_images = batch_images
    self._threads = threads
    self._msec = timing.stage_counter('infer')

  def load_model(self) -> Model:
    """Returns the model, once per process."""
    process.prepare()
    with process.without_garbage_collection(), process.silent_stderr():
      _start_tensorflow()
      # TensorFlow's own gs:// supports fewer kinds of credentials.
      with files.local_copy(self._model) as directory:
        precision = resolve_precision(self._precision)
        model = Model(directory, precision, self._batch_images, self._threads)
    return model

  def should_skip_batching(self) -> bool:
    """Returns True: a chunk is a batch already."""
    return True

  def get_num_bytes(self, batch: Sequence[chunk.Decoded]) -> int:
    """Returns the size of a chunk's pixels."""
    return _as_chunk(batch).pixels.nbytes

  def run_inference(
    self,
    batch: Sequence[chunk.Decoded],
    model: Model,
    inference_args: Mapping[str, Any] | None = None,
  ) -> list[chunk.Scored]:
    """Returns the scored chunk."""
    decoded = _as_chunk(batch)
    seconds = dict(decoded.seconds)
    with timing.timed(seconds, 'infer', self._msec):
      probabilities, rescored = model.probabilities(decoded.pixels)
    return [chunk.Scored(decoded, probabilities, model.precision, rescored, seconds)]

  def get_metrics_namespace(self) -> str:
    """Returns the namespace of RunInference's own metrics."""
    return timing.NAMESPACE


def _as_chunk(batch: Sequence[chunk.Decoded]) -> chunk.Decoded:
  """Returns the batch, which is one chunk, because batching is skipped."""
  return batch  # type: ignore[return-value]


def _start_tensorflow() -> None:
  """Imports TensorFlow without Keras, and gives each operation one thread.

  Keras takes 3 of 8 seconds (AVX2, 2 cores), and a SavedModel does without.
  """
  with process.without('keras'):
    import tensorflow as tf

  with contextlib.suppress(RuntimeError):  # already started in this process, with other settings
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
