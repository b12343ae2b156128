"""What a run exports, in every loader: the network's own probabilities, to 1e-6."""

import json
import math
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import keras
import loaders
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from images import model_card
from trainer import checkpoint, export, models, plain_keras
from trainer.datasets import fashion_mnist

FASHION = models.Spec((28, 28, 1), 10)
SIZES = (0, 1, 1000)  # images per call
TOLERANCE = 1e-6
LABELS = (
  'top',
  'trouser',
  'pullover',
  'dress',
  'coat',
  'sandal',
  'shirt',
  'sneaker',
  'bag',
  'boot',
)


class Served(NamedTuple):
  """A SavedModel, the same network's model.keras, and what both must return."""

  export: pathlib.Path
  keras: pathlib.Path
  labels: tuple[str, ...]
  probabilities: np.ndarray  # float32 (100, 10)


@pytest.fixture(scope='module')
def pixels(tfds_dir) -> np.ndarray:
  """Returns the first images of the test set, uint8 (100, 28, 28, 1)."""
  return fashion_mnist.read(fashion_mnist.prepare(tfds_dir), 'test').pixels[: SIZES[-1]]


@pytest.fixture(scope='module')
def cases(pixels, tmp_path_factory) -> pathlib.Path:
  """Returns the folder that tests/loaders.py reads: the signatures' arguments in SIZES."""
  folder = tmp_path_factory.mktemp('cases')
  encoded = np.array([tf.io.encode_png(image).numpy() for image in pixels], 'S')
  np.save(folder / f'serving_default-{SIZES[-1]}.npy', pixels)
  for size in SIZES:
    np.save(folder / f'serve_pixels-{size}.npy', pixels[:size])
    np.save(folder / f'serve_encoded-{size}.npy', encoded[:size])
  return folder


def notebooks_network(weights: list[np.ndarray]) -> keras.Model:
  """Returns the seed notebook's layers, which take pixels / 255."""
  layers = keras.layers
  network = keras.Sequential(
    [
      layers.Input((28, 28, 1)),
      layers.Conv2D(32, (3, 3), activation='relu'),
      layers.MaxPooling2D((2, 2)),
      layers.Conv2D(64, (3, 3), activation='relu'),
      layers.MaxPooling2D((2, 2)),
      layers.Conv2D(128, (3, 3), activation='relu'),
      layers.Flatten(),
      layers.Dense(128, activation='relu'),
      layers.Dense(10, activation='softmax'),
    ]
  )
  network.set_weights(weights)
  return network


@pytest.fixture(scope='module')
def seed(trained, metrics, pixels) -> Served:
  """Returns the real run's, whose weights are also in its last checkpoint."""
  state = checkpoint.newest(str(trained / 'checkpoints'))
  weights = [state[name] for name in sorted(state) if name.startswith('best/')]
  probabilities = notebooks_network(weights)(pixels / np.float32(255)).numpy()
  labels = tuple(metrics['per_class'])
  return Served(trained / 'export/1', trained / 'keras/model.keras', labels, probabilities)


@pytest.fixture(scope='module')
def best(pixels, tmp_path_factory) -> Served:
  """Returns the other network's, untrained, with gains and biases that are not 1 and 0."""
  home = tmp_path_factory.mktemp('best')
  random = np.random.default_rng(0)
  network = models.best(FASHION)
  noise = [random.normal(0, 0.02, weight.shape) for weight in network.weights]
  weights = [(old + new).astype(np.float32) for old, new in zip(network.get_weights(), noise)]
  weights[-2] *= 0.3  # the dense kernel: the surer an answer is, the further off it may be rounded
  network.set_weights(weights)
  classifier = export.build_classifier('best', FASHION, weights, LABELS)
  export.save(classifier, {'version': 'best-0'}, str(home / 'export/1'))
  plain_keras.save(plain_keras.build('best', FASHION, weights), str(home))
  return Served(home / 'export/1', home / 'keras/model.keras', LABELS, network(pixels).numpy())


@pytest.fixture(params=['seed', 'best'])
def served(request) -> Served:
  return request.getfixturevalue(request.param)


def tensors(exported: pathlib.Path) -> dict[str, dict[str, str]]:
  """Returns the names of the signatures' tensors: signature, then argument or output."""
  names = {}
  for name in loaders.ARGUMENTS:
    signature = loaders.graph_of(exported).signature_def[name]
    places = {**signature.inputs, **signature.outputs}
    names[name] = {place: info.name for place, info in places.items()}
  return names


