"""The real data and one real training, shared by the tests that need them."""

import fcntl
import gc
import json
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from tests import edge_kit, resume_kit
from tests.train_kit import CACHE, run_command, unpacked_libraries


def pytest_unconfigure() -> None:
  gc.unfreeze()  # what the scorer froze in this process; DuckDB would report it as leaked


@pytest.fixture(scope='session')
def idx_dir() -> str:
  """Returns the directory of the four published IDX .gz files."""
  path = CACHE / 'debian/root/usr/share/datasets/fashion-mnist'
  assert path.is_dir(), f'{path} is missing: make test puts it there'
  return str(path)


@pytest.fixture(scope='session')
def tfds_dir(idx_dir) -> str:
  """Returns a TFDS directory with fashion_mnist prepared."""
  from trainer.datasets import fashion_mnist

  fashion_mnist.prepare(str(CACHE / 'tfds'), idx_dir)
  return str(CACHE / 'tfds')


@pytest.fixture(scope='session')
def small_tfds_dir(tfds_dir) -> str:
  """Returns a TFDS directory with the first 4,500 training and 1,000 test images only."""
  return part_of(tfds_dir, 'tfds-small', 4500, 1000)


@pytest.fixture(scope='session')
def tiny_tfds_dir(tfds_dir) -> str:
  """Returns a TFDS directory with the first 40 training and 7 test images only."""
  return part_of(tfds_dir, 'tfds-tiny', 40, 7)


def part_of(tfds_dir: str, name: str, train: int, test: int) -> str:
  """Prepares the first images of each split in .cache, unless they are there."""
  import tensorflow_datasets as tfds

  from trainer.datasets import fashion_mnist

  home, whole = CACHE / name, fashion_mnist.prepare(tfds_dir)
  with open(CACHE / f'{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
    if not (home / 'fashion_mnist' / fashion_mnist.VERSION).exists():
      tfds.dataset_builders.store_as_tfds_dataset(
        'fashion_mnist',
        fashion_mnist.VERSION,
        data_dir=home,
        features=whole.info.features,
        split_datasets={
          'train': whole.as_dataset(split=f'train[:{train}]'),
          'test': whole.as_dataset(split=f'test[:{test}]'),
        },
      )
  return str(home)


@pytest.fixture(scope='session')
def shared(tmp_path_factory) -> Callable[[str, Callable[[pathlib.Path], None]], pathlib.Path]:
  """Returns a function that makes a directory once for all of pytest's processes.

  The first of them that needs the directory calls what makes it; none may change it later.
  """
  home = tmp_path_factory.getbasetemp()
  home = home.parent if 'PYTEST_XDIST_WORKER' in os.environ else home

  def get(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    with open(home / f'{name}.lock', 'a+') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (home / f'{name}.made').exists():
        make(home / name)
        (home / f'{name}.made').touch()
    return home / name

  return get


def train(workdir: pathlib.Path, *flags: str) -> None:
  result = run_command(f'--workdir={workdir}', *flags)
  assert result.returncode == 0, result.stderr


@pytest.fixture(scope='session')
def trained(tfds_dir, shared) -> pathlib.Path:
  """Returns the workdir of a real run: two epochs of 54,000 images."""
  flags = (f'--data_dir={tfds_dir}', '--epochs=2')
  return shared('trained', lambda workdir: train(workdir, *flags))


@pytest.fixture(scope='session')
def undisturbed(small_tfds_dir, shared) -> pathlib.Path:
  """Returns the workdir of a run of resume_kit.FLAGS that nothing disturbed."""
  flags = (f'--data_dir={small_tfds_dir}', *resume_kit.FLAGS)
  return shared('undisturbed', lambda workdir: train(workdir, *flags))


@pytest.fixture(scope='session')
def tiny(tiny_tfds_dir, shared) -> pathlib.Path:
  """Returns the workdir of a finished run of edge_kit.FLAGS."""
  flags = (f'--data_dir={tiny_tfds_dir}', *edge_kit.FLAGS)
  return shared('tiny', lambda workdir: train(workdir, *flags))


@pytest.fixture(scope='session')
def metrics(trained) -> dict:
  return json.loads((trained / 'metrics.json').read_text())


@pytest.fixture(scope='session')
def exported(trained) -> pathlib.Path:
  """Returns the SavedModel of the run."""
  return trained / 'export/1'


@pytest.fixture(scope='session')
def browser():
  """Yields headless Chromium: the system's if it has one, else the one that make test unpacked."""
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
      # Where that configuration looks for fonts besides /usr.
      patch.setenv('XDG_DATA_HOME', str(unpacked / 'usr/share'))
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


@pytest.fixture(scope='session')
def collections(tfds_dir, tmp_path_factory):
  """Returns the --input of the 10,000 test images, for any format."""
  from benchmarks import collection

  home = tmp_path_factory.mktemp('collections')
  made: dict[str, str] = {}

  def get(kind: str) -> str:
    if kind not in made:
      made[kind] = collection.write(
        tfds_dir, kind, 10_000, str(home / kind), shards=2 if kind == 'tar' else 1
      )
    return made[kind]

  return get
