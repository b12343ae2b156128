"""Whole files of every kind that the scorer reads, to be damaged by `fuzz`."""

import bz2
import gzip
import io
import json
import pathlib
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from images import model_card
from tests import pictures, test_manifest

PNGS = pictures.noise_pngs(4, (9, 8))
WHOLE_PIXELS = np.arange(784, dtype=np.uint8).reshape(28, 28, 1)
WHOLE = pictures.saved(WHOLE_PIXELS[..., 0], 'PNG')


def idx() -> dict[str, bytes]:
  """IDX of bytes and of other numbers, grey and in colour, plain and packed."""
  found = {}
  for name, code, kind, shape in (
    ('bytes', 8, 'u1', (7, 3, 2)),
    ('colour', 8, 'u1', (5, 2, 3, 3)),
    ('shorts', 11, '>i2', (6, 3, 2)),
    ('doubles', 14, '>f8', (4, 2, 2)),
  ):
    head = struct.pack(f'>HBB{len(shape)}I', 0, code, len(shape), *shape)
    content = head + (np.arange(np.prod(shape)) % 256).astype(kind).tobytes()
    found[f'{name}.idx'], found[f'{name}.idx.gz'] = content, gzip.compress(content)
  return found


def _examples() -> list[bytes]:
  import tensorflow as tf

  def feature(value: object) -> tf.train.Feature:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  kinds: list[dict[str, object]] = [
    {'image': PNGS[0], 'label': 3},
    {'image': PNGS[1], 'label': 4, 'id': b'x'},
    {'image/encoded': PNGS[2], 'image/class/text': b'Bag', 'image/class/label': 9},
    {'image': [PNGS[0], PNGS[1]], 'label': 2.0},
    {'other': PNGS[3], 'image/object/class/text': [b'a', b'b'], 'image/filename': b'a.png'},
  ]
  return [
    tf.train.Example(
      features=tf.train.Features(feature={key: feature(value) for key, value in each.items()})
    ).SerializeToString()
    for each in kinds
  ]


