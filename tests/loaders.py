"""Scores with SavedModels through one of their loaders, in a process of its own.

usage: loaders.py LOADER CASES EXPORT ANSWERS [EXPORT ANSWERS ...]

CASES holds SIGNATURE-ROWS.npy, each the signature's argument: uint8 pixels, or encoded images as
bytes. For each, SIGNATURE-ROWS.npz is written to an export's ANSWERS: the signature's outputs by
their names.
"""

import contextlib
import json
import os
import pathlib
import runpy
import sys
import tempfile
from collections.abc import Callable

import numpy as np

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

Answers = dict[str, np.ndarray]
Score = Callable[[str, np.ndarray], Answers]  # from a signature's name and its argument

ARGUMENTS = {'serving_default': 'pixels', 'serve_pixels': 'pixels', 'serve_encoded': 'encoded'}
OUTPUTS = ('probabilities', 'label_index', 'label')


def graph_of(export: pathlib.Path):
  """Returns the only MetaGraphDef of a SavedModel."""
  from tensorflow.core.protobuf import saved_model_pb2

  content = (export / 'saved_model.pb').read_bytes()
  (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
  return graph


def saved_model(export: str) -> Score:
  """Returns tf.saved_model.load's answers."""
  import tensorflow as tf

  loaded = tf.saved_model.load(export)

  def score(signature: str, rows: np.ndarray) -> Answers:
    answer = loaded.signatures[signature](**{ARGUMENTS[signature]: tf.constant(rows)})
    return {name: tensor.numpy() for name, tensor in answer.items()}

  return score


def v1(export: str) -> Score:
  """Returns what TensorFlow 1's loader answers in a session."""
  import tensorflow as tf

  session = tf.compat.v1.Session(graph=tf.Graph())
  with session.graph.as_default():
    definitions = tf.compat.v1.saved_model.load(session, ['serve'], export).signature_def

  def score(signature: str, rows: np.ndarray) -> Answers:
    definition = definitions[signature]
    feed = {definition.inputs[ARGUMENTS[signature]].name: rows}
    return session.run({name: info.name for name, info in definition.outputs.items()}, feed)

  return score


def saved_model_cli(export: str) -> Score:
  """Returns what `saved_model_cli run` writes."""
  program = pathlib.Path(sys.executable).with_name('saved_model_cli')

  def score(signature: str, rows: np.ndarray) -> Answers:
    with tempfile.TemporaryDirectory() as scratch:
      np.save(f'{scratch}/rows.npy', rows)
      command = [
        program,
        'run',
        '--dir',
        export,
        '--tag_set',
        'serve',
        '--signature_def',
        signature,
      ]
      files = ['--inputs', f'{ARGUMENTS[signature]}={scratch}/rows.npy', '--outdir', scratch]
      run_here(*command, *files)
      return {name: np.load(f'{scratch}/{name}.npy', allow_pickle=True) for name in OUTPUTS}

  return score


def run_here(program: pathlib.Path, *arguments: str) -> None:
  """Runs a Python program in this process, so that TensorFlow is imported once."""
  sys.argv = [str(program), *arguments]
  try:
    runpy.run_path(str(program), run_name='__main__')
  except SystemExit as ended:
    if ended.code:
      raise


def c_api(export: str) -> Score:
  """Returns what libtensorflow answers.

  TENSORS in the environment has the names of each export's tensors as JSON.
  """
  import c_api

  session, tensors = c_api.Session(export), json.loads(os.environ['TENSORS'])[export]

  def score(signature: str, rows: np.ndarray) -> Answers:
    names = tensors[signature]
    arrays = session.run({names[ARGUMENTS[signature]]: rows}, [names[output] for output in OUTPUTS])
    assert 'tensorflow' not in sys.modules
    return dict(zip(OUTPUTS, arrays))

  return score


def tfsm_layer(export: str) -> Score:
  """Returns what a Keras layer around the SavedModel answers."""
  import keras
  import tensorflow as tf

  layers = {name: keras.layers.TFSMLayer(export, call_endpoint=name) for name in ARGUMENTS}

  def score(signature: str, rows: np.ndarray) -> Answers:
    return {name: tensor.numpy() for name, tensor in layers[signature](tf.constant(rows)).items()}

  return score


def tflite(export: str) -> Score:
  """Returns what TFLite's interpreter answers after a conversion."""
  import tensorflow as tf

  converter = tf.lite.TFLiteConverter.from_saved_model(export, signature_keys=['serve_pixels'])
  interpreter = tf.lite.Interpreter(model_content=converter.convert())
  runner = interpreter.get_signature_runner('serve_pixels')

  def score(signature: str, rows: np.ndarray) -> Answers:
    assert signature == 'serve_pixels'
    return runner(pixels=rows)

  return score


LOADERS: dict[str, Callable[[str], Score]] = {
  'saved_model': saved_model,
  'v1': v1,
  'saved_model_cli': saved_model_cli,
  'c_api': c_api,
  'tfsm_layer': tfsm_layer,
  'tflite': tflite,
}


def main(loader: str, cases: str, *places: str) -> None:
  for export, answers in zip(places[::2], places[1::2]):
    score = LOADERS[loader](export)
    for path in sorted(pathlib.Path(cases).glob('*.npy')):
      answer = score(path.stem.split('-')[0], np.load(path))
      answer['label'] = answer['label'].astype('S')  # or it would be pickled
      np.savez(pathlib.Path(answers) / f'{path.stem}.npz', **answer)


if __name__ == '__main__':
  with contextlib.redirect_stdout(sys.stderr):
    main(*sys.argv[1:])
