"""TensorFlow Serving's two doors in front of a SavedModel, as far as docs/serving.md goes through.

Requests are decoded and answers encoded by the rules of Serving's REST API (row and columnar
format, base64) and of its PredictionService. Tensors pass the named signature in the loader of
TensorFlow 1, as they do there.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import loaders
import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

METHOD = '/tensorflow.serving.PredictionService/Predict'

# The fields of predict.proto and model.proto in tensorflow_serving/apis that are used.
PREDICT_PROTO = """
name: 'fake_predict.proto'
package: 'tensorflow.serving'
syntax: 'proto3'
dependency: 'tensorflow/core/framework/tensor.proto'
message_type {
  name: 'ModelSpec'
  field { name: 'name' number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: 'signature_name' number: 3 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type {
  name: 'PredictRequest'
  field { name: 'model_spec' number: 1 label: LABEL_OPTIONAL type_name: 'ModelSpec' }
  field { name: 'inputs' number: 2 label: LABEL_REPEATED type_name: 'InputsEntry' }
  nested_type {
    name: 'InputsEntry'
    options { map_entry: true }
    field { name: 'key' number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: 'value' number: 2 label: LABEL_OPTIONAL type_name: '.tensorflow.TensorProto' }
  }
}
message_type {
  name: 'PredictResponse'
  field { name: 'outputs' number: 1 label: LABEL_REPEATED type_name: 'OutputsEntry' }
  field { name: 'model_spec' number: 2 label: LABEL_OPTIONAL type_name: 'ModelSpec' }
  nested_type {
    name: 'OutputsEntry'
    options { map_entry: true }
    field { name: 'key' number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: 'value' number: 2 label: LABEL_OPTIONAL type_name: '.tensorflow.TensorProto' }
  }
}
"""


def _message_class(name: str) -> type:
  found = descriptor_pool.Default().FindMessageTypeByName(f'tensorflow.serving.{name}')
  return message_factory.GetMessageClass(found)


_file = text_format.Parse(PREDICT_PROTO, descriptor_pb2.FileDescriptorProto())
descriptor_pool.Default().Add(_file)  # after what it depends on, which TensorFlow adds
PredictRequest = _message_class('PredictRequest')
PredictResponse = _message_class('PredictResponse')


class PredictionServiceStub:
  """The client that tensorflow_serving.apis has."""

  def __init__(self, channel: grpc.Channel):
    serialize, parse = PredictRequest.SerializeToString, PredictResponse.FromString
    self.Predict = channel.unary_unary(METHOD, serialize, parse)


class Ports(NamedTuple):
  grpc: int
  rest: int


@contextlib.contextmanager
def serving(export: str, name: str) -> Iterator[Ports]:
  """Serves a SavedModel as the model `name` on two ports of this machine."""
  score = loaders.v1(export)
  remote = _grpc_server(score, name)
  rest = http.server.ThreadingHTTPServer(('localhost', 0), _rest_handler(score, name))
  thread = threading.Thread(target=rest.serve_forever)
  port = remote.add_insecure_port('localhost:0')
  remote.start()
  thread.start()
  try:
    yield Ports(port, rest.server_address[1])
  finally:
    remote.stop(None)
    rest.shutdown()
    thread.join()
    rest.server_close()


def _grpc_server(score: loaders.Score, name: str) -> grpc.Server:
  def answer_request(request, context: grpc.ServicerContext):
    if request.model_spec.name != name:
      context.abort(grpc.StatusCode.NOT_FOUND, f'no model {request.model_spec.name}')
    signature = request.model_spec.signature_name or 'serving_default'
    (argument,) = request.inputs
    assert argument == loaders.ARGUMENTS[signature]
    answer = score(signature, tf.make_ndarray(request.inputs[argument]))
    outputs = {key: tf.make_tensor_proto(array) for key, array in answer.items()}
    return PredictResponse(outputs=outputs)

  parse, serialize = PredictRequest.FromString, PredictResponse.SerializeToString
  handler = grpc.unary_unary_rpc_method_handler(answer_request, parse, serialize)
  service, method = METHOD[1:].split('/')
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
  handlers = grpc.method_handlers_generic_handler(service, {method: handler})
  server.add_generic_rpc_handlers((handlers,))
  return server


def _rest_handler(score: loaders.Score, name: str) -> type[http.server.BaseHTTPRequestHandler]:
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
      try:
        assert self.path == f'/v1/models/{name}:predict', f'no {self.path}'
        status, answer = (
          200,
          predict(score, json.loads(self.rfile.read(int(self.headers['Content-Length'])))),
        )
      except Exception as error:
        status, answer = 400, {'error': repr(error)}
      self.send_response(status)
      self.end_headers()
      self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_) -> None:
      pass

  return Handler


def predict(score: loaders.Score, body: dict) -> dict:
  """Answers a REST predict request, in row format (`instances`) or columnar format (`inputs`)."""
  signature = body.get('signature_name', 'serving_default')
  argument = loaders.ARGUMENTS[signature]
  assert ('instances' in body) != ('inputs' in body), 'one of instances and inputs'
  if 'instances' in body:
    assert body['instances'], 'Serving takes no empty list of instances'
    rows = [row[argument] if _named(row) else row for row in body['instances']]
  else:
    rows = body['inputs'][argument] if _named(body['inputs']) else body['inputs']
  dtype = object if argument == 'encoded' else np.uint8
  answer = score(signature, np.array(_decoded(rows), dtype))
  columns = {key: _plain(array) for key, array in answer.items()}
  if 'inputs' in body:
    return {'outputs': columns}
  return {'predictions': [dict(zip(columns, row)) for row in zip(*columns.values())]}


def _named(value) -> bool:
  """Returns whether a JSON value holds tensors by their names; {"b64": ...} is one value."""
  return isinstance(value, dict) and set(value) != {'b64'}


def _decoded(value):
  """Returns a JSON value with its base64 decoded."""
  if isinstance(value, dict):
    return base64.b64decode(value['b64'], validate=True)
  return [_decoded(item) for item in value] if isinstance(value, list) else value


def _plain(array: np.ndarray) -> list:
  """Returns an output as JSON has it: strings as text, unless its name ends in _bytes."""
  return [item.decode() for item in array] if array.dtype == object else array.tolist()
