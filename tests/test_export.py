"""What a training exports and reports: the SavedModel elsewhere, and the page in a browser."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from trainer.datasets import fashion_mnist

# Loads a SavedModel with TensorFlow alone, and prints each signature's accuracy and labels.
SCORE = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
test = np.load(sys.argv[2])
keys = {'serving_default': 'pixels', 'serve_pixels': 'pixels', 'serve_encoded': 'encoded'}
for name, key in keys.items():
  right = 0
  for i in range(0, 10_000, 500):
    rows = tf.constant(test['pixels'][i : i + 500])
    if key == 'encoded':
      rows = tf.map_fn(tf.io.encode_png, rows, fn_output_signature=tf.string)
    answer = model.signatures[name](**{key: rows})
    assert sorted(answer) == ['label', 'label_index', 'probabilities'], sorted(answer)
    right += int((answer['label_index'].numpy() == test['labels'][i : i + 500]).sum())
  print(name, right / 10_000, answer['label'][0].numpy().decode(), int(answer['label_index'][0]))
assert not {'trainer', 'tensorflow_datasets'} & set(sys.modules)
"""


class TestTheSavedModel:
  def test_scores_elsewhere_to_the_digit(self, exported, metrics, tfds_dir, tmp_path):
    test = fashion_mnist.read(fashion_mnist.prepare(tfds_dir), 'test')
    np.savez(tmp_path / 'test.npz', pixels=test.pixels, labels=test.labels)
    command = [sys.executable, '-I', '-c', SCORE, str(exported), str(tmp_path / 'test.npz')]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = list(metrics['per_class'])
    lines = [
      line.rsplit(' ', 1)[0].split(' ', 2) + [line.rsplit(' ', 1)[1]]
      for line in result.stdout.splitlines()
    ]
    assert [line[0] for line in lines] == ['serving_default', 'serve_pixels', 'serve_encoded']
    assert {float(line[1]) for line in lines} == {metrics['test_accuracy']}
    assert all(names[int(index)] == label for _, _, label, index in lines)

  def test_names_its_signatures_as_the_contract_does(self, exported):
    command = [
      pathlib.Path(sys.executable).with_name('saved_model_cli'),
      'show',
      '--dir',
      exported,
      '--tag_set',
      'serve',
    ]
    for name, argument, shape in (
      ('serve_pixels', 'pixels', '(-1, 28, 28, 1)'),
      ('serve_encoded', 'encoded', '(-1)'),
    ):
      shown = subprocess.run(
        [*command, '--signature_def', name], capture_output=True, text=True, check=True
      ).stdout
      dtype = 'DT_UINT8' if argument == 'pixels' else 'DT_STRING'
      assert re.search(
        rf"inputs\['{argument}'\].*\n\s+dtype: {dtype}\n\s+shape: {re.escape(shape)}", shown
      )
      for output, kind, size in (
        ('label', 'STRING', '(-1)'),
        ('label_index', 'INT64', '(-1)'),
        ('probabilities', 'FLOAT', '(-1, 10)'),
      ):
        assert re.search(
          rf"outputs\['{output}'\].*\n\s+dtype: DT_{kind}\n\s+shape: {re.escape(size)}", shown
        )

  def test_carries_its_labels_and_its_card(self, exported, metrics):
    card = json.loads((exported / 'assets/model_card.json').read_text())
    assert (
      (exported / 'assets/labels.txt').read_text().splitlines()
      == list(metrics['per_class'])
      == card['labels']
    )
    assert {name: card[name] for name in metrics} == metrics
    assert card['data']['train_examples'] == 54_000
    distribution = card['training_distribution']
    assert sum(distribution['class_fractions']) == pytest.approx(1)
    assert sum(distribution['pixel_histogram']['fractions']) == pytest.approx(1)

  def test_refuses_an_image_of_another_size_by_name(self, exported):
    import tensorflow as tf

    large = tf.io.encode_png(np.zeros([29, 28, 1], np.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match='serve_encoded takes 28x28 images'):
      tf.saved_model.load(str(exported)).signatures['serve_encoded'](encoded=tf.stack([large]))


class TestTheReport:
  def test_opens_in_a_browser_with_the_accuracy_of_the_metrics(self, trained, metrics, browser):
    page, problems = browser.new_page(), []
    page.on('console', lambda message: problems.append(message.text))
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('requestfailed', lambda request: problems.append(request.url[:80]))
    page.goto((trained / 'report/report.html').as_uri())
    assert page.inner_text('#test-accuracy') == f'{100 * metrics["test_accuracy"]:.2f} %'
    assert page.inner_text('#val-accuracy') == f'{100 * metrics["val_accuracy"]:.2f} %'
    widths = page.evaluate(
      'Array.from(document.images, image => image.complete && image.naturalWidth)'
    )
    assert len(widths) == 2 + 24 + 10  # figures, mistakes, and samples of each class
    assert all(width >= 28 for width in widths)
    shown = page.inner_text('#mistakes')
    assert shown.count('labelled') == 24
    assert not problems

  def test_every_picture_shows_something(self, trained):
    from PIL import Image

    for path in (trained / 'report').glob('*.png'):
      shades = np.unique(np.asarray(Image.open(path).convert('L')))
      assert len(shades) > 50, path.name  # an empty canvas has one
