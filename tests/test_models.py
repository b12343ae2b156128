"""The networks against their descriptions, and the noise that they train with."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import app

from trainer import config, data, datasets, fit, layers, models, noise, plain_keras
from trainer.config import NETWORKS

FASHION = models.Spec((28, 28, 1), 10)


def at(step: int, first_row: int = 0, seed: int = 7):
  return noise.at(
    noise.Address(seed, tf.constant(step, tf.int64), tf.constant(first_row, tf.int64))
  )


def notebooks_network(dtype: str = 'float32', spec: models.Spec = FASHION) -> keras.Sequential:
  """Returns the seed notebook's CNN, from pixels (N, height, width, channels) in [0, 1]."""
  layers = keras.layers
  return keras.Sequential(
    [
      layers.Input(spec.image_shape, dtype=dtype),
      layers.Conv2D(32, (3, 3), activation='relu', kernel_initializer='he_normal', dtype=dtype),
      layers.MaxPooling2D((2, 2), dtype=dtype),
      layers.Dropout(0.2, dtype=dtype),
      layers.Conv2D(64, (3, 3), activation='relu', dtype=dtype),
      layers.MaxPooling2D((2, 2), dtype=dtype),
      layers.Dropout(0.2, dtype=dtype),
      layers.Conv2D(128, (3, 3), activation='relu', dtype=dtype),
      layers.Dropout(0.5, dtype=dtype),
      layers.Flatten(dtype=dtype),
      layers.Dense(128, activation='relu', dtype=dtype),
      layers.Dense(spec.num_classes, activation='softmax', dtype=dtype),
    ]
  )


def without_dropout(model: keras.Sequential) -> keras.Sequential:
  """Returns the model of the same layers but its dropouts."""
  kept = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)]
  return keras.Sequential(
    [keras.layers.Input(model.input_shape[1:], dtype=model.inputs[0].dtype), *kept]
  )


