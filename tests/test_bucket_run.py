"""Whole runs in a bucket, while one request in twenty fails: train, kill, resume, export, score."""

import base64
import hashlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import collection
from storage import files
from tests import bucket
from trainer import checkpoint

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN, SCORED = 'gs://lookbook/run', 'gs://lookbook/scored'
PICTURES = 'gs://pictures/png/**/*.png'
# 32 steps of 124 images
FLAGS = (
  '--validation_examples=56000',
  '--epochs=1',
  '--global_batch_size=124',
  '--precision=float32',
)
# A file that readers look for, and what has to be there when it is.
AFTER = {
  r'data/fashion_mnist/.*/dataset_info\.json': [
    r'data/.*-train\.tfrecord.*',
    r'data/.*-test\.tfrecord.*',
  ],
  r'run/export/1/saved_model\.pb': [
    r'run/export/1/variables/.*data.*',
    r'run/export/1/assets/model_card\.json',
  ],
  r'run/metrics\.json': [
    r'run/report/report\.html',
    r'run/export/1/saved_model\.pb',
    r'run/keras/model\.keras',
    r'run/history\.csv',
  ],
  r'scored/_SUCCESS': [r'scored/summary\.json', r'scored/report\.html', r'scored/predictions/.*'],
}


def check_content(name: str, content: bytes, listed: dict) -> None:
  """Raises where an object is not whole."""
  assert len(content) == int(listed['size'])
  assert base64.b64encode(google_crc32c.Checksum(content).digest()).decode() == listed['crc32c']
  if name.endswith('.json'):
    json.loads(content)
  elif name.endswith('.parquet'):
    assert pq.read_table(io.BytesIO(content)).num_rows
  elif name.endswith('.arrow'):
    assert pa.ipc.open_file(content).read_all().num_rows
  elif name.endswith('.ckpt'):
    assert (
      hashlib.sha256(content[checkpoint.DIGEST_BYTES :]).digest()
      == content[: checkpoint.DIGEST_BYTES]
    )
  elif name.endswith('.html'):
    assert content.rstrip().endswith(b'</html>')


class Watcher(threading.Thread):
  """Lists the bucket repeatedly, and checks every generation of every object that it finds."""

  def __init__(self, server: bucket.Bucket):
    super().__init__(daemon=True)
    self.server, self.ended, self.wrong = server, threading.Event(), []
    self.seen: dict[str, set[str]] = {}  # the generations of each object

  def run(self) -> None:
    while not self.ended.wait(0.05):
      items = {item['name']: item for item in self.server.listing('lookbook')}
      for name, item in items.items():
        if item['generation'] not in self.seen.setdefault(name, set()):
          self.seen[name].add(item['generation'])
          self.look_at(name, item)
      for mark, needed in AFTER.items():
        if any(re.fullmatch(mark, name) for name in items):
          self.wrong += [
            f'{mark} without {each}'
            for each in needed
            if not any(re.fullmatch(each, n) for n in items)
          ]

  def look_at(self, name: str, item: dict) -> None:
    content = self.server.content('lookbook', name, item['generation'])
    if content is None:  # replaced or deleted since
      return
    try:
      check_content(name, content, item)
    except (AssertionError, ValueError) as error:
      self.wrong.append(f'{name}: {error!r}')


@pytest.fixture(scope='module')
def watched(tfds_dir, tmp_path_factory):
  contents, home = tmp_path_factory.mktemp('contents'), tmp_path_factory.mktemp('server')
  collection.write(tfds_dir, 'png', 10_000, str(contents / 'pictures/png'))
  (contents / 'lookbook').mkdir()
  with bucket.serving(home, contents) as running, pytest.MonkeyPatch.context() as patch:
    for name, value in running.environment().items():
      patch.setenv(name, value)
    watcher = Watcher(running)
    watcher.start()
    yield watcher
    watcher.ended.set()
    watcher.join()
  assert not watcher.wrong
  assert sum(map(len, watcher.seen.values())) > 60


@pytest.fixture(scope='module')
def server(watched) -> bucket.Bucket:
  return watched.server


def start(module: str, *flags: str) -> subprocess.Popen:
  command = [sys.executable, '-m', module, *flags]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def finish(process: subprocess.Popen) -> str:
  said, _ = process.communicate()
  assert process.returncode == 0, said
  return said


def kill_when(process: subprocess.Popen, done) -> None:
  """Kills a process and all that it started, at the moment when `done()`."""
  while not done():
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()


