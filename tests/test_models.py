"""The networks against their descriptions, and the noise that they train with."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import fit, models, noise


def at(step: int, first_row: int = 0, seed: int = 7):
  return noise.at(noise.Address(seed, tf.constant(step, tf.int64), tf.constant(first_row, tf.int64)))


class TestSeed:
  def test_is_the_notebooks_network_layer_for_layer(self):
    described = []
    for layer in models.seed().layers:
      match layer:
        case keras.layers.Conv2D():
          described.append(('conv', layer.filters, layer.kernel_size, layer.activation.__name__))
        case keras.layers.MaxPooling2D():
          described.append(('pool', layer.pool_size))
        case keras.layers.Dropout():
          described.append(('dropout', layer.rate))
        case keras.layers.Dense():
          described.append(('dense', layer.units, layer.activation.__name__))
        case keras.layers.Rescaling():
          described.append(('scale', layer.scale))
        case keras.layers.Flatten():
          described.append('flatten')
    assert described == [
      ('scale', 1 / 255),
      ('conv', 32, (3, 3), 'relu'),
      ('pool', (2, 2)),
      ('dropout', 0.2),
      ('conv', 64, (3, 3), 'relu'),
      ('pool', (2, 2)),
      ('dropout', 0.2),
      ('conv', 128, (3, 3), 'relu'),
      ('dropout', 0.5),
      'flatten',
      ('dense', 128, 'relu'),
      ('dense', 10, 'softmax'),
    ]

  def test_has_the_notebooks_parameters_and_initial_weights(self):
    model = models.seed()
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert model.count_params() == 241_546
    assert isinstance(first.kernel_initializer, keras.initializers.HeNormal)

  def test_is_the_same_function_as_the_notebooks(self):
    layers = keras.layers
    notebooks = keras.Sequential(
      [
        layers.Input((28, 28, 1)),
        layers.Conv2D(32, (3, 3), activation='relu', kernel_initializer='he_normal'),
        layers.MaxPooling2D((2, 2)),
        layers.Dropout(0.2),
        layers.Conv2D(64, (3, 3), activation='relu'),
        layers.MaxPooling2D((2, 2)),
        layers.Dropout(0.2),
        layers.Conv2D(128, (3, 3), activation='relu'),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(128, activation='relu'),
        layers.Dense(10, activation='softmax'),
      ]
    )
    ours = models.seed()
    notebooks.set_weights(ours.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), np.uint8)
    np.testing.assert_allclose(ours(pixels), notebooks(pixels / np.float32(255)), rtol=1e-5, atol=1e-7)

  @pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16', 'mixed_float16'])
  def test_answers_in_float32_with_probabilities(self, policy):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    probabilities = models.seed(policy)(pixels, training=False)
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(probabilities.numpy().sum(axis=1), 1, rtol=1e-5)


class TestDropout:
  def test_drops_its_rate_and_keeps_the_mean(self):
    with at(step=3):
      out = models.Dropout(0.2, stream=0)(tf.ones([500, 13, 13, 32]), training=True).numpy()
    np.testing.assert_allclose((out == 0).mean(), 0.2, atol=1e-3)  # 2.7 million draws: sigma is 2.4e-4
    np.testing.assert_allclose(np.unique(out), [0, 1.25])

  def test_does_nothing_when_not_training(self):
    out = models.Dropout(0.5, stream=0)(tf.ones([4, 3]), training=False)
    np.testing.assert_array_equal(out, np.ones([4, 3]))

  def test_refuses_to_train_without_an_address(self):
    with pytest.raises(RuntimeError, match=r'noise\.at'):
      models.Dropout(0.5, stream=0)(tf.ones([4, 3]), training=True)


class TestNoise:
  @pytest.mark.parametrize('per_row', [1, 7, 8, 5408])
  def test_a_replicas_rows_are_a_slice_of_the_whole_batch(self, per_row):
    with at(step=5):
      whole = noise.bits(2, tf.constant(12), per_row).numpy()
    with at(step=5, first_row=8):
      part = noise.bits(2, tf.constant(4), per_row).numpy()
    np.testing.assert_array_equal(part, whole[8:])

  def test_seed_step_and_stream_each_give_other_bits(self):
    draws = set()
    for seed, step, stream in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]:
      with at(step=step, seed=seed):
        draws.add(noise.bits(stream, tf.constant(3), 16).numpy().tobytes())
    assert len(draws) == 4

  def test_bits_are_uniform(self):
    with at(step=0):
      bits = noise.bits(0, tf.constant(1000), 1000).numpy()
    counts = np.bincount(bits.ravel() >> 12, minlength=16)  # 16 cells of 62,500 expected: sigma is 242
    assert abs(counts - 62_500).max() < 5 * 242


class TestConv2D:
  def test_has_the_values_and_gradients_of_keras(self):
    images = tf.constant(np.random.default_rng(0).normal(size=(3, 5, 6, 4)), tf.float32)
    layers = [layer(7, (3, 2), activation='relu') for layer in (keras.layers.Conv2D, models.Conv2D)]
    results = []
    for layer in layers:
      layer.build(images.shape)
      layer.set_weights(layers[0].get_weights())
      with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images)
        loss = tf.reduce_sum(outputs**2)
      results.append([outputs, *tape.gradient(loss, [images, *layer.trainable_variables])])
    for theirs, ours in zip(*results):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


class TestFlip:
  def test_mirrors_about_half_of_the_images_whole(self):
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), np.uint8))
    with at(step=0):
      flipped = fit.flip(images).numpy()
    same = (flipped == images.numpy()).all(axis=(1, 2, 3))
    mirrored = (flipped == images.numpy()[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 400 < mirrored.sum() < 600  # sigma is 16