def rates(model: keras.Sequential) -> list[float]:
  """Returns the rates of the model's dropouts."""
  return [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


class TestSeed:
  def test_has_the_notebooks_parameters_and_initial_weights(self):
    model = models.seed(FASHION)
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert model.count_params() == 241_546
    assert isinstance(first.kernel_initializer, keras.initializers.HeNormal)

  @pytest.mark.parametrize('shape', [(28, 28, 1), (18, 19, 3), (32, 32, 3), (33, 30, 1)])
  def test_is_the_same_function_as_the_notebooks(self, shape):
    spec = models.Spec(shape, 7)
    ours, notebooks = models.seed(spec), notebooks_network(spec=spec)
    notebooks.set_weights(ours.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (100, *shape), np.uint8)
    np.testing.assert_allclose(
      ours(pixels), notebooks(pixels / np.float32(255)), rtol=1e-5, atol=1e-7
    )

  def test_drops_what_the_notebooks_network_drops(self):
    assert rates(models.seed(FASHION)) == rates(notebooks_network()) == [0.2, 0.2, 0.5]

  def test_learns_as_the_notebooks_network_does(self):
    """Without dropout, which is random, the gradient of every weight is the notebook's.

    In float64: where rounding decides which of four values is the largest, other weights learn.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    labels = np.arange(64) % 10
    ours, notebooks = (
      without_dropout(network)
      for network in (models.seed(FASHION, 'float64'), notebooks_network('float64'))
    )
    notebooks.set_weights(ours.get_weights())
    gradients = []
    for model, images in ((ours, pixels), (notebooks, pixels / 255)):
      with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
      gradients.append(tape.gradient(loss, model.trainable_variables))
    for ours_is, theirs_is in zip(*gradients):
      np.testing.assert_allclose(ours_is, theirs_is, rtol=1e-4, atol=1e-5 * np.abs(theirs_is).max())


class TestEveryNetwork:
  @pytest.mark.parametrize('policy', ['float32', 'mixed_bfloat16', 'mixed_float16'])
  @pytest.mark.parametrize('name', NETWORKS)
  def test_answers_in_float32_with_probabilities(self, name, policy):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    probabilities = models.build(name, FASHION, policy)(pixels, training=False)
    assert probabilities.dtype == tf.float32
    np.testing.assert_allclose(probabilities.numpy().sum(axis=1), 1, rtol=1e-5)

  @pytest.mark.parametrize('name', NETWORKS)
  def test_takes_the_smallest_images_that_it_is_said_to_take(self, name):
    side = NETWORKS[name].min_side
    models.check_image_shape(name, (side, side, 1))
    model = models.build(name, models.Spec((side, side, 1), 3))
    assert model(np.zeros((2, side, side, 1), np.uint8)).shape == (2, 3)
    with pytest.raises(app.UsageError, match=f'--model={name}: takes images of {side}x{side}'):
      models.check_image_shape(name, (side - 1, side, 1))

  @pytest.mark.parametrize('shape', [(16, 17, 3), (64, 64, 3), (120, 90, 1)])
  @pytest.mark.parametrize('name', NETWORKS)
  def test_of_images_of_any_size_is_the_same_in_plain_keras(self, name, shape):
    spec = models.Spec(shape, 2)
    ours = models.build(name, spec)
    plain = plain_keras.build(name, spec, ours.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    np.testing.assert_allclose(ours(pixels), plain(pixels), rtol=1e-4, atol=1e-6)

  @pytest.mark.parametrize('name', NETWORKS)
  def test_has_few_weights_whatever_the_size_of_its_images(self, name):
    assert models.build(name, models.Spec((1024, 1024, 3), 2)).count_params() < 4e6

  @pytest.mark.parametrize('name', NETWORKS)
  def test_takes_ten_thousand_classes(self, name):
    model = models.build(name, models.Spec((16, 16, 1), 10_000))
    assert model(np.zeros((2, 16, 16, 1), np.uint8)).shape == (2, 10_000)


class TestBest:
  def test_has_less_than_a_million_parameters(self):
    assert models.best(FASHION).count_params() == 472_876

  def test_its_convolution_is_that_of_the_standardised_kernel(self):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 7, 7, 5)).astype(np.float32)
    layer = layers.ScaledConv2D(6)
    layer.build(images.shape)
    kernel, gain, bias = (
      random.normal(1, 2, weight.shape).astype(np.float32) for weight in layer.weights
    )
    layer.set_weights([kernel, gain, bias])
    standardised = (
      (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) * np.sqrt(3 * 3 * 5)) * gain
    )
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # (2, 7, 7, 5, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum('nhwcij,ijco->nhwo', windows, standardised) + bias
    np.testing.assert_allclose(layer(images), expected, rtol=1e-3, atol=1e-4)

  def test_keeps_the_variance_of_what_passes(self):
    x = tf.constant(np.random.default_rng(0).normal(size=(50, 14, 14, 64)), tf.float32)
    for _ in range(8):
      x = layers.ScaledConv2D(64)(layers.scaled_relu(x))
    inside = x.numpy()[:, 3:-3, 3:-3]  # at the edges zeros come in
    assert 0.5 < inside.var() < 1.5

  def test_a_block_begins_close_to_the_identity(self):
    shortcut, branch = np.ones((2, 3, 3, 4), np.float32), np.full((2, 3, 3, 4), 5, np.float32)
    np.testing.assert_allclose(
      layers.AddScaled()([shortcut, branch]), shortcut + 0.2 * branch, rtol=1e-6
    )


class TestPooledConv2D:
  def test_has_the_values_and_gradients_of_kerass_layers(self):
    images = tf.constant(np.random.default_rng(0).normal(size=(3, 9, 8, 4)), tf.float32)
    ours = layers.PooledConv2D(7, 3)
    theirs = keras.Sequential(
      [keras.layers.Conv2D(7, 3, activation='relu'), keras.layers.MaxPooling2D(2)]
    )
    results = []
    for layer in (ours, theirs):
      layer.build(images.shape)
      layer.set_weights([*ours.get_weights()[:1], np.linspace(-1, 1, 7)])
      with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(outputs**2)
      results.append(
        [
          outputs,
          layer(images, training=False),
          *tape.gradient(loss, [images, *layer.trainable_variables]),
        ]
      )
    np.testing.assert_array_equal(results[0][0], results[0][1])  # in training and not, to the bit
    for is_ours, is_theirs in zip(*results):
      np.testing.assert_allclose(is_ours, is_theirs, rtol=1e-4, atol=1e-5)


class TestDropout:
  def test_drops_its_rate_and_keeps_the_mean(self):
    with at(step=3):
      out = layers.Dropout(0.2, stream=0)(tf.ones([500, 13, 13, 32]), training=True).numpy()
    # 2.7 million draws: sigma is 2.4e-4
    np.testing.assert_allclose((out == 0).mean(), 0.2, atol=1e-3)
    np.testing.assert_allclose(np.unique(out), [0, 1.25])

  def test_does_nothing_when_not_training(self):
    out = layers.Dropout(0.5, stream=0)(tf.ones([4, 3]), training=False)
    np.testing.assert_array_equal(out, np.ones([4, 3]))

  def test_refuses_to_train_without_an_address(self):
    with pytest.raises(RuntimeError, match=r'noise\.at'):
      layers.Dropout(0.5, stream=0)(tf.ones([4, 3]), training=True)


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
    # 16 cells of 62,500 expected: sigma is 242
    counts = np.bincount(bits.ravel() >> 12, minlength=16)
    assert abs(counts - 62_500).max() < 5 * 242


class TestConv2D:
  def test_has_the_values_and_gradients_of_keras(self):
    images = tf.constant(np.random.default_rng(0).normal(size=(3, 5, 6, 4)), tf.float32)
    kinds = (keras.layers.Conv2D, layers.Conv2D)
    both = [kind(7, (3, 2), activation='relu') for kind in kinds]
    results = []
    for layer in both:
      layer.build(images.shape)
      layer.set_weights(both[0].get_weights())
      with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images)
        loss = tf.reduce_sum(outputs**2)
      results.append([outputs, *tape.gradient(loss, [images, *layer.trainable_variables])])
    for theirs, ours in zip(*results):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


class TestAverages:
  @pytest.mark.parametrize(
    'layer', [keras.layers.BatchNormalization(), keras.layers.Dense(10, trainable=False)]
  )
  def test_of_weights_that_are_not_trained_are_refused(self, layer, monkeypatch):
    def build(spec: models.Spec, dtype: str = 'float32') -> keras.Model:
      pixels = keras.layers.Input(spec.image_shape, dtype='uint8')
      flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
      return keras.Model(pixels, keras.layers.Dense(10)(layer(flat)))

    monkeypatch.setitem(models.BUILDERS, 'seed', build)
    images = data.Examples(np.zeros((8, 28, 28, 1), np.uint8), np.zeros(8, np.int64))
    dataset = datasets.Dataset(
      'x', 'x', (28, 28, 1), tuple('0123456789'), {}, lambda _: images, False, 'none'
    )
    recipe = config.Recipe(precision='float32', global_batch_size=8)
    with pytest.raises(ValueError, match=r'seed: .* is not trained.*no batch statistics'):
      fit.Trainer(tf.distribute.get_strategy(), recipe, dataset, images)
