"""The figures of predictions, and the report of many classes."""

import warnings

import numpy as np
import pytest

from tests import page_kit
from tests.train_kit import write_report
from trainer import data, quality

TRUTH = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 1, 1, 1, 1])


def probabilities(said: np.ndarray, classes: int, confidence: float) -> np.ndarray:
  """Returns predictions of these classes, all equally confident."""
  rest = (1 - confidence) / (classes - 1)
  return np.where(np.eye(classes)[said] == 1, confidence, rest).astype(np.float32)


class TestFigures:
  def test_of_classes_and_their_means(self):
    found = quality.figures(probabilities(SAID, 3, 0.9), TRUTH, 'abc')
    assert found['confusion'] == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert found['per_class']['a'] == {'precision': 1, 'recall': 2 / 3, 'test_images': 3}
    assert found['per_class']['b'] == {'precision': 0.5, 'recall': 1, 'test_images': 2}
    assert found['macro_precision'] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found['macro_recall'] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found['macro_f1'] == pytest.approx((0.8 + 2 / 3 + 0) / 3)

  def test_of_a_class_without_test_images_are_in_no_mean(self):
    found = quality.figures(probabilities(SAID, 4, 0.9), TRUTH, 'abcd')
    assert found['per_class']['d']['test_images'] == 0
    assert found['macro_recall'] == pytest.approx((2 / 3 + 1 + 0) / 3)

  def test_of_calibration(self):
    found = quality.figures(probabilities(SAID, 3, 0.9), TRUTH, 'abc')
    assert found['reliability'] == [
      {'confidence': pytest.approx(0.9), 'accuracy': pytest.approx(4 / 6), 'images': 6}
    ]
    assert found['calibration_error'] == pytest.approx(0.9 - 4 / 6)

  def test_of_ten_thousand_classes_take_no_matrix(self):
    truth = np.arange(10_000)
    said = np.where(truth < 9_990, truth, 0)
    found = quality.figures(np.eye(10_000, dtype=np.float32)[said], truth, list(map(str, truth)))
    assert 'confusion' not in found
    assert len(found['confusion_cells']) == 10_000
    assert quality.top_confusions(found, list(map(str, truth)), 3)[0] == {
      'label': '9990',
      'predicted': '0',
      'images': 1,
    }


def test_pictures_that_occur_in_both_sets_are_counted():
  pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
  some, others = (data.Examples(pixels[rows], TRUTH[: len(rows)]) for rows in ([0, 1, 1], [1, 4]))
  assert (quality.shared(some, others), quality.shared(others, some)) == (2, 1)


@pytest.mark.parametrize('classes', [2, 200])
def test_the_report_shows_what_can_be_read(classes, tmp_path):
  truth = np.arange(classes).repeat(3)
  said = np.where(truth == classes - 1, 0, truth)
  page = write_report(tmp_path, probabilities(said, classes, 0.8), truth)
  assert ('id="confusion"' in page, 'id="confusions"' in page) == (classes == 2, classes == 200)
  assert page.count('src="data:image/png') == 2 + 3 + min(classes, 30)  # figures, mistakes, samples
  assert ('of the first 30 of 200 classes' not in page) == (classes == 2)
  rows = page.split('mean over classes')[0].count('<tr><td>')
  assert rows == (1 + 2 if classes == 2 else 1 + 30)  # a matrix or table of confusions, and classes
  assert 'of the test images were also trained' in page
  assert '--calibrate=True' in page


@pytest.mark.parametrize('classes', [2, 30, 200])
def test_the_report_has_room_for_long_and_foreign_names(classes, browser, tmp_path):
  """Nothing is drawn outside of its card, and a name that is cut short is there in full."""
  truth = np.arange(classes).repeat(3)
  said = np.where(truth == classes - 1, 0, truth)
  with warnings.catch_warnings(action='error'):
    write_report(tmp_path, probabilities(said, classes, 0.8), truth, page_kit.NAME, (300, 200, 3))
  page = page_kit.opened(browser, tmp_path / 'report/report.html')
  assert page.evaluate(page_kit.OUTSIDE) == []
  assert page.locator('#mistakes img').count() == 3
  assert page.inner_text('#mistakes').count(f'labelled {page_kit.NAME} {classes - 1}') == 3
  widths = page.evaluate('[...document.images].map(image => image.clientWidth)')
  assert min(widths) >= 84  # of samples, all those of a class together
  if classes <= 30:
    cells = page.locator('#confusion tbody td')
    assert cells.all_inner_texts()[:: classes + 1] == ['3'] * (classes - 1) + ['']
    assert page.locator('#confusion th').first.get_attribute('title') == f'{page_kit.NAME} 0'
  page.close()
