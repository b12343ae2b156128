"""The SavedModel: named and typed signatures, the labels, and the model card."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from images import ImageShape
from storage import files
from trainer import data, models

MAX_ROWS_PER_CALL = 1000


class Classifier(tf.Module):
  """A trained network with the two signatures that score images.

  `serve_pixels` takes pixels, uint8 (N, height, width, channels), with the background of the
  training images. `serve_encoded` takes PNG, JPEG, GIF, BMP or WebP files, string (N,), of images
  of that size. Both return probabilities float32 (N, classes), label_index int64 (N,) and label
  string (N,).
  """

  def __init__(self, network: keras.Model, image_shape: ImageShape, labels: Sequence[str]):
    super().__init__()
    # A partial hides the network from the export. Its Keras variables would be saved under names
    # that only Python's loader connects with what the functions read; TensorFlow Serving, the C
    # API, the loader of TensorFlow 1 and TFLite would not find them. So tf.Variables are tracked.
    self.weights = [variable.value for variable in network.weights]
    self.predict = functools.partial(network, training=False)
    self.labels = tf.constant(labels)
    self.image_shape = tf.TensorShape(image_shape)
    pixels = tf.TensorSpec([None, *image_shape], tf.uint8, 'pixels')
    encoded = tf.TensorSpec([None], tf.string, 'encoded')
    self.serve_pixels = tf.function(self._score_pixels, input_signature=[pixels])
    self.serve_encoded = tf.function(self._score_encoded, input_signature=[encoded])

  def _score_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    rows = tf.shape(pixels)[0]
    # oneDNN's fused convolutions refuse a batch of no images, so an empty one gets an image that is
    # left out afterwards.
    one_more = tf.concat([pixels, tf.zeros([1, *self.image_shape], tf.uint8)], axis=0)
    at_least_one = one_more[: tf.maximum(rows, 1)]
    probabilities = self.predict(at_least_one)[:rows]
    index = tf.argmax(probabilities, axis=1)
    return {
      'probabilities': probabilities,
      'label_index': index,
      'label': tf.gather(self.labels, index),
    }

  def _score_encoded(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
    spec = tf.TensorSpec(self.image_shape, tf.uint8)
    return self.serve_pixels(tf.map_fn(self._decode, encoded, fn_output_signature=spec))

  def _decode(self, encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one file, string (), to pixels, uint8 (height, width, channels)."""
    height, width, channels = self.image_shape
    rgb = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    message = (
      f'serve_encoded takes {height}x{width} images; resize others first, as the batch scorer does'
    )
    right = tf.debugging.assert_equal(tf.shape(rgb), [height, width, 3], message)
    with tf.control_dependencies([right]):  # or what follows may fail first, with less to say
      pixels = tf.image.rgb_to_grayscale(rgb) if channels == 1 else tf.identity(rgb)
      return tf.ensure_shape(pixels, self.image_shape)


def build_classifier(
  model: str, spec: models.Spec, weights: Sequence[np.ndarray], labels: Sequence[str]
) -> Classifier:
  """Returns the network called `model` with these weights, in float32, ready to score and save."""
  network = models.build(model, spec)
  network.set_weights(weights)
  return Classifier(network, spec.image_shape, labels)


def predict(classifier: Classifier, pixels: data.Pixels) -> np.ndarray:
  """Scores images, uint8 (N, height, width, channels), with the very function that is saved.

  Returns:
    probabilities, float32 (N, classes).
  """
  parts = [
    classifier.serve_pixels(block)['probabilities'].numpy()
    for block in data.blocks(pixels, MAX_ROWS_PER_CALL)
  ]
  return np.concatenate(parts)


def version(model: str, weights: Sequence[np.ndarray]) -> str:
  """Returns a name that two exports share only if their weights are bit for bit the same.

  For example `seed-1a2b3c4d5e6f`.
  """
  digest = hashlib.sha256()
  for array in weights:
    digest.update(np.ascontiguousarray(array).tobytes())
  return f'{model}-{digest.hexdigest()[:12]}'


def save(classifier: Classifier, card: Mapping, directory: str) -> None:
  """Writes the SavedModel with its labels and `card` to `directory`, local or gs://.

  It appears whole or not at all.
  """
  with tempfile.TemporaryDirectory() as scratch:
    contents = {
      'labels.txt': ''.join(f'{label.decode()}\n' for label in classifier.labels.numpy()),
      'model_card.json': json.dumps(card, indent=2) + '\n',
    }
    assets = {name: os.path.join(scratch, name) for name in contents}
    for name, text in contents.items():
      with open(assets[name], 'w', encoding='utf-8') as file:
        file.write(text)
    classifier.assets = [tf.saved_model.Asset(path) for path in assets.values()]
    signatures = {
      'serving_default': classifier.serve_pixels,
      'serve_pixels': classifier.serve_pixels,
      'serve_encoded': classifier.serve_encoded,
    }
    finished = os.path.join(scratch, 'export')
    tf.saved_model.save(classifier, finished, signatures=signatures)
    files.publish(finished, directory, last='saved_model.pb')
