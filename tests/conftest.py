"""The real data and one real training, shared by the tests that need them."""

import fcntl
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / '.cache'


def pytest_unconfigure() -> None:
  gc.unfreeze()  # what the scorer froze in this process: DuckDB would call it leaked


def run_trainer(*flags: str, **kwargs) -> subprocess.CompletedProcess:
  """`python -m trainer.main` with these flags, its output captured as text."""
  command = [sys.executable, '-m', 'trainer.main', *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope='session')
def idx_dir() -> str:
  """The four published IDX .gz files."""
  path = CACHE / 'debian/root/usr/share/datasets/fashion-mnist'
  assert path.is_dir(), f'{path} is missing: make test puts it there'
  return str(path)


@pytest.fixture(scope='session')
def tfds_dir(idx_dir) -> str:
  """A TFDS directory with fashion_mnist prepared."""
  from trainer import data

  data.prepare(str(CACHE / 'tfds'), idx_dir)
  return str(CACHE / 'tfds')


@pytest.fixture(scope='session')
def small_tfds_dir(tfds_dir) -> str:
  """A TFDS directory whose fashion_mnist has the first 4,500 training images and 1,000 test images."""
  import tensorflow_datasets as tfds

  from trainer import data

  home, whole = CACHE / 'tfds-small', data.prepare(tfds_dir)
  with open(CACHE / 'tfds-small.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
    if not (home / 'fashion_mnist' / data.VERSION).exists():
      tfds.dataset_builders.store_as_tfds_dataset(
        'fashion_mnist',
        data.VERSION,
        data_dir=home,
        features=whole.info.features,
        split_datasets={
          'train': whole.as_dataset(split='train[:4500]'),
          'test': whole.as_dataset(split='test[:1000]'),
        },
      )
  return str(home)


@pytest.fixture(scope='session')
def trained(tfds_dir, tmp_path_factory) -> pathlib.Path:
  """The workdir of a real run: two epochs of 54,000 images."""
  workdir = tmp_path_factory.mktemp('trained')
  result = run_trainer(f'--workdir={workdir}', f'--data_dir={tfds_dir}', '--epochs=2')
  assert result.returncode == 0, result.stderr
  return workdir


@pytest.fixture(scope='session')
def metrics(trained) -> dict:
  return json.loads((trained / 'metrics.json').read_text())


@pytest.fixture(scope='session')
def exported(trained) -> pathlib.Path:
  """The SavedModel of the run."""
  return trained / 'export/1'


def unpacked_libraries() -> str:
  """An LD_LIBRARY_PATH for the programs that make test unpacked."""
  return ':'.join(
    sorted({str(path.parent) for path in (CACHE / 'debian/root').glob('**/lib*.so*')})
  )


@pytest.fixture(scope='session')
def browser():
  """Headless Chromium: the system's where it has one, else the one that make test unpacked."""
  from playwright import sync_api

  unpacked = CACHE / 'debian/root'
  flags = [
    '--no-sandbox',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('LD_LIBRARY_PATH', unpacked_libraries())
    if not os.path.exists('/etc/fonts'):
      patch.setenv('FONTCONFIG_PATH', str(unpacked / 'etc/fonts'))
      patch.setenv(
        'XDG_DATA_HOME', str(unpacked / 'usr/share')
      )  # where that configuration looks for fonts besides /usr
    with sync_api.sync_playwright() as playwright:
      executable = shutil.which('chromium') or str(unpacked / 'usr/lib/chromium/chromium')
      chromium = playwright.chromium.launch(executable_path=executable, args=flags)
      yield chromium
      chromium.close()


@pytest.fixture(scope='session')
def few(tfds_dir, tmp_path_factory) -> str:
  """The scorer's --input of 3,000 test images in two TFRecord files."""
  from benchmarks import collection

  return collection.write(tfds_dir, 'tfrecord', 3000, str(tmp_path_factory.mktemp('few')), shards=2)
