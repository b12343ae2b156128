"""Fashion-MNIST: its preparation, and what is refused."""

import gzip
import http.server
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import tensorflow_datasets as tfds
from absl import app

from trainer import datasets, exit_codes, failures
from trainer.datasets import fashion_mnist, fashion_mnist_files

PIXELS, LABELS = 'train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'

# Prepares the dataset and prints the number of its test images.
PREPARE = """
import sys
from trainer import datasets
data_dir, idx_dir = sys.argv[1:]
dataset = datasets.load('fashion_mnist', data_dir=data_dir, idx_dir=idx_dir)
print(len(dataset.read('test')))
"""


@pytest.fixture
def own_idx(idx_dir, tmp_path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(idx_dir, tmp_path / 'idx'))


@pytest.fixture
def no_route(monkeypatch):
  """Sets a download address on this machine where nothing listens."""
  monkeypatch.setattr(fashion_mnist.mnist.FashionMNIST, 'URL', 'http://127.0.0.1:9/')


def serve(status: int, size: int, content: bytes) -> str:
  """Returns the address of a server that declares `size` bytes of any file and sends `content`.

  It lasts as long as this process: after an error, TFDS's threads go on with the other files.
  """

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
      self.send_response(200)
      self.end_headers()

    def do_GET(self) -> None:
      self.send_response(status)
      self.send_header('Content-Length', str(size))
      self.end_headers()
      self.wfile.write(content)

    def log_message(self, *_) -> None:
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  return f'http://127.0.0.1:{server.server_port}/'


