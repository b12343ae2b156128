"""The model card, the contract that the trainer writes and the scorer reads.

It is assets/model_card.json in a SavedModel, beside assets/labels.txt with one label per line.
Without TensorFlow.
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app

from images import ImageShape
from storage import files

SIGNATURE = 'serve_pixels'
PIXEL_BIN_EDGES = tuple(range(0, 257, 16))  # ranges of brightness that pixels are counted in
PIXEL_BINS = len(PIXEL_BIN_EDGES) - 1
CHANNELS_BY_PREPROCESSING = {'fashion_mnist': (1,), 'fit': (1, 3)}  # see photo.CONVERSIONS
DEFAULT_SHAPE = (28, 28, 1)  # of cards that have no `input`
REMEDY = 'pass the export/1 directory of a finished run of trainer.main'


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """The contract between trainer and scorer.

  Attributes:
    version: names the weights.
    labels: the classes' names in index order.
    image_shape: (height, width, channels) of the uint8 images that the network takes.
    background: brightness of their background.
    preprocessing: name of the conversion that makes such an image of any picture.
    training_pixels: fractions of the training pixels by range of brightness; () if unknown.
    training_classes: fractions of the training images by label; () if unknown.
  """

  version: str
  labels: tuple[str, ...]
  image_shape: ImageShape
  background: int = 0
  preprocessing: str = 'fashion_mnist'
  training_pixels: tuple[float, ...] = ()
  training_classes: tuple[float, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns the card's part of model_card.json; `from_json` reads it."""
    return {
      'version': self.version,
      'labels': list(self.labels),
      'input': {
        'shape': list(self.image_shape),
        'dtype': 'uint8',
        'background': self.background,
        'preprocessing': self.preprocessing,
      },
      'training_distribution': {
        'pixel_histogram': {
          'edges': list(PIXEL_BIN_EDGES),
          'fractions': list(self.training_pixels),
        },
        'class_fractions': list(self.training_classes),
      },
    }


def from_json(card: Any, labels: Sequence[str]) -> ModelCard:
  """Returns the card that parsed JSON describes. Keys other than `version` may be missing.

  Raises:
    ValueError: a value is not what it must be; the message names it.
  """
  card = _mapping(card, 'the card')
  version = card.get('version')
  if not isinstance(version, str) or not version.isprintable() or not version:
    raise ValueError(f'version is {reprlib.repr(version)}, not a name')
  if not labels:
    raise ValueError('there are no labels')
  spec = _mapping(card.get('input', {}), 'input')
  if spec.get('dtype', 'uint8') != 'uint8':
    raise ValueError(f'input dtype is {reprlib.repr(spec["dtype"])}, not uint8')
  shape = _image_shape(spec.get('shape', DEFAULT_SHAPE))
  background = spec.get('background', 0)
  if not _is_int(background) or not 0 <= background <= 255:
    raise ValueError(f'input background is {reprlib.repr(background)}, not 0 to 255')
  distribution = _mapping(card.get('training_distribution', {}), 'training_distribution')
  histogram = _mapping(distribution.get('pixel_histogram', {}), 'pixel_histogram')
  return ModelCard(
    version=version,
    labels=tuple(labels),
    image_shape=shape,
    background=background,
    preprocessing=_preprocessing(spec.get('preprocessing'), shape[2]),
    training_pixels=_fractions(histogram.get('fractions', []), PIXEL_BINS, 'pixel_histogram'),
    training_classes=_fractions(
      distribution.get('class_fractions', []), len(labels), 'class_fractions'
    ),
  )


def read(model_dir: str) -> ModelCard:
  """Reads a SavedModel's labels and model card, without TensorFlow.

  Raises:
    app.UsageError: it is not there, or is not a model that the scorer can use.
  """
  saved_model = files.join(model_dir, 'saved_model.pb')
  assets = files.join(model_dir, 'assets')
  if not files.exists(saved_model):
    raise app.UsageError(f'--model={model_dir}: has no saved_model.pb; {REMEDY}')
  try:
    graph = files.read(saved_model)
    labels = files.read(files.join(assets, 'labels.txt')).decode().split('\n')[:-1]
    card = from_json(json.loads(files.read(files.join(assets, 'model_card.json'))), labels)
  except OSError as error:
    raise app.UsageError(
      f'--model={model_dir}: its assets cannot be read ({type(error).__name__}: {error}); {REMEDY}'
    ) from error
  except (ValueError, RecursionError) as error:
    raise app.UsageError(
      f'--model={model_dir}: its model card or labels are invalid: {error}; {REMEDY}'
    ) from error
  if SIGNATURE.encode() not in graph:
    raise app.UsageError(f'--model={model_dir}: has no signature {SIGNATURE}; {REMEDY}')
  return card


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(f'{name} is {reprlib.repr(value)}, not an object')
  return value


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _image_shape(value: Any) -> ImageShape:
  """Returns (height, width, channels) if `value` is three positive ints, the last one 1 or 3."""
  is_shape = isinstance(value, list | tuple) and len(value) == 3
  if not is_shape or not all(_is_int(size) and size > 0 for size in value):
    raise ValueError(f'input shape is {reprlib.repr(value)}, not [height, width, channels]')
  height, width, channels = value
  if channels not in (1, 3):
    raise ValueError(f'input shape is {value!r}: {channels} channels, not 1 or 3')
  return height, width, channels


def _preprocessing(value: Any, channels: int) -> str:
  """Returns the conversion's name; of a card without one, the first that takes `channels`."""
  names = [name for name, takes in CHANNELS_BY_PREPROCESSING.items() if channels in takes]
  if value is None:
    return names[0]
  if value not in names:
    raise ValueError(
      f'input preprocessing is {reprlib.repr(value)}; with {channels} channels it must be one of '
      f'{", ".join(names)}'
    )
  return value


def _fractions(value: Any, count: int, name: str) -> tuple[float, ...]:
  """Returns `count` fractions, or () if there are none."""
  if not isinstance(value, list) or len(value) not in (0, count):
    raise ValueError(f'{name} is {reprlib.repr(value)}, not {count} fractions')
  if not all(isinstance(part, int | float) and 0 <= part <= 1 for part in value):
    raise ValueError(f'{name} is {reprlib.repr(value)}, not {count} fractions')
  if value and not any(value):
    raise ValueError(f'{name} is zero everywhere')
  return tuple(value)