def _frame(records: list[bytes]) -> bytes:
  import google_crc32c

  def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack('<I', (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

  heads = [struct.pack('<Q', len(record)) for record in records]
  return b''.join(
    head + masked(head) + record + masked(record) for head, record in zip(heads, records)
  )


def tfrecord() -> dict[str, bytes]:
  """TFRecord of records that are alike and that are not, plain and packed."""
  examples = _examples()
  content = _frame([*examples, *examples[:2] * 4])
  return {
    'a.tfrecord': content,
    'a.tfrecord.gz': gzip.compress(content),
    'z.tfrecord': zlib.compress(content),
  }


def example() -> dict[str, bytes]:
  """Single tf.train.Examples, without their frames."""
  return {f'{n}.example': content for n, content in enumerate(_examples())}


def framed(path: pathlib.Path) -> pathlib.Path:
  """Returns a TFRecord file with this record among whole ones, with right checksums."""
  whole = _frame(_examples()[:2] * 3)
  target = path.with_name('framed.tfrecord')
  target.write_bytes(whole + _frame([path.read_bytes()]) + whole)
  return target


def tar() -> dict[str, bytes]:
  """Archives of every header format, with long names, links and sparse files."""
  found = {}
  for name, kind in (
    ('pax', tarfile.PAX_FORMAT),
    ('gnu', tarfile.GNU_FORMAT),
    ('ustar', tarfile.USTAR_FORMAT),
  ):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=kind) as archive:
      for number, png_file in enumerate(PNGS):
        _add(
          archive, f'{"long" * (30 if kind != tarfile.USTAR_FORMAT else 3)}/{number}.png', png_file
        )
        _add(archive, f'{number}.cls', b'%d' % number)
      link = tarfile.TarInfo('link.png')
      link.type, link.linkname = tarfile.SYMTYPE, '0.png'
      archive.addfile(link)
      if kind == tarfile.PAX_FORMAT:
        sparse = tarfile.TarInfo('sparse.png')
        data = b'2\n0\n100\n512\n100\n'.ljust(512, b'\0') + bytes(200)
        sparse.size = len(data)
        sparse.pax_headers = {
          'GNU.sparse.major': '1',
          'GNU.sparse.minor': '0',
          'GNU.sparse.name': 'sparse.png',
          'GNU.sparse.realsize': '1024',
        }
        archive.addfile(sparse, io.BytesIO(data))
    found[f'{name}.tar'] = buffer.getvalue()
  found['packed.tar.gz'] = gzip.compress(found['pax.tar'])
  found['packed.tar.bz2'] = bz2.compress(found['gnu.tar'])
  return found


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(content)
  archive.addfile(member, io.BytesIO(content))


def parquet() -> dict[str, bytes]:
  """Tables of bytes, structs and lists, in several encodings."""
  found = {}
  structs = [{'bytes': each, 'path': f'{n}.png'} for n, each in enumerate(PNGS)]
  for name, table, options in (
    (
      'a',
      pa.table({'image': PNGS * 6, 'id': range(24), 'label': [1.0] * 24}),
      {'row_group_size': 7},
    ),
    ('b', pa.table({'image': structs, 'label': ['Bag'] * 4}), {'compression': 'none'}),
    ('c', pa.table({'image': [[each] for each in PNGS]}), {'use_dictionary': False}),
    ('d', pa.table({'image': PNGS}), {'compression': 'zstd', 'data_page_version': '2.0'}),
    ('e', pa.table({'image': PNGS}), {'compression': 'gzip', 'write_page_checksum': True}),
  ):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    found[f'{name}.parquet'] = buffer.getvalue()
  return found


def manifest() -> dict[str, bytes]:
  """Lists and tables in every encoding."""
  lists = {'list.txt': b'a.png\n\n# note\nb c.png \r\n', 'w.txt': 'a\n\xe9.png\n'.encode('utf-16')}
  return {**test_manifest.EVERY_WAY, **lists}


def png() -> dict[str, bytes]:
  """PNG files of all colour types and depths, plain and interlaced."""
  random = np.random.default_rng(0)
  grey = random.integers(0, 256, (28, 28), np.uint8)
  found = {'plain': WHOLE, 'noise': pictures.saved(grey, 'PNG')}
  image = Image.fromarray(grey)
  for mode in ('1', 'P', 'LA', 'RGB', 'RGBA', 'I;16'):
    found[mode.replace(';', '')] = pictures.saved(
      image.convert('I').convert('I;16') if mode == 'I;16' else image.convert(mode), 'PNG'
    )
  large = Image.fromarray(random.integers(0, 256, (60, 50, 3), np.uint8))
  found['large'] = pictures.saved(large, 'PNG', dpi=(72, 72))
  found['parts'] = pictures.png_of_lines(bytes(29 * 28), parts=3)
  return {f'{name}.png': content for name, content in found.items()}


def picture() -> dict[str, bytes]:
  """Files of all other formats that are read."""
  random = np.random.default_rng(0)
  photo = Image.fromarray(random.integers(0, 256, (60, 50, 3), np.uint8)).resize((300, 200))
  exif = Image.Exif()
  exif[0x112] = 6
  found = {
    'a.jpg': pictures.saved(photo, 'JPEG', exif=exif.tobytes()),
    'p.jpg': pictures.saved(photo, 'JPEG', progressive=True),
    'g.jpg': pictures.saved(photo.convert('L'), 'JPEG'),
    'c.jpg': pictures.saved(photo.convert('CMYK'), 'JPEG'),
    'a.gif': pictures.saved(photo.convert('P'), 'GIF'),
    'a.bmp': pictures.saved(photo.resize((30, 20)), 'BMP'),
    'a.webp': pictures.saved(photo, 'WEBP'),
    'l.webp': pictures.saved(photo.resize((30, 20)), 'WEBP', lossless=True, exif=exif.tobytes()),
    'a.jp2': pictures.saved(photo, 'JPEG2000'),
    'a.avif': pictures.saved(photo, 'AVIF'),
    'a.ppm': pictures.saved(photo.resize((30, 20)), 'PPM'),
  }
  for compression in ('raw', 'tiff_lzw', 'jpeg', 'packbits', 'tiff_deflate'):
    found[f'{compression}.tif'] = pictures.saved(photo, 'TIFF', compression=compression)
  return found


def card() -> dict[str, bytes]:
  """A model card."""
  whole = model_card.ModelCard('a-1', ('a', 'b'), (28, 28, 1), 0, 'fashion_mnist', (1 / 16,) * 16)
  return {'model_card.json': json.dumps(whole.to_json()).encode()}
