"""Writes the Fashion-MNIST test images as a collection to score, in any of the formats that the scorer reads.

  python -m benchmarks.collection --data_dir=DIR --format=png --images=10000 --output=pictures

Past 10,000 the images repeat; ids do not. Each id ends in the image's number.
"""

import argparse
import csv
import gzip
import io
import os
import struct
import sys
import tarfile
from collections.abc import Iterator

import numpy as np

FORMATS = ('png', 'tfrecord', 'tfrecord.gz', 'tar', 'idx', 'parquet', 'manifest')


def test_images(data_dir: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """(pixels uint8 (10000, 28, 28, 1), labels int64 (10000,), label names) of a prepared TFDS directory."""
  import tensorflow_datasets as tfds

  builder = tfds.builder('fashion_mnist', data_dir=data_dir)
  dataset = builder.as_dataset(split='test', as_supervised=True, shuffle_files=False, batch_size=-1)
  pixels, labels = tfds.as_numpy(dataset)
  return pixels, labels, builder.info.features['label'].names


def write(data_dir: str, kind: str, images: int, output: str, shards: int = 1) -> str:
  """Writes the collection and returns the --input that names it."""
  import tensorflow as tf

  pixels, labels, names = test_images(data_dir)
  os.makedirs(output, exist_ok=True)
  parts = [range(images * i // shards, images * (i + 1) // shards) for i in range(shards)]
  path = lambda i, suffix: os.path.join(output, f'test-{i:05d}-of-{shards:05d}{suffix}')
  if kind == 'idx':
    for i, part in enumerate(parts):
      _write_idx(output, f'part{i:05d}', pixels[np.array(part) % len(pixels)], labels[np.array(part) % len(labels)])
    return os.path.join(output, '*-images-idx3-ubyte')
  encoded = [tf.io.encode_png(image).numpy() for image in pixels[:images]]
  rows = lambda part: ((n, encoded[n % len(encoded)], int(labels[n % len(labels)])) for n in part)
  if kind in ('png', 'manifest'):
    return _write_files(output, rows(range(images)), names, kind)
  writer = {'tar': _write_tar, 'parquet': _write_parquet}.get(kind, _write_tfrecord)
  suffix = f'.{kind}'
  for i, part in enumerate(parts):
    writer(path(i, suffix), rows(part))
  return os.path.join(output, f'test-*{suffix}')


Rows = Iterator[tuple[int, bytes, int]]  # number, PNG, label


def _write_files(output: str, rows: Rows, names: list[str], kind: str) -> str:
  """PNG files in folders named after their labels, and beside them a manifest that says the same."""
  manifest = os.path.join(output, 'manifest.csv')
  with open(manifest, 'w', newline='') as file:
    table = csv.writer(file, lineterminator='\n')
    table.writerow(['uri', 'label'])
    for number, png, label in rows:
      name = os.path.join(names[label].replace('/', '-'), f'test-{number:07d}.png')
      os.makedirs(os.path.join(output, os.path.dirname(name)), exist_ok=True)
      with open(os.path.join(output, name), 'wb') as image:
        image.write(png)
      table.writerow([name, label])
  return manifest if kind == 'manifest' else os.path.join(output, '**/*.png')


def _write_tfrecord(path: str, rows: Rows) -> None:
  import tensorflow as tf

  feature = lambda kind, values: tf.train.Feature(**{f'{kind}_list': {'value': [values]}})
  with tf.io.TFRecordWriter(path, 'GZIP' if path.endswith('.gz') else '') as writer:
    for number, png, label in rows:
      features = {
        'image/encoded': feature('bytes', png),
        'id': feature('bytes', b'test-%07d' % number),
        'label': feature('int64', label),
      }
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString(deterministic=True))


def _write_tar(path: str, rows: Rows) -> None:
  with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
    for number, png, label in rows:
      for suffix, content in (('png', png), ('cls', str(label).encode())):
        member = tarfile.TarInfo(f'test-{number:07d}.{suffix}')
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _write_parquet(path: str, rows: Rows) -> None:
  import pyarrow as pa
  import pyarrow.parquet as pq

  numbers, images, labels = zip(*rows)
  structs = [{'bytes': png, 'path': f'test-{number:07d}'} for number, png in zip(numbers, images)]
  table = pa.table({'image': structs, 'label': pa.array(labels), 'source': ['fashion_mnist'] * len(labels)})
  pq.write_table(table, path, row_group_size=4096)


def _write_idx(output: str, name: str, pixels: np.ndarray, labels: np.ndarray) -> None:
  with open(os.path.join(output, f'{name}-images-idx3-ubyte'), 'wb') as file:
    file.write(struct.pack('>IIII', 0x0803, len(pixels), 28, 28) + pixels.tobytes())
  with gzip.GzipFile(os.path.join(output, f'{name}-labels-idx1-ubyte.gz'), 'wb', mtime=0) as file:
    file.write(struct.pack('>II', 0x0801, len(labels)) + labels.astype(np.uint8).tobytes())


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', required=True, help='a TFDS directory with fashion_mnist prepared')
  parser.add_argument('--format', required=True, choices=FORMATS)
  parser.add_argument('--images', type=int, default=10_000)
  parser.add_argument('--output', required=True, help='the directory to write to')
  parser.add_argument('--shards', type=int, default=1, help='files to spread the images over')
  args = parser.parse_args(argv)
  print(write(args.data_dir, args.format, args.images, args.output, args.shards))


if __name__ == '__main__':
  main(sys.argv[1:])