@pytest.mark.parametrize('loader', loaders.LOADERS)
def test_every_loader_answers_the_same(loader, seed, best, cases, tmp_path):
  taken, places = tmp_path / 'cases', {tmp_path / 'seed': seed, tmp_path / 'best': best}
  for folder in (taken, *places):
    folder.mkdir()
  for path in cases.iterdir():
    if loader == 'tflite' and not path.stem.startswith('serve_pixels'):
      continue
    (taken / path.name).symlink_to(path)
  command = [sys.executable, loaders.__file__, loader, taken]
  for answers, served in places.items():
    command += [served.export, answers]
  names = {str(served.export): tensors(served.export) for served in places.values()}
  environment = {**os.environ, 'TENSORS': json.dumps(names)}
  result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr

  for answers, served in places.items():
    assert len(list(answers.iterdir())) == len(list(taken.iterdir())) > 1
    for path in sorted(answers.iterdir()):
      check_answer(path, served)


def check_answer(path: pathlib.Path, served: Served) -> None:
  """Asserts that a loader's answer is that of the network."""
  rows = int(path.stem.split('-')[1])
  answer = dict(np.load(path))
  expected = served.probabilities[:rows]
  classes = expected.argmax(axis=1)
  assert sorted(answer) == sorted(loaders.OUTPUTS)
  assert answer['probabilities'].shape == (rows, 10)
  assert answer['probabilities'].dtype == np.float32
  difference = np.abs(answer['probabilities'] - expected).max(initial=0)
  print(f'{path.parent.name} {path.stem}: {difference:.1e}')
  assert difference <= TOLERANCE
  assert answer['label_index'].dtype == np.int64
  assert answer['label_index'].tolist() == classes.tolist()
  assert answer['label'].tolist() == [served.labels[i].encode() for i in classes]


def test_the_graph_has_only_operations_of_tensorflow_itself(served):
  graph = loaders.graph_of(served.export).graph_def
  used, own = {node.op for node in graph.node}, set()
  for function in graph.library.function:
    used |= {node.op for node in function.node_def}
    own.add(function.signature.name)
  assert used >= {'Conv2D', 'DecodeImage'}
  assert [op for op in sorted(used - own) if op_def_registry.get(op) is None] == []


def test_no_weight_is_saved_twice(served):
  shapes = dict(tf.train.list_variables(str(served.export / 'variables/variables')))
  values = [shape for name, shape in shapes.items() if name.endswith('VARIABLE_VALUE')]
  assert sum(map(math.prod, values)) in (241_546, 472_876)


def test_the_scorer_reads_its_card(seed, metrics):
  card = model_card.read(str(seed.export))
  assert (card.version, card.labels) == (metrics['version'], seed.labels)


# Opens model.keras with Keras alone, prints how far its answers are off, trains a step, saves.
FINE_TUNE = """
import sys
import keras
import numpy as np
rows = np.load('rows.npz')
model = keras.models.load_model(sys.argv[1])
print(np.abs(model(rows['pixels']).numpy() - rows['probabilities']).max())
assert model(rows['pixels'][:1]).shape == (1, 10)
assert {type(layer).__module__.split('.')[0] for layer in model.layers} == {'keras'}
before = [weight.copy() for weight in model.get_weights()]
model.compile('sgd', 'sparse_categorical_crossentropy')
model.fit(rows['pixels'], np.arange(len(rows['pixels'])) % 10, batch_size=100, epochs=1, verbose=0)
assert all((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))
model.save('tuned.keras')
assert np.isfinite(keras.models.load_model('tuned.keras')(rows['pixels'])).all()
assert not {'trainer', 'batch', 'images', 'storage'} & set(sys.modules)
"""


def test_the_keras_model_opens_and_trains_without_this_project(served, pixels, tmp_path):
  np.savez(tmp_path / 'rows.npz', pixels=pixels, probabilities=served.probabilities)
  # In case they are installed: the working directory comes first on the path.
  for name in ('trainer', 'batch', 'images', 'storage'):
    (tmp_path / f'{name}.py').write_text('raise ImportError\n')
  command = [sys.executable, '-c', FINE_TUNE, str(served.keras)]
  result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert float(result.stdout) <= TOLERANCE


def test_the_keras_models_lie_alone_in_their_folder(served):
  assert [path.name for path in served.keras.parent.iterdir()] == ['model.keras']
  assert [path.name for path in served.export.parent.iterdir()] == ['1']


def test_the_seeds_keras_model_is_the_notebooks(seed):
  described = [
    (
      type(layer).__name__,
      *[getattr(layer, name) for name in ('filters', 'units', 'rate') if hasattr(layer, name)],
    )
    for layer in keras.models.load_model(seed.keras).layers
  ]
  assert described == [
    ('Rescaling',),
    ('Conv2D', 32),
    ('MaxPooling2D',),
    ('Dropout', 0.2),
    ('Conv2D', 64),
    ('MaxPooling2D',),
    ('Dropout', 0.2),
    ('Conv2D', 128),
    ('Dropout', 0.5),
    ('Flatten',),
    ('Dense', 128),
    ('Dense', 10),
  ]
