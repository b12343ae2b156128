"""Augmentation: what each draw may and may not change."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import augment, noise

# From 1, so that no pixel is background.
IMAGES = np.random.default_rng(0).integers(1, 256, (1000, 28, 28, 1), np.uint8)
DRAWS = {
  'flip': augment.flip,
  'shift': lambda pixels: augment.shift(pixels, 2),
  'erase': lambda pixels: augment.erase(pixels, 0.5),
}


def at(step: int, first_row: int = 0):
  return noise.at(noise.Address(7, tf.constant(step, tf.int64), tf.constant(first_row, tf.int64)))


def drawn(name: str, step: int = 0, first_row: int = 0) -> np.ndarray:
  with at(step, first_row):
    return DRAWS[name](tf.constant(IMAGES[first_row:])).numpy()


@pytest.mark.parametrize('name', DRAWS)
class TestEveryDraw:
  def test_of_a_replicas_rows_is_that_of_the_whole_batch(self, name):
    np.testing.assert_array_equal(drawn(name, first_row=600), drawn(name)[600:])

  def test_is_another_at_the_next_step(self, name):
    assert (drawn(name, step=0) != drawn(name, step=1)).any()

  def test_keeps_shape_and_dtype(self, name):
    assert (drawn(name).shape, drawn(name).dtype) == (IMAGES.shape, np.uint8)


class TestRGB:
  """Images of 9 rows, 7 columns and 3 channels: an odd number of values."""

  IMAGES = IMAGES.reshape(-1)[: 1000 * 9 * 7 * 3].reshape(1000, 9, 7, 3)

  def test_flip_mirrors_columns(self):
    with at(step=0):
      flipped = augment.flip(tf.constant(self.IMAGES)).numpy()
    same = (flipped == self.IMAGES).all(axis=(1, 2, 3))
    mirrored = (flipped == self.IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 400 < mirrored.sum() < 600

  def test_shift_moves_all_channels_together(self):
    with at(step=0):
      moved = augment.shift(tf.constant(self.IMAGES), 2).numpy()
    padded = np.pad(self.IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    fits = [
      (moved == padded[:, r : r + 9, c : c + 7]).all(axis=(1, 2, 3))
      for r in range(5)
      for c in range(5)
    ]
    assert (np.sum(fits, axis=0) == 1).all()

  def test_erase_fills_all_channels(self):
    with at(step=0):
      erased = augment.erase(tf.constant(self.IMAGES), 1.0).numpy()
    changed = (erased != self.IMAGES).any(axis=3)
    assert changed.any(axis=(1, 2)).mean() > 0.9  # a small rectangle may contain no pixel's place


def test_flip_mirrors_about_half_of_the_images_whole():
  flipped = drawn('flip')
  same = (flipped == IMAGES).all(axis=(1, 2, 3))
  mirrored = (flipped == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
  assert (same ^ mirrored).all()
  assert 400 < mirrored.sum() < 600  # sigma is 16


def test_shift_moves_by_every_distance_alike():
  moved, padded = drawn('shift'), np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
  places = [(row, column) for row in range(5) for column in range(5)]
  fits = np.array(  # (25, 1000)
    [(moved == padded[:, r : r + 28, c : c + 28]).all(axis=(1, 2, 3)) for r, c in places]
  )
  assert (fits.sum(axis=0) == 1).all()
  assert fits.sum(axis=1).min() > 15  # 40 expected, sigma is 6
  assert fits.sum(axis=1).max() < 65


def test_erase_fills_a_rectangle_of_about_half_of_the_images():
  changed = (drawn('erase') != IMAGES)[..., 0]
  erased = changed.any(axis=(1, 2))
  assert 430 < erased.sum() < 570  # sigma is 16
  areas = []
  for mask in changed[erased]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.mean() > 0.8  # a random pixel is seldom the one that was there
    areas.append(inside.size / 784)
  assert min(areas) > 0.01
  assert max(areas) < 0.37
  assert 0.12 < np.mean(areas) < 0.22  # 0.175 drawn; what would leave the image is cut


def test_erase_fills_with_noise():
  before, after = IMAGES, drawn('erase')
  filled = after[after != before]
  counts = np.bincount(filled >> 4, minlength=16) / filled.size
  np.testing.assert_allclose(counts, 1 / 16, atol=0.01)


@pytest.mark.parametrize(('probability', 'share'), [(0.0, 0), (1.0, 1)])
def test_erase_can_be_never_or_always(probability, share):
  with at(step=3):
    erased = augment.erase(tf.constant(IMAGES), probability).numpy()
  assert (erased != IMAGES).any(axis=(1, 2, 3)).mean() == share
