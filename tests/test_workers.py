"""What happens if one of the local runner's processes is killed."""

import subprocess
import time

import psutil
import pytest

from tests import score_kit as kit


def running(output, model, pattern: str) -> tuple[subprocess.Popen, dict[str, psutil.Process]]:
  """Returns a job that has written three chunks, and its processes by name."""
  command = kit.command(model, pattern, output, '--chunk_images=250')
  job = subprocess.Popen(command, cwd=kit.ROOT, stderr=subprocess.PIPE, text=True)
  while len(kit.chunks(output)) < 3:
    assert job.poll() is None, 'the job ended before anything could be killed'
    time.sleep(0.01)
  launcher = psutil.Process(job.pid)
  (server,) = launcher.children()
  return job, {'launcher': launcher, 'server': server, 'worker': server.children()[0]}


@pytest.mark.slow
@pytest.mark.parametrize('victim', ['worker', 'server', 'launcher'])
def test_a_killed_process_ends_the_job_and_leaves_none_behind(
  victim, collections, exported, tmp_path
):
  output = tmp_path / 'out'
  job, processes = running(output, exported, collections('tfrecord'))
  all_processes = [*processes.values(), *processes['server'].children()]
  processes[victim].kill()
  _, stderr = job.communicate()
  if victim != 'launcher':
    assert job.returncode == 1
    assert 'a worker process ended unexpectedly' in stderr
    assert stderr.splitlines()[-1].startswith('lookbook-score: ')
  assert not psutil.wait_procs(all_processes, timeout=60)[1], 'a process is still there'
  assert not (output / '_SUCCESS').exists()
  again = kit.score_outside(
    exported, collections('tfrecord'), output, '--chunk_images=250', '--resume'
  )
  assert again.returncode == 0, again.stderr
  kit.check_books(output)


def test_a_refused_job_leaves_no_process_behind(exported, tmp_path):
  command = kit.command(exported, tmp_path / 'missing.png', tmp_path / 'out')
  job = subprocess.Popen(command, cwd=kit.ROOT, stderr=subprocess.PIPE, text=True)
  seen: dict[int, psutil.Process] = {}
  while job.poll() is None:
    try:
      seen |= {child.pid: child for child in psutil.Process(job.pid).children(recursive=True)}
    except psutil.NoSuchProcess:
      break
    time.sleep(0.05)
  assert job.wait() == 64
  assert not psutil.wait_procs(list(seen.values()), timeout=60)[1]
