"""An outage of Cloud Storage while images are read: the run fails, and nothing unread counts."""

import gzip
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from batch import chunk, main, source
from benchmarks import collection
from storage import files, gcs
from tests import bucket, model_kit, pictures, reader_kit
from tests import score_kit as kit

IMAGES = 3000  # 2.5 MB in one shard: more than one block of a stream
FORMATS = ('tar', 'tfrecord', 'parquet', 'idx', 'manifest', 'image')
FLAGS = ('--chunk_images=500', '--precision=float32', '--read_threads=1')


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> str:
  """A SavedModel on the disk."""
  directory = tmp_path_factory.mktemp('model') / '1'
  model_kit.export_model(directory, labels=[f'class {i}' for i in range(10)])
  return str(directory)


@pytest.fixture(scope='module')
def contents(tmp_path_factory) -> pathlib.Path:
  """A bucket `pictures` with the same noise in each format, and fewer of it in files."""
  home = tmp_path_factory.mktemp('contents')
  pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28), np.uint8)
  encoded = [pictures.saved(image, 'PNG') for image in pixels]
  rows = [(n, data, n % 10) for n, data in enumerate(encoded)]
  folder = home / 'pictures'
  for name in ('idx', 'files'):
    (folder / name).mkdir(parents=True)
  collection.write_tar(str(folder / 'a.tar'), iter(rows))
  collection.write_tfrecord(str(folder / 'a.tfrecord.gz'), iter(rows))
  collection.write_parquet(str(folder / 'a.parquet'), iter(rows))
  table = pq.read_table(folder / 'a.parquet')
  pq.write_table(table, folder / 'a.parquet', row_group_size=1000)
  collection.write_idx(str(folder / 'idx'), 'a', pixels, np.arange(IMAGES) % 10)
  plain = folder / 'idx' / 'a-images-idx3-ubyte'
  (folder / 'idx' / 'a-images-idx3-ubyte.gz').write_bytes(gzip.compress(plain.read_bytes(), 1))
  plain.unlink()
  for n, data in enumerate(encoded[:100]):
    (folder / 'files' / f'{n:03d}.png').write_bytes(data)
  names = ''.join(f'files/{n:03d}.png\n' for n in range(100))
  (folder / 'list.txt').write_text(names)
  return home


@pytest.fixture(scope='module')
def server(contents, tmp_path_factory):
  with bucket.serving_this_process(tmp_path_factory.mktemp('server'), contents, every=0) as running:
    yield running


INPUTS = {
  'tar': 'gs://pictures/a.tar',
  'tfrecord': 'gs://pictures/a.tfrecord.gz',
  'parquet': 'gs://pictures/a.parquet',
  'idx': 'gs://pictures/idx/a-images-idx3-ubyte.gz',
  'manifest': 'gs://pictures/list.txt',
  'image': 'gs://pictures/files/*.png',
}


@pytest.mark.parametrize('kind', FORMATS)
def test_an_outage_fails_the_run_and_a_resumed_one_completes_it(
  kind, model, server, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(gcs.CALL, 'retry', gcs.CALL['retry'].with_timeout(0.5))
  flags = (*FLAGS, '--chunk_images=40') if kind in ('manifest', 'image') else FLAGS
  before = server.counts().get('reads', 0)
  reference = kit.score(model, INPUTS[kind], tmp_path / 'whole', *flags)
  reads = server.counts()['reads'] - before
  argv = [f'--model={model}', f'--input={INPUTS[kind]}', f'--output={tmp_path}/out', *flags]
  spare = 4 if kind == 'parquet' else 1  # whose threads do not always need as many
  server.fail_after(reads - spare)
  try:
    assert main.cli([*argv, *kit.IN_PROCESS]) == 1
  finally:
    server.fail_after(-1)
  assert 'Cloud Storage is not responding' in capsys.readouterr().err
  assert kit.chunks(tmp_path / 'out')
  assert not (tmp_path / 'out' / '_SUCCESS').exists()
  assert not (tmp_path / 'out' / 'predictions').exists()
  assert main.cli([*argv, '--resume', *kit.IN_PROCESS]) == 0
  whole = kit.file_bytes(tmp_path / 'whole', 'predictions')
  assert kit.file_bytes(tmp_path / 'out', 'predictions') == whole
  summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
  for name in ('images_seen', 'images_scored', 'images_rejected'):
    assert summary[name] == reference[name]


@pytest.mark.parametrize('kind', ['tar', 'tfrecord'])
def test_an_object_that_is_replaced_while_it_is_read_fails_the_run(kind, server):
  uri = f'{INPUTS[kind]}.copy'
  content = files.read(INPUTS[kind])
  files.write(uri, content)
  chunks = source.read(chunk.Shard(0, kind, uri), 0, reader_kit.settings(chunk_images=100))
  assert len(next(chunks).ids) == 100
  files.write(uri, content[:-1])
  with pytest.raises(files.Unavailable, match='was replaced'):
    list(chunks)
