"""A training: its outputs, and that it is deterministic."""

import csv
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.train_kit import run_trainer, step_losses, weights_sha256
from trainer.datasets import fashion_mnist

# 16 steps of the small set
SMALL = ('--validation_examples=500', '--epochs=1', '--global_batch_size=250')


class TestARun:
  def test_reports_what_it_measured(self, trained, metrics):
    assert metrics['parameters'] == 241_546
    assert metrics['test_accuracy'] > 0.85
    assert metrics['val_accuracy'] > 0.85
    assert metrics['images_per_second'] == pytest.approx(2 * 210 * 256 / metrics['train_seconds'])
    assert (metrics['model'], metrics['replicas']) == ('seed', 1)
    assert re.fullmatch('[0-9a-f]{40}', metrics['git_commit'])
    assert set(metrics['versions']) >= {'python', 'tensorflow', 'tensorflow-datasets'}

  def test_its_precision_and_recall_are_those_of_the_confusion_matrix(self, metrics):
    confusion = np.array(metrics['confusion'])
    assert confusion.sum(axis=1).tolist() == [1000] * 10
    assert np.trace(confusion) / 10_000 == metrics['test_accuracy']
    for i, figures in enumerate(metrics['per_class'].values()):
      assert figures['recall'] == confusion[i, i] / 1000
      assert figures['precision'] == confusion[i, i] / confusion[:, i].sum()

  def test_leaves_a_row_per_epoch_and_a_loss_per_step(self, trained, metrics):
    rows = list(csv.DictReader((trained / 'history.csv').open()))
    assert [(row['epoch'], row['step']) for row in rows] == [('1', '210'), ('2', '420')]
    assert max(float(row['val_accuracy']) for row in rows) == metrics['val_accuracy']
    losses = step_losses(trained)
    assert [step for step, _ in losses] == list(range(1, 421))
    assert np.mean([loss for _, loss in losses[210:]]) == pytest.approx(
      float(rows[1]['train_loss']), rel=1e-5
    )

  def test_leaves_no_half_written_file(self, trained):
    assert sorted(path.name for path in trained.iterdir()) == [
      'checkpoints',
      'export',
      'history.csv',
      'keras',
      'metrics.json',
      'report',
      'settings.json',
      'tensorboard',
    ]
    assert [path.name for path in (trained / 'export').iterdir()] == ['1']
    assert [path.name for path in (trained / 'keras').iterdir()] == ['model.keras']
    assert sorted(path.name for path in (trained / 'report').iterdir()) == [
      'confusion.png',
      'curves.png',
      'mistakes.png',
      'report.html',
      'samples.png',
    ]

  def test_run_again_says_that_it_is_finished_and_changes_nothing(self, trained, tfds_dir):
    before = {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()}
    result = run_trainer(f'--workdir={trained}', f'--data_dir={tfds_dir}', '--epochs=2')
    assert result.returncode == 0
    assert 'the finished run' in result.stderr
    assert {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()} == before


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
    assert len(widths) == 4
    assert all(width > 400 for width in widths)
    assert not problems

  def test_every_picture_shows_something(self, trained):
    from PIL import Image

    for path in (trained / 'report').glob('*.png'):
      shades = np.unique(np.asarray(Image.open(path).convert('L')))
      assert len(shades) > 50, path.name  # an empty canvas has one


@pytest.fixture(scope='module')
def small(small_tfds_dir, tmp_path_factory) -> pathlib.Path:
  """A small run of one replica in float32."""
  workdir = tmp_path_factory.mktemp('small')
  result = run_trainer(
    f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=float32'
  )
  assert result.returncode == 0, result.stderr
  return workdir


class TestRepeating:
  @pytest.mark.parametrize(
    'all_reduce',
    [
      'auto',
      *(
        pytest.param(name, marks=pytest.mark.slow) for name in ('hierarchical', 'reduction_to_one')
      ),
    ],
  )
  def test_two_replicas_end_with_the_weights_of_one(
    self, all_reduce, small, small_tfds_dir, tmp_path
  ):
    flags = ('--precision=float32', '--replicas=2', f'--all_reduce={all_reduce}')
    result = run_trainer(f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, *flags)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / 'metrics.json').read_text())['replicas'] == 2
    one, two = step_losses(small), step_losses(tmp_path)
    assert [step for step, _ in two] == list(range(1, 17))
    assert two == one
    assert weights_sha256(tmp_path) == weights_sha256(small)

  def test_one_seed_gives_the_same_bits(self, small, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=float32'
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) == weights_sha256(small)

  def test_the_number_of_cores_does_not_change_a_bit(self, small, small_tfds_dir, tmp_path):
    core = min(os.sched_getaffinity(0))
    result = run_trainer(
      f'--workdir={tmp_path}',
      f'--data_dir={small_tfds_dir}',
      *SMALL,
      '--precision=float32',
      preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) == weights_sha256(small)

  @pytest.mark.slow
  def test_one_seed_gives_the_same_bits_in_bfloat16_on_two_replicas(self, small_tfds_dir, tmp_path):
    flags = ('--precision=mixed_bfloat16', '--replicas=2')
    for name in ('first', 'second'):
      result = run_trainer(
        f'--workdir={tmp_path / name}', f'--data_dir={small_tfds_dir}', *SMALL, *flags
      )
      assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path / 'first') == weights_sha256(tmp_path / 'second')

  @pytest.mark.slow
  def test_another_seed_gives_others(self, small, small_tfds_dir, tmp_path):
    result = run_trainer(
      f'--workdir={tmp_path}',
      f'--data_dir={small_tfds_dir}',
      *SMALL,
      '--precision=float32',
      '--seed=1',
    )
    assert result.returncode == 0, result.stderr
    assert weights_sha256(tmp_path) != weights_sha256(small)

  @pytest.mark.slow
  def test_the_best_network_ends_with_the_same_weights_too(self, small_tfds_dir, tmp_path):
    # eight steps
    flags = (*SMALL, '--validation_examples=2500', '--model=best', '--precision=float32')
    for replicas in (1, 2):
      workdir = tmp_path / str(replicas)
      result = run_trainer(
        f'--workdir={workdir}', f'--data_dir={small_tfds_dir}', *flags, f'--replicas={replicas}'
      )
      assert result.returncode == 0, result.stderr
    losses = [loss for _, loss in step_losses(tmp_path / '1')]
    assert losses[-1] < losses[0]
    assert weights_sha256(tmp_path / '1') == weights_sha256(tmp_path / '2')

  @pytest.mark.slow
  def test_float16_trains_with_its_loss_scaled(self, small_tfds_dir, tmp_path, small):
    result = run_trainer(
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=mixed_float16'
    )
    assert result.returncode == 0, result.stderr
    half, full = (np.array([loss for _, loss in step_losses(path)]) for path in (tmp_path, small))
    assert half[-4:].mean() < half[:4].mean()
    np.testing.assert_allclose(half[:3], full[:3], rtol=0.02)
