"""What helps with real data: weights of classes, weights to start with, and calibration."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl import app

from images import model_card
from trainer import calibration, config, data, datasets, export, fit, models, starting

SPEC = models.Spec((16, 16, 1), 3)
RECIPE = config.Recipe(precision='float32', global_batch_size=8, learning_rate=0.1, epochs=20)


def trainer(recipe: config.Recipe, classes: list[int], labels: str = 'abc') -> fit.Trainer:
  """Returns a trainer on black images of these classes."""
  black = data.Examples(np.zeros((len(classes), 16, 16, 1), np.uint8), np.array(classes))
  dataset = datasets.Dataset('x', 'x', (16, 16, 1), tuple(labels), {}, lambda _: black, False, 'x')
  return fit.Trainer(tf.distribute.get_strategy(), recipe, dataset, black)


class TestClassWeights:
  def test_make_up_for_classes_with_fewer_images(self):
    """Of images that cannot be told apart only the classes' frequencies can be learnt."""
    answers = {}
    for kind in config.CLASS_WEIGHTS:
      recipe = dataclasses.replace(RECIPE, class_weights=kind)
      unequal = trainer(recipe, [0] * 6 + [1] * 2, labels='ab')
      unequal.train_steps(20)
      answers[kind] = unequal.model(np.zeros((1, 16, 16, 1), np.uint8)).numpy()[0]
    assert answers['equal'][0] > 0.65
    np.testing.assert_allclose(answers['balanced'], [0.5, 0.5], atol=0.01)


class TestInitFrom:
  @pytest.fixture(scope='class')
  @classmethod
  def exported(cls, tmp_path_factory) -> tuple[pathlib.Path, list[np.ndarray]]:
    """Returns an exported model of the labels a, b and c, and its weights."""
    random = np.random.default_rng(0)
    weights = [
      random.normal(size=each.shape).astype(np.float32)
      for each in models.build('seed', SPEC).get_weights()
    ]
    classifier = export.build_classifier('seed', SPEC, weights, ['a', 'b', 'c'])
    card = model_card.ModelCard('seed-0', ('a', 'b', 'c'), SPEC.image_shape, preprocessing='fit')
    home = tmp_path_factory.mktemp('model') / '1'
    export.save(classifier, card.to_json(), str(home))
    return home, weights

  @pytest.mark.parametrize(('labels', 'kept'), [('abc', None), ('abd', -2), ('ab', -2)])
  def test_takes_the_weights_but_the_last_layers_of_other_classes(self, labels, kept, exported):
    home, weights = exported
    recipe = dataclasses.replace(RECIPE, init_from=str(home))
    begun = trainer(recipe, [0, 1] * 4, labels)
    fresh = begun.model.get_weights()
    begun.start()
    for model in (begun.model, begun.averaged):
      expected = weights if kept is None else [*weights[:kept], *fresh[kept:]]
      for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)

  def test_refuses_what_does_not_fit(self, exported, tmp_path):
    home, _ = exported
    starting.check(str(home), 'seed', SPEC.image_shape)
    starting.check(str(home), 'seed')
    with pytest.raises(app.UsageError, match='is for images of 16x16x1, and these are 28x28x1'):
      starting.check(str(home), 'seed', (28, 28, 1))
    with pytest.raises(app.UsageError, match='the network seed, and this is best; pass --model=s'):
      starting.check(str(home), 'best')
    with pytest.raises(app.UsageError, match=f'--init_from={tmp_path}: has no saved_model'):
      starting.check(str(tmp_path), 'seed')


class TestCalibration:
  def test_finds_the_temperature_that_the_answers_were_given_at(self):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 5))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    too_sure = true**2 / (true**2).sum(axis=1, keepdims=True)
    assert calibration.temperature(too_sure.astype(np.float32), labels) == pytest.approx(
      2, rel=0.05
    )

  @pytest.mark.parametrize('name', config.NETWORKS)
  def test_divides_the_logits_of_a_network(self, name):
    network = models.build(name, SPEC)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 1), np.uint8)
    before = network(pixels).numpy()
    network.set_weights(calibration.scaled(network.get_weights(), 3))
    softened = before ** (1 / 3)
    np.testing.assert_allclose(
      network(pixels), softened / softened.sum(axis=1, keepdims=True), rtol=1e-4
    )
