"""docs/serving.md and a real run: its programs are run, and the names on it are the model's."""

import collections
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable

import fake_serving
import loaders
import numpy as np
import pytest
import tensorflow as tf

from tests.train_kit import ROOT
from trainer.datasets import fashion_mnist

PAGE = (ROOT / 'docs/serving.md').read_text()
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)  # (language, content)
DOCKER = next(content for _, content in BLOCKS if content.startswith('docker'))
RUNNABLE = [block for block in BLOCKS if block[0] in ('sh', 'python') and block[1] != DOCKER]
REQUESTS = [block for block in RUNNABLE if 'localhost' in block[1]]
PROGRAMS = [block for block in RUNNABLE if block not in REQUESTS]

# What `pip install tensorflow-serving-api` would bring.
API = {
  'predict_pb2': 'PredictRequest, PredictResponse',
  'prediction_service_pb2_grpc': 'PredictionServiceStub',
}


@pytest.fixture(scope='module')
def desk(trained, tfds_dir, tmp_path_factory) -> pathlib.Path:
  """Returns a directory as the page assumes it: runs/seed, boot.png, and images to train on."""
  desk = tmp_path_factory.mktemp('desk')
  (desk / 'runs').mkdir()
  (desk / 'runs/seed').symlink_to(trained)
  test = fashion_mnist.read(fashion_mnist.prepare(tfds_dir), 'test')
  boot = test.pixels[test.labels == 9][0]
  (desk / 'boot.png').write_bytes(tf.io.encode_png(boot).numpy())
  np.save(desk / 'images.npy', test.pixels[:100])
  np.save(desk / 'labels.npy', test.labels[:100])
  api = desk / 'tensorflow_serving/apis'
  api.mkdir(parents=True)
  for name, classes in API.items():
    (api / f'{name}.py').write_text(f'from fake_serving import {classes}\n')
  return desk


def run(language: str, program: str, desk: pathlib.Path) -> str:
  """Runs a program of the page as its reader would, and returns what it prints."""
  shell = ['bash', '-euo', 'pipefail', '-c']
  command = [*shell, program] if language == 'sh' else [sys.executable, '-c', program]
  environment = {
    **os.environ,
    'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
    'PYTHONPATH': str(ROOT / 'tests'),
  }
  kwargs = {'capture_output': True, 'text': True, 'check': False}
  result = subprocess.run(command, cwd=desk, env=environment, **kwargs)
  assert result.returncode == 0, result.stderr
  return result.stdout


def ids(blocks: list[tuple[str, str]]) -> list[str]:
  return [f'{language}-{i}' for i, (language, _) in enumerate(blocks)]


@pytest.mark.parametrize(('language', 'program'), PROGRAMS, ids=ids(PROGRAMS))
def test_a_program_runs_as_it_stands(language, program, desk):
  assert run(language, program, desk)


@pytest.mark.parametrize(('language', 'program'), REQUESTS, ids=ids(REQUESTS))
def test_a_request_to_serving_is_answered(language, program, desk):
  exported = desk / 'runs/seed/export/1'
  with fake_serving.serving(str(exported), 'lookbook') as ports:
    program = program.replace('localhost:8500', f'localhost:{ports.grpc}')
    answer = run(language, program.replace('localhost:8501', f'localhost:{ports.rest}'), desk)
  score = loaders.saved_model(str(exported))
  if 'boot.png' in program:
    (label,) = score('serve_encoded', np.array([(desk / 'boot.png').read_bytes()]))['label']
    assert label.decode() in answer
  else:
    labels = score('serve_pixels', np.zeros([2, 28, 28, 1], np.uint8))['label']
    assert str([label.decode() for label in labels]) in answer


def test_the_page_has_the_programs_that_it_is_about():
  assert collections.Counter(language for language, _ in BLOCKS) == {
    'sh': 3,
    'python': 5,
    'java': 1,
    'go': 1,
  }
  assert len(REQUESTS) == 3


def test_serving_is_started_on_versions_alone(desk):
  (folder, name) = re.search(r'-v "\$PWD/(\S+):/models/(\w+)"', DOCKER).groups()
  assert re.search(r'-e MODEL_NAME=(\w+)', DOCKER)[1] == name
  assert f'/v1/models/{name}:predict' in PAGE
  assert f"model_spec.name = '{name}'" in PAGE
  assert [path.name for path in (desk / folder).iterdir()] == ['1']


def test_the_tensors_have_the_names_on_the_page(exported):
  graph = loaders.graph_of(exported)
  assert list(graph.meta_info_def.tags) == ['serve']
  outputs = ('label', 'label_index', 'probabilities')
  assert f'| signature | argument | {cells(outputs)} |' in PAGE
  for name, argument in loaders.ARGUMENTS.items():
    signature = graph.signature_def[name]
    tensors = [signature.inputs[argument], *(signature.outputs[output] for output in outputs)]
    assert f'| `{name}` | {cells(tensor.name for tensor in tensors)} |' in PAGE


def cells(names: Iterable[str]) -> str:
  return ' | '.join(f'`{name}`' for name in names)


def test_java_and_go_use_names_that_the_model_has(exported):
  signature = loaders.graph_of(exported).signature_def['serve_encoded']
  (java,) = (content for language, content in BLOCKS if language == 'java')
  assert 'SavedModelBundle.load("runs/seed/export/1", "serve")' in java
  assert re.search(r'function\("(\w+)"\)', java)[1] == 'serve_encoded'
  assert re.search(r'Map\.of\("(\w+)"', java)[1] in signature.inputs
  assert re.search(r'answer\.get\("(\w+)"\)', java)[1] in signature.outputs
  (go,) = (content for language, content in BLOCKS if language == 'go')
  assert 'tf.LoadSavedModel("runs/seed/export/1", []string{"serve"}, nil)' in go
  argument, label = re.findall(r'Operation\("(\w+)"\)\.Output\((\d)\)', go)
  assert ':'.join(argument) == signature.inputs['encoded'].name
  assert ':'.join(label) == signature.outputs['label'].name
