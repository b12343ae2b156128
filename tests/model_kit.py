"""Small SavedModels of any shape and classes, as trainer.main exports them but without training."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from images import model_card


class Classifier(tf.Module):
  """Scores images by how close their mean brightness is to each class's."""

  def __init__(self, image_shape: tuple[int, int, int], classes: int):
    super().__init__()
    self.centres = tf.Variable(np.linspace(0, 255, classes), dtype=tf.float32)
    spec = tf.TensorSpec([None, *image_shape], tf.uint8, 'pixels')
    self.serve_pixels = tf.function(self._probabilities, input_signature=[spec])

  def _probabilities(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    brightness = tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[1, 2, 3])
    return {'probabilities': tf.nn.softmax(-tf.abs(brightness[:, None] - self.centres))}


def export_model(
  directory: pathlib.Path,
  image_shape: tuple[int, int, int] = (28, 28, 1),
  labels: Sequence[str] = ('dark', 'grey', 'light'),
  **card: Any,
) -> model_card.ModelCard:
  """Writes a SavedModel that takes uint8 (N, *image_shape), and returns its card.

  Class i is that of images whose mean brightness is closest to 255 i / (len(labels) - 1).

  Args:
    directory: where to.
    image_shape: (height, width, channels).
    labels: the names of the classes.
    card: further fields of the ModelCard.
  """
  module = Classifier(image_shape, len(labels))
  tf.saved_model.save(module, str(directory), signatures={'serve_pixels': module.serve_pixels})
  fields = {'version': f'kit-{len(labels)}', 'preprocessing': 'fit', **card}
  written = model_card.ModelCard(labels=tuple(labels), image_shape=image_shape, **fields)
  assets = directory / 'assets'
  assets.mkdir(exist_ok=True)
  (assets / 'labels.txt').write_text(''.join(f'{label}\n' for label in labels))
  (assets / 'model_card.json').write_text(json.dumps(written.to_json()))
  return written
