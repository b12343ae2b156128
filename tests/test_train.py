"""The trainer through its command line: what a run leaves behind, what it refuses, and that it repeats."""

import csv
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import app
from conftest import ROOT, run_trainer
from tensorboard.backend.event_processing import event_accumulator

from trainer import data, hosts, progress

SMALL = (
  '--validation_examples=500',
  '--epochs=1',
  '--global_batch_size=250',
)  # 16 steps of the small set


def step_losses(workdir: pathlib.Path) -> list[tuple[int, float]]:
  """(step, loss) of every step, as TensorBoard reads them."""
  events = event_accumulator.EventAccumulator(str(workdir / 'tensorboard'), {'tensors': 0})
  events.Reload()
  return [
    (event.step, float(np.frombuffer(event.tensor_proto.tensor_content, np.float32)[0]))
    for event in events.Tensors('loss/step')
  ]


def weights_sha256(workdir: pathlib.Path) -> str:
  (variables,) = (workdir / 'export/1/variables').glob('variables.data-*')
  return hashlib.sha256(variables.read_bytes()).hexdigest()


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

  def test_leaves_a_row_an_epoch_and_a_loss_a_step(self, trained, metrics):
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
      'checkpoints', 'export', 'history.csv', 'keras', 'metrics.json', 'report', 'settings.json', 'tensorboard',
    ]  # fmt: skip
    assert [path.name for path in (trained / 'export').iterdir()] == ['1']
    assert [path.name for path in (trained / 'keras').iterdir()] == ['model.keras']
    assert sorted(path.name for path in (trained / 'report').iterdir()) == [
      'confusion.png', 'curves.png', 'mistakes.png', 'report.html', 'samples.png',
    ]  # fmt: skip

  def test_run_again_says_that_it_is_finished_and_changes_nothing(self, trained, tfds_dir):
    before = {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()}
    result = run_trainer(f'--workdir={trained}', f'--data_dir={tfds_dir}', '--epochs=2')
    assert result.returncode == 0
    assert 'the finished run' in result.stderr
    assert {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()} == before


# Loads a SavedModel with nothing but TensorFlow, and prints each signature's accuracy and its labels.
SCORE = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
test = np.load(sys.argv[2])
for name, key in (('serving_default', 'pixels'), ('serve_pixels', 'pixels'), ('serve_encoded', 'encoded')):
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
    test = data.read(data.prepare(tfds_dir), 'test')
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
      f'--workdir={tmp_path}', f'--data_dir={small_tfds_dir}', *SMALL, '--precision=float32',
      preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
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
    flags = (
      *SMALL,
      '--validation_examples=2500',
      '--model=best',
      '--precision=float32',
    )  # eight steps
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


class TestBadInput:
  @pytest.mark.parametrize(
    ('flags', 'said'),
    [
      (['--epochs=many'], r'--epochs=many'),
      (['--epochs=0'], r'--epochs=0'),
      (['--epoch_count=3'], r"Unknown command line flag 'epoch_count'"),
      (['--model=resnet'], r'--model=resnet.*seed'),
      (['--precision=int8'], r'--precision=int8.*mixed_bfloat16'),
      (['runs/seed'], r'runs/seed: not a flag'),
      (
        ['--global_batch_size=255', '--replicas=2'],
        r'--global_batch_size=255: not divisible by 2 replicas; pass 254',
      ),
      (['--replicas=4096'], r'--replicas=4096: this host has \d+'),
      (['--validation_examples=60000'], r'--validation_examples=60000: none'),
      (['--global_batch_size=60000'], r'--global_batch_size=60000: more than the 54000'),
      (
        ['--idx_dir=/nonexistent', '--data_dir={empty}'],
        r'/nonexistent/\S+ cannot be read.*four published files',
      ),
      (['--workdir=/dev/null/run'], r'--workdir=/dev/null/run: cannot be written'),
      (['--all_reduce=nccl'], r'--all_reduce=nccl: this host has no GPU'),
    ],
  )
  def test_is_one_line_and_exit_code_64(self, flags, said, tmp_path):
    flags = [flag.format(empty=tmp_path / 'empty') for flag in flags]
    result = run_trainer(f'--workdir={tmp_path / "run"}', f'--data_dir={tmp_path / "data"}', *flags)
    ours = [line for line in result.stderr.splitlines() if line.startswith('lookbook-train: ')]
    assert result.returncode == 64, result.stderr
    assert len(ours) == 1
    assert re.search(said, ours[0])
    assert 'Traceback' not in result.stderr
    assert not list(tmp_path.glob('run/*'))

  def test_a_missing_workdir_says_so(self):
    result = run_trainer()
    assert result.returncode == 64
    assert '--workdir is not given' in result.stderr

  def test_another_runs_workdir_is_left_alone(self, trained, tfds_dir):
    before = {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()}
    result = run_trainer(
      f'--workdir={trained}',
      f'--data_dir={tfds_dir}',
      '--epochs=3',
      '--seed=5',
      '--learning_rate=0.1',
    )
    assert result.returncode == 64
    assert '--learning_rate=0.003 (now 0.1), --seed=0 (now 5)' in result.stderr
    assert {path: path.read_bytes() for path in trained.rglob('*') if path.is_file()} == before


