"""The validation split, the batch of any step, and how many images are in memory at a time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import data, evaluate, export


@pytest.fixture(scope='module')
def numbered() -> data.Examples:
  """Returns 1,003 images that encode their own number in their first two pixels."""
  numbers = np.arange(1003)
  pixels = np.zeros((1003, 28, 28, 1), np.uint8)
  pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = numbers // 256, numbers % 256
  return data.Examples(pixels, numbers % 10)


def numbers(element) -> list[int]:
  pixels = element['pixels'].numpy().astype(int)
  return (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]).tolist()


class TestSplit:
  def test_is_disjoint_complete_and_the_seeds_own(self, numbered):
    train, validation = data.split_validation(numbered, 100, seed=1)
    again, _ = data.split_validation(numbered, 100, seed=1)
    other, _ = data.split_validation(numbered, 100, seed=2)
    assert len(validation) == 100
    both = np.concatenate([train.pixels, validation.pixels]).astype(int)
    assert sorted(both[:, 0, 0, 0] * 256 + both[:, 0, 1, 0]) == list(range(1003))
    np.testing.assert_array_equal(train.pixels, again.pixels)
    assert (train.pixels != other.pixels).any()


class TestBatches:
  def test_an_epoch_sees_no_image_twice_and_the_next_in_another_order(self, numbered):
    steps = list(data.batches(numbered, seed=3, global_batch_size=100, replicas=1).take(20))
    first, second = (
      [number for step in steps[i : i + 10] for number in numbers(step)] for i in (0, 10)
    )
    assert len(set(first)) == len(set(second)) == 1000
    assert first != second
    assert first != sorted(first)

  def test_labels_stay_with_their_images(self, numbered):
    for step in data.batches(numbered, seed=3, global_batch_size=100, replicas=1).take(3):
      assert step['labels'].numpy().tolist() == [number % 10 for number in numbers(step)]

  def test_any_step_can_come_first(self, numbered):
    straight = list(data.batches(numbered, seed=3, global_batch_size=64, replicas=1).take(40))
    resumed = list(
      data.batches(numbered, seed=3, global_batch_size=64, replicas=1, first_step=33).take(7)
    )
    assert [numbers(step) for step in resumed] == [numbers(step) for step in straight[33:]]
    assert [int(step['step']) for step in resumed] == list(range(33, 40))

  @pytest.mark.parametrize('replicas', [2, 4])
  def test_replicas_share_out_the_same_batch(self, numbered, replicas):
    whole = list(data.batches(numbered, seed=3, global_batch_size=64, replicas=1).take(17))
    parts = list(
      data.batches(numbered, seed=3, global_batch_size=64, replicas=replicas).take(17 * replicas)
    )
    for i, step in enumerate(whole):
      mine = parts[i * replicas : (i + 1) * replicas]
      assert [number for part in mine for number in numbers(part)] == numbers(step)
      assert [int(part['first_row']) for part in mine] == list(range(0, 64, 64 // replicas))


class Brightness(keras.layers.Layer):
  """Answers each image with its brightness, and keeps how many come in a call."""

  def __init__(self):
    super().__init__()
    self.calls: list[int] = []

  def call(self, pixels):
    tf.py_function(lambda rows: self.calls.append(int(rows)), [tf.shape(pixels)[0]], [])
    return tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[1, 2, 3])[:, None]


class TestAtATime:
  @pytest.mark.parametrize(
    ('shape', 'blocks', 'scored', 'validated'),
    [
      ((28, 28, 1), 4096, 1000, 512),
      ((64, 64, 3), 1024, 1000, 512),
      ((256, 256, 3), 64, 64, 64),
      ((1024, 1024, 1), 4, 4, 4),
    ],
  )
  def test_fewer_large_images_are_gone_through(self, shape, blocks, scored, validated):
    """As many small ones as ever: their sums are added up in the same order."""
    count = max(scored + 1, 6)
    pixels = np.empty((count, *shape), np.uint8)
    pixels[:] = (np.arange(count) % 256)[:, None, None, None]
    examples = data.Examples(
      np.broadcast_to(pixels[:1], (blocks + 1, *shape)), np.zeros(blocks + 1)
    )
    assert [len(block) for block in examples.blocks()] == [blocks, 1]

    layer = Brightness()
    network = keras.Sequential([keras.layers.Input(shape, dtype='uint8'), layer])
    brightness = pixels[:, 0, 0, 0]
    layer.calls.clear()
    answers = export.predict(export.Classifier(network, shape, ['x']), pixels)
    assert answers[:, 0].tolist() == brightness.tolist()
    assert layer.calls == [scored, count - scored]

    layer.calls.clear()
    parts = evaluate.Predictor(tf.distribute.get_strategy(), network).predict(pixels)
    assert np.concatenate(list(parts))[:, 0].tolist() == brightness.tolist()
    assert sum(layer.calls) == -(-count // validated) * validated
