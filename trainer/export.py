"""The SavedModel: named and typed signatures, the labels, and a card that says where it came from."""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from storage import files
from trainer import models

SCORED_ROWS = 1000  # images at a time


class Classifier(tf.Module):
  """A trained network behind the two signatures that score images.

  Both answer with probabilities float32 (N, 10), label_index int64 (N,) and label string (N,).
  """

  def __init__(self, network: keras.Model, labels: Sequence[str]):
    super().__init__()
    # A partial hides the network from the export. Its Keras variables would be saved under names that
    # only Python's loader connects with what the functions read; TensorFlow Serving, the C API, the
    # loader of TensorFlow 1 and TFLite would not find the variables. So the tf.Variables are tracked.
    self.weights = [variable.value for variable in network.weights]
    self.predict = functools.partial(network, training=False)
    self.labels = tf.constant(labels)

  @tf.function(input_signature=[tf.TensorSpec([None, *models.IMAGE_SHAPE], tf.uint8, 'pixels')])
  def serve_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores pixels, uint8 (N, 28, 28, 1): 0 is the background, as in Fashion-MNIST."""
    rows = tf.shape(pixels)[0]
    # oneDNN's fused convolutions refuse a batch of no images, so that one gets an image to score and to leave out.
    one_more = tf.concat([pixels, tf.zeros([1, *models.IMAGE_SHAPE], tf.uint8)], axis=0)
    at_least_one = one_more[: tf.maximum(rows, 1)]
    probabilities = self.predict(at_least_one)[:rows]
    index = tf.argmax(probabilities, axis=1)
    return {
      'probabilities': probabilities,
      'label_index': index,
      'label': tf.gather(self.labels, index),
    }

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'encoded')])
  def serve_encoded(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
    """Scores PNG, JPEG, GIF, BMP or WebP files, string (N,), each a 28x28 image as Fashion-MNIST draws them."""
    spec = tf.TensorSpec(models.IMAGE_SHAPE, tf.uint8)
    return self.serve_pixels(tf.map_fn(_decode, encoded, fn_output_signature=spec))


def _decode(encoded: tf.Tensor) -> tf.Tensor:
  """One file, string (), to grey pixels, uint8 (28, 28, 1)."""
  rgb = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  message = 'serve_encoded takes 28x28 images; make others so first, as the batch scorer does'
  right = tf.debugging.assert_equal(tf.shape(rgb), [28, 28, 3], message)
  with tf.control_dependencies([right]):  # or what follows may fail first, and say less
    return tf.ensure_shape(tf.image.rgb_to_grayscale(rgb), models.IMAGE_SHAPE)


def classifier(model: str, weights: Sequence[np.ndarray], labels: Sequence[str]) -> Classifier:
  """The network called `model` with these weights, in float32, ready to score and to save."""
  network = models.MODELS[model].build('float32')
  network.set_weights(weights)
  return Classifier(network, labels)


def score(served: Classifier, pixels: np.ndarray) -> np.ndarray:
  """Probabilities, float32 (N, 10), of the images, uint8 (N, 28, 28, 1), by the very function that is saved."""
  starts = range(0, len(pixels), SCORED_ROWS)
  return np.concatenate(
    [served.serve_pixels(pixels[i : i + SCORED_ROWS])['probabilities'].numpy() for i in starts]
  )


def version(model: str, weights: Sequence[np.ndarray]) -> str:
  """A name that two exports share only where their weights are the same bits: `seed-1a2b3c4d5e6f`."""
  digest = hashlib.sha256()
  for array in weights:
    digest.update(np.ascontiguousarray(array).tobytes())
  return f'{model}-{digest.hexdigest()[:12]}'


def save(served: Classifier, card: dict, directory: str) -> None:
  """Writes the SavedModel with its labels and `card` to `directory`, local or gs://, whole or not at all."""
  with tempfile.TemporaryDirectory() as scratch:
    contents = {
      'labels.txt': ''.join(f'{label.decode()}\n' for label in served.labels.numpy()),
      'model_card.json': json.dumps(card, indent=2) + '\n',
    }
    assets = {name: os.path.join(scratch, name) for name in contents}
    for name, text in contents.items():
      with open(assets[name], 'w') as file:
        file.write(text)
    served.assets = [tf.saved_model.Asset(path) for path in assets.values()]
    signatures = {
      'serving_default': served.serve_pixels,
      'serve_pixels': served.serve_pixels,
      'serve_encoded': served.serve_encoded,
    }
    finished = os.path.join(scratch, 'export')
    tf.saved_model.save(served, finished, signatures=signatures)
    files.publish(finished, directory, last='saved_model.pb')
