"""Writes the Fashion-MNIST test images as a collection, in any format that the scorer reads.

  python -m benchmarks.collection --data_dir=DIR --format=png --images=10000 --output=pictures

After the last of the 10,000 test images they repeat; ids do not. Each id ends in the image's
number.
Prints one JSON line, whose `input` is the collection's pattern for the scorer's --input.
"""

import csv
import gzip
import io
import json
import os
import struct
import sys
import tarfile
from collections.abc import Iterator

import numpy as np

from benchmarks import arguments, machine

FORMATS = ('png', 'tfrecord', 'tfrecord.gz', 'tar', 'idx', 'parquet', 'manifest')
Rows = Iterator[tuple[int, bytes, int]]  # number, PNG, label
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801  # magic numbers


def test_images(data_dir: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Returns pixels uint8 (N, 28, 28, 1), labels int64 (N,) and the labels' names."""
  import tensorflow_datasets as tfds

  builder = tfds.builder('fashion_mnist', data_dir=data_dir)
  dataset = builder.as_dataset(split='test', as_supervised=True, shuffle_files=False, batch_size=-1)
  pixels, labels = tfds.as_numpy(dataset)
  return pixels, labels, builder.info.features['label'].names


def write(data_dir: str, kind: str, images: int, output: str, shards: int = 1) -> str:
  """Writes the collection and returns its --input."""
  import tensorflow as tf

  pixels, labels, names = test_images(data_dir)
  os.makedirs(output, exist_ok=True)
  parts = [range(images * i // shards, images * (i + 1) // shards) for i in range(shards)]
  if kind == 'idx':
    for i, part in enumerate(parts):
      numbers = np.array(part) % len(pixels)
      write_idx(output, f'part{i:05d}', pixels[numbers], labels[numbers])
    return os.path.join(output, '*-images-idx3-ubyte')
  encoded = [tf.io.encode_png(image).numpy() for image in pixels[:images]]

  def rows(part: range) -> Rows:
    for number in part:
      yield number, encoded[number % len(encoded)], int(labels[number % len(labels)])

  if kind in ('png', 'manifest'):
    return write_files(output, rows(range(images)), names, kind)
  writer = {'tar': write_tar, 'parquet': write_parquet}.get(kind, write_tfrecord)
  for i, part in enumerate(parts):
    writer(os.path.join(output, f'test-{i:05d}-of-{shards:05d}.{kind}'), rows(part))
  return os.path.join(output, f'test-*.{kind}')


def write_files(output: str, rows: Rows, names: list[str], kind: str) -> str:
  """Writes PNG files in folders named after their labels, and an equivalent manifest.

  Returns the --input of the files or, for the kind `manifest`, of that table.
  """
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


def write_tfrecord(path: str, rows: Rows) -> None:
  """Writes tf.train.Example with image/encoded, id and label; gzip if the name ends in .gz."""
  import tensorflow as tf

  def feature(kind: str, value: bytes | int) -> tf.train.Feature:
    return tf.train.Feature(**{f'{kind}_list': {'value': [value]}})

  with tf.io.TFRecordWriter(path, 'GZIP' if path.endswith('.gz') else '') as writer:
    for number, png, label in rows:
      features = {
        'image/encoded': feature('bytes', png),
        'id': feature('bytes', b'test-%07d' % number),
        'label': feature('int64', label),
      }
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString(deterministic=True))


def write_tar(path: str, rows: Rows) -> None:
  """Writes a WebDataset shard with members .png and .cls."""
  with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
    for number, png, label in rows:
      for suffix, content in (('png', png), ('cls', str(label).encode())):
        member = tarfile.TarInfo(f'test-{number:07d}.{suffix}')
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def write_parquet(path: str, rows: Rows) -> None:
  """Writes a table with the columns image (bytes, path), label and source."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  numbers, images, labels = zip(*rows)
  structs = [{'bytes': png, 'path': f'test-{number:07d}'} for number, png in zip(numbers, images)]
  source = ['fashion_mnist'] * len(labels)
  table = pa.table({'image': structs, 'label': pa.array(labels), 'source': source})
  pq.write_table(table, path, row_group_size=4096)


def write_idx(output: str, name: str, pixels: np.ndarray, labels: np.ndarray) -> None:
  """Writes images, uint8 (N, height, width, 1), and their labels as a pair of IDX files."""
  height, width = pixels.shape[1:3]
  with open(os.path.join(output, f'{name}-images-idx3-ubyte'), 'wb') as file:
    file.write(struct.pack('>IIII', IDX_IMAGES, len(pixels), height, width) + pixels.tobytes())
  with gzip.GzipFile(os.path.join(output, f'{name}-labels-idx1-ubyte.gz'), 'wb', mtime=0) as file:
    file.write(struct.pack('>II', IDX_LABELS, len(labels)) + labels.astype(np.uint8).tobytes())


def main(argv: list[str] | None = None) -> None:
  """Writes the collection that the command line describes."""
  parser = arguments.Parser(__doc__)
  add = parser.add_argument
  add('--data_dir', required=True, help='a TFDS directory with fashion_mnist prepared')
  add('--format', required=True, choices=FORMATS)
  add('--images', type=int, default=10_000, help='number of images to write')
  add('--output', required=True, help='the directory to write to')
  add('--shards', type=int, default=1, help='files to spread the images over')
  args = parser.parse_args(argv)
  if args.images < 1:
    parser.error(f'--images {args.images}: pass 1 or more')
  if not 1 <= args.shards <= args.images:
    parser.error(f'--shards {args.shards}: pass 1 to {args.images}, so that each file has an image')
  result = {
    'input': write(args.data_dir, args.format, args.images, args.output, args.shards),
    'format': args.format,
    'images': args.images,
    'shards': args.shards,
    'machine': machine.facts(),
  }
  print(json.dumps(result))


if __name__ == '__main__':
  main(sys.argv[1:])