class TestPrepare:
  def test_holds_every_published_image_in_some_order(self, tfds_dir, idx_dir):
    for split, prefix in (('train', 'train'), ('test', 't10k')):
      examples = fashion_mnist.read(fashion_mnist.prepare(tfds_dir), split)
      raw = (
        fashion_mnist_files.read_idx(idx_dir, f'{prefix}-images-idx3-ubyte.gz')[16:],
        fashion_mnist_files.read_idx(idx_dir, f'{prefix}-labels-idx1-ubyte.gz')[8:],
      )
      published = sorted(zip(raw[1], (raw[0][i : i + 784] for i in range(0, len(raw[0]), 784))))
      assert (
        sorted((label, image.tobytes()) for image, label in zip(examples.pixels, examples.labels))
        == published
      )

  def test_uses_a_prepared_directory_offline(self, tfds_dir, no_route):
    assert fashion_mnist.prepare(tfds_dir).info.splits['test'].num_examples == 10_000

  def test_takes_a_smaller_set_for_a_trial_with_a_warning(self, small_tfds_dir, caplog):
    dataset = datasets.load('fashion_mnist', data_dir=small_tfds_dir)
    assert dataset.read('test').pixels.shape == (1000, 28, 28, 1)
    assert "{'train': 4500, 'test': 1000}; Fashion-MNIST has" in caplog.text

  def test_takes_files_whose_gzip_headers_differ(self, own_idx):
    content = gzip.decompress((own_idx / LABELS).read_bytes())
    (own_idx / LABELS).write_bytes(gzip.compress(content, compresslevel=1))
    assert fashion_mnist_files.read_idx(str(own_idx), LABELS) == content

  def test_without_a_route_names_the_way_out(self, tmp_path, no_route):
    with pytest.raises(app.UsageError, match=r'no route to http://127\.0\.0\.1:9/.*--idx_dir'):
      fashion_mnist.prepare(str(tmp_path))

  def test_a_host_that_never_answers_counts_as_no_route(self, tmp_path, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as silent:
      monkeypatch.setattr(fashion_mnist_files, 'ROUTE_SECONDS', 0.5)
      monkeypatch.setattr(
        fashion_mnist.mnist.FashionMNIST, 'URL', f'http://127.0.0.1:{silent.getsockname()[1]}/'
      )
      with pytest.raises(app.UsageError, match='no route'):
        fashion_mnist.prepare(str(tmp_path))

  @pytest.mark.parametrize(
    ('status', 'size', 'checksum', 'code', 'said'),
    [
      (
        200,
        1000,
        '',
        exit_codes.FAILED,
        r'the download failed \(.*996 more expected.*\); .*, or rerun the same',
      ),
      (404, 4, '', exit_codes.FAILED, r'the download failed \(.*404.*\); .*, or rerun the same'),
      (200, 4, '0' * 64, exit_codes.BAD_INPUT, r'cannot prepare it \(.*has wrong checksum\); '),
      (200, 4, '', exit_codes.BAD_INPUT, r'cannot prepare it \(.*Not a gzipped file.*\); '),
    ],
  )
  def test_a_download_that_fails_is_one_line(
    self, status, size, checksum, code, said, tmp_path, monkeypatch
  ):
    url = serve(status, size, b'part')
    published = tfds.core.download.checksums.UrlInfo(4, checksum, 'x')
    infos = {f'{url}{name}': published for name in fashion_mnist_files.IDX_SHA256 if checksum}
    monkeypatch.setattr(fashion_mnist.mnist.FashionMNIST, 'URL', url)
    monkeypatch.setattr(fashion_mnist.mnist.FashionMNIST, 'url_infos', infos)
    with pytest.raises(Exception, match=said) as raised:
      fashion_mnist.prepare(str(tmp_path))
    failure = failures.explained(raised.value)
    assert failure.code == code
    assert str(failure).startswith(f'--data_dir={tmp_path}: fashion_mnist')
    assert 'pass --idx_dir=DIR' in str(failure)

  def test_refuses_a_truncated_file(self, own_idx, tmp_path):
    (own_idx / PIXELS).write_bytes((own_idx / PIXELS).read_bytes()[:100_000])
    with pytest.raises(app.UsageError, match=f'{PIXELS} cannot be read'):
      fashion_mnist.prepare(str(tmp_path / 'data'), str(own_idx))
    assert not list((tmp_path / 'data').glob('**/*.tfrecord*'))

  def test_refuses_an_altered_file_by_its_sum(self, own_idx, tmp_path):
    content = bytearray(gzip.decompress((own_idx / LABELS).read_bytes()))
    content[1000] ^= 1
    (own_idx / LABELS).write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(
      app.UsageError, match=f'{LABELS} has sha256 .*{fashion_mnist_files.IDX_SHA256[LABELS]}'
    ):
      fashion_mnist.prepare(str(tmp_path / 'data'), str(own_idx))

  def test_refuses_the_source_of_another_dataset(self):
    with pytest.raises(app.UsageError, match='--source=here: is for --dataset=folder'):
      datasets.load('fashion_mnist', source='here')

  def test_has_the_labels_of_tfds(self, tfds_dir):
    assert fashion_mnist.prepare(tfds_dir).info.features['label'].names == list(
      fashion_mnist.LABELS
    )

  def test_refuses_a_missing_file(self, own_idx, tmp_path):
    (own_idx / LABELS).unlink()
    with pytest.raises(app.UsageError, match=f'{LABELS} cannot be read'):
      fashion_mnist.prepare(str(tmp_path / 'data'), str(own_idx))

  def test_refuses_another_version(self, tmp_path):
    (tmp_path / 'fashion_mnist/1.0.0').mkdir(parents=True)
    (tmp_path / 'fashion_mnist/1.0.0/dataset_info.json').write_text('{}')
    with pytest.raises(
      app.UsageError, match=rf'{tmp_path}: has fashion_mnist 1\.0\.0.*{fashion_mnist.VERSION}'
    ):
      fashion_mnist.prepare(str(tmp_path))

  def test_two_processes_at_once_both_get_it(self, idx_dir, tmp_path):
    command = [sys.executable, '-c', PREPARE, str(tmp_path), idx_dir]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].split()[-1] for process in both] == ['10000', '10000']
    assert [path.name for path in (tmp_path / 'fashion_mnist').iterdir()] == [fashion_mnist.VERSION]
