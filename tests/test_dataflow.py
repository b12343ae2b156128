"""Jobs that are submitted to Dataflow, which a stub stands in for; the bucket is a real server."""

import http.server
import json
import threading

import pytest

from batch import main
from storage import files
from tests import bucket, model_kit, pictures

pytestmark = pytest.mark.slow

DATAFLOW = (
  '--runner=DataflowRunner',
  '--project=project',
  '--region=us-central1',
  '--temp_location=gs://lookbook/tmp',
  '--staging_location=gs://lookbook/staging',
  '--sdk_location=container',
)


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  home = tmp_path_factory.mktemp('server')
  with bucket.serving(home, every=10**9) as running, pytest.MonkeyPatch.context() as patch:
    for name, value in running.environment().items():
      patch.setenv(name, value)
    running.create('lookbook')
    for number, content in enumerate(pictures.noise_pngs(3)):
      running.put('lookbook', f'pictures/{number}.png', content)
    yield running


@pytest.fixture
def flags(server, tmp_path) -> list[str]:
  """The scorer's flags of a small job, with an output of its own."""
  model_kit.export_model(tmp_path / 'model')
  output = f'gs://lookbook/{tmp_path.name}'
  return [f'--model={tmp_path}/model', '--input=gs://lookbook/pictures', f'--output={output}']


class Jobs(http.server.BaseHTTPRequestHandler):
  """Takes every job, and says that it waits for its turn."""

  taken: list[dict]

  def do_POST(self) -> None:
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    self.taken.append(body)
    self._answer({'id': 'job-1', 'name': body['name'], 'currentState': 'JOB_STATE_QUEUED'})

  def do_GET(self) -> None:
    self._answer({'jobs': []} if self.path.split('?')[0].endswith('/jobs') else {})

  def _answer(self, answer: dict) -> None:
    content = json.dumps(answer).encode()
    self.send_response(200)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_) -> None:
    """Says nothing."""


@pytest.fixture
def jobs() -> tuple[str, list[dict]]:
  """The address of a stub of Dataflow's API, and the jobs that it takes."""
  taken: list[dict] = []
  handler = type('Handler', (Jobs,), {'taken': taken})
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as stub:
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    yield f'http://localhost:{stub.server_address[1]}', taken
    stub.shutdown()


def assert_submitted(output: str, said: str) -> None:
  assert said.splitlines()[-1].startswith('submitted; the job has not run yet')
  names = {file.uri.removeprefix(f'{output}/') for file in files.list_files(output)}
  assert names == {'settings.json', 'files.jsonl'}


def test_a_template_is_written(flags, capsys):
  template = 'gs://lookbook/templates/score'
  assert main.cli([*flags, *DATAFLOW, f'--template_location={template}']) == 0
  assert_submitted(flags[-1].split('=', 1)[1], capsys.readouterr().out)
  job = json.loads(files.read(template))
  assert job['type'] == 'JOB_TYPE_BATCH'
  options = job['environment']['sdkPipelineOptions']['options']
  assert options['project'] == 'project'


def test_a_job_is_submitted(flags, jobs, capsys):
  address, taken = jobs
  endpoint = ('--dataflow_endpoint', address, '--no_wait_until_finish', '--no_auth')
  assert main.cli([*flags, *DATAFLOW, *endpoint]) == 0
  assert_submitted(flags[-1].split('=', 1)[1], capsys.readouterr().out)
  (job,) = taken
  options = job['environment']['sdkPipelineOptions']['options']
  assert options['project'] == 'project'
  assert files.exists(options['pipelineUrl'])


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    ('--project=Not A Project', 'project'),
    ('--runner=NoSuchRunner', 'NoSuchRunner'),
  ],
)
def test_wrong_options_are_refused_before_the_output_is_claimed(flags, wrong, said, capsys):
  assert main.cli([*flags, *DATAFLOW, wrong]) == 64
  assert said in capsys.readouterr().err
  assert not files.list_files(flags[-1].split('=', 1)[1])