TASK = {'type': 'worker', 'index': 0}
HOSTS = {'worker': ['a:1', 'b:1']}


class TestBadTfConfig:
  @pytest.mark.parametrize(
    ('config', 'said'),
    [
      ('{"cluster"', r'delimiter'),
      ('[]', r'list'),
      ({'cluster': HOSTS}, r"has no 'task'"),
      ({'cluster': HOSTS, 'task': {'type': 'worker'}}, r"has no 'index'"),
      (
        {'cluster': HOSTS, 'task': {'type': 'worker', 'index': 2}},
        r'task is worker 2, which cluster does not have',
      ),
      (
        {'cluster': HOSTS, 'task': {'type': 'worker', 'index': '0'}},
        r"task is worker '0', which cluster does not",
      ),
      (
        {'cluster': HOSTS, 'task': {'type': 'chief', 'index': 0}},
        r'task is chief 0, which cluster does not have',
      ),
      ({'cluster': {'worker': ['a']}, 'task': TASK}, r"'a' is not host:port"),
      ({'cluster': {'worker': ['a:1', 'a:1']}, 'task': TASK}, r'same address twice'),
      ({'cluster': {'chief': ['a:1', 'b:1']}, 'task': TASK}, r'more than one chief'),
      (
        {'cluster': {**HOSTS, 'ps': ['c:1']}, 'task': TASK},
        r'cluster has ps; every host here is a worker',
      ),
    ],
  )
  def test_is_said_with_an_example(self, config, said, monkeypatch):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(app.UsageError, match=said) as refused:
      hosts.configured()
    assert text in str(refused.value)
    assert '"task": {"type": "worker", "index": 0}' in str(refused.value)

  def test_ends_the_trainer_with_exit_code_64(self, monkeypatch, tmp_path):
    monkeypatch.setenv('TF_CONFIG', '{"cluster": {"worker": ["a"]}}')
    result = run_trainer(f'--workdir={tmp_path}')
    assert result.returncode == 64
    assert "'a' is not host:port" in result.stderr
    assert 'Traceback' not in result.stderr

  @pytest.mark.parametrize(
    ('flag', 'said'),
    [
      ('--replicas=2', r'every host uses all it has'),
      ('--all_reduce=hierarchical', r'with TF_CONFIG pass auto or nccl'),
    ],
  )
  def test_does_not_go_with_flags_for_one_host(self, flag, said, monkeypatch, tmp_path):
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': HOSTS, 'task': TASK}))
    result = run_trainer(f'--workdir={tmp_path}', flag)
    assert result.returncode == 64
    assert re.search(f'{flag}: .*{said}', result.stderr)

  @pytest.mark.parametrize(
    'config', ['', '{}', '{"cluster": {}, "task": {"type": "worker", "index": 0}}']
  )
  def test_without_a_cluster_is_one_host(self, config, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', config)
    assert hosts.configured() == []


class TestHelp:
  @pytest.mark.parametrize(
    'command',
    [
      [sys.executable, '-m', 'trainer.main'],
      [pathlib.Path(sys.executable).with_name('lookbook-train')],
    ],
  )
  def test_lists_the_flags_without_tensorflow(self, command):
    result = subprocess.run(
      [*command, '--help'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for flag in (
      'workdir',
      'data_dir',
      'idx_dir',
      'global_batch_size',
      'precision',
      'log_every_steps',
    ):
      assert f'--{flag}:' in result.stdout or f'--[no]{flag}:' in result.stdout
    imports = subprocess.run(
      [sys.executable, '-X', 'importtime', '-m', 'trainer.main', '--help'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert 'absl.app' in imports.stderr
    assert 'tensorflow' not in imports.stderr


class TestProgress:
  def test_logs_now_and_then_where_there_is_no_terminal(self, caplog):
    now = [0.0]
    bar = progress.Progress(total=1000, terminal=False, clock=lambda: now[0])
    with caplog.at_level('INFO', logger='absl'):
      for _ in range(10):
        now[0] += 10
        bar.advance(100, loss=0.5)
    assert [record.getMessage() for record in caplog.records] == [
      '300 of 1000 images, 10 images/s, 70 s left, loss 0.5000',
      '600 of 1000 images, 10 images/s, 40 s left, loss 0.5000',
      '900 of 1000 images, 10 images/s, 10 s left, loss 0.5000',
      '1000 of 1000 images, 10 images/s, 0 s left, loss 0.5000',
    ]

  def test_moves_a_line_on_a_terminal(self, capsys):
    bar = progress.Progress(total=1000, terminal=True)
    bar.advance(500, loss=0.25)
    bar.close()
    line = capsys.readouterr().err
    assert '500/1.00k' in line
    assert 'loss=0.2500' in line
    assert 'images/s' in line