def names(server: bucket.Bucket, pattern: str) -> list[str]:
  return [
    item['name'] for item in server.listing('lookbook') if re.fullmatch(pattern, item['name'])
  ]


@pytest.fixture(scope='module')
def trainings(server, tfds_dir, idx_dir, tmp_path_factory) -> tuple[str, pathlib.Path]:
  """The log of a trainer that resumed a killed one in the bucket; an undisturbed one's workdir."""
  local = tmp_path_factory.mktemp('local')
  undisturbed = start('trainer.main', f'--workdir={local}', f'--data_dir={tfds_dir}', *FLAGS)
  flags = (
    f'--workdir={RUN}',
    '--data_dir=gs://lookbook/data',
    f'--idx_dir={idx_dir}',
    '--checkpoint_every_steps=4',
  )
  kill_when(
    start('trainer.main', *flags, *FLAGS),
    lambda: len(names(server, r'run/checkpoints/.*[48]\.ckpt')) >= 2,
  )
  assert names(server, 'run/metrics.json') == []
  said = finish(start('trainer.main', *flags, *FLAGS))
  finish(undisturbed)
  return said, local


def test_training_ends_as_on_a_disk(trainings, server):
  said, local = trainings
  assert re.search(r'resuming from step \d+ of 32', said)
  ours, theirs = (checkpoint.newest(f'{home}/checkpoints') for home in (RUN, local))
  weights = [name for name in theirs if name.startswith(('variable/', 'best/'))]
  assert all(ours[name].tobytes() == theirs[name].tobytes() for name in [*weights, 'step'])
  metrics = [json.loads(files.read(f'{home}/metrics.json')) for home in (RUN, local)]
  for name in ('version', 'test_accuracy', 'test_loss', 'val_accuracy', 'confusion'):
    assert metrics[0][name] == metrics[1][name], name
  assert relative_names(RUN) == relative_names(str(local))


def relative_names(home: str) -> set[str]:
  """Returns the files of a run except its checkpoints."""
  found = {file.uri.removeprefix(f'{home}/') for file in files.list_files(home)}
  return {name for name in found if not name.startswith('checkpoints/')}


def test_scoring_ends_as_on_a_disk(trainings, watched, server):
  flags = (
    f'--model={RUN}/export/1',
    f'--input={PICTURES}',
    f'--output={SCORED}',
    '--label_from=directory',
    '--precision=float32',
    '--chunk_images=500',
  )
  kill_when(start('batch.main', *flags), lambda: len(names(server, 'scored/chunks/.*')) >= 3)
  assert names(server, 'scored/_SUCCESS') == []
  written = names(server, 'scored/chunks/.*')
  finish(start('batch.main', *flags, '--resume'))
  assert names(server, 'scored/_SUCCESS') == ['scored/_SUCCESS']
  summary = json.loads(files.read(f'{SCORED}/summary.json'))
  assert (summary['images_scored'], summary['images_rejected']) == (10_000, 0)
  assert (
    summary['accuracy'] == json.loads((trainings[1] / 'metrics.json').read_text())['test_accuracy']
  )
  tables = [
    pq.read_table(io.BytesIO(files.read(file.uri)))
    for file in files.match(f'{SCORED}/predictions/*')
  ]
  ids = sorted(name for table in tables for name in table['id'].to_pylist())
  assert ids == [file.uri for file in files.match(PICTURES)]
  assert all(len(watched.seen.get(name, ())) < 2 for name in written), (
    'a finished chunk was written again'
  )
  assert names(server, 'scored/chunks/.*') == []
  failed = server.counts()
  assert failed['failed_reads'] > 500
  assert failed['after'] >= 2


def test_overwriting_removes_what_was_there(trainings, server):
  flags = (f'--model={RUN}/export/1', f'--output={SCORED}', '--direct_num_workers=1')
  few = '--input=gs://pictures/png/Bag/test-00000*.png'
  from batch import main

  assert main.cli([*flags, few]) == 64
  assert main.cli([*flags, few, '--overwrite', '--direct_running_mode=in_memory']) == 0
  assert names(server, 'scored/predictions/.*') == [
    'scored/predictions/part-00000-of-00001.parquet'
  ]
  assert json.loads(files.read(f'{SCORED}/summary.json'))['images_scored'] == len(
    files.match(few.split('=')[1])
  )
