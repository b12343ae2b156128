"""Picture files that tests share, among them broken and exploding ones."""

import io
import itertools
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image


def saved(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
  """Returns the file that Pillow writes."""
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def noise_pngs(count: int, size: tuple[int, ...] = (28, 28)) -> list[bytes]:
  """Returns PNG files of random pixels, which do not compress."""
  random = np.random.default_rng(0)
  return [saved(random.integers(0, 256, size, np.uint8), 'PNG') for _ in range(count)]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
  """Returns a PNG file of these chunks: type, data."""
  return b'\x89PNG\r\n\x1a\n' + b''.join(_framed(kind, data) for kind, data in chunks)


def _framed(kind: bytes, data: bytes) -> bytes:
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def header(width: int, height: int, channels: int = 1) -> tuple[bytes, bytes]:
  """Returns the header chunk of an 8-bit PNG, grey or RGB."""
  colour_type = {1: 0, 3: 2}[channels]
  return b'IHDR', struct.pack('>IIBBBBB', width, height, 8, colour_type, 0, 0, 0)


def png_of_lines(lines: bytes, shape: tuple[int, int, int] = (28, 28, 1), parts: int = 1) -> bytes:
  """Returns the PNG file of these filtered lines, its pixels in `parts` chunks."""
  height, width, channels = shape
  packed = zlib.compress(lines)
  cuts = [len(packed) * i // parts for i in range(parts + 1)]
  pixels = [(b'IDAT', packed[start:stop]) for start, stop in itertools.pairwise(cuts)]
  return png(header(width, height, channels), *pixels, (b'IEND', b''))


def tiff(
  size: tuple[int, int], bits: int, strips: Sequence[bytes], *, white=1, planes=1, kind=1
) -> bytes:
  """Returns a TIFF file of kinds that Pillow does not write.

  Args:
    size: (width, height).
    bits: of a sample.
    strips: the pixels; three strips are the planes of a colour picture if `planes` is 2.
    white: PhotometricInterpretation: 0, white is zero; 1, black is; 2, RGB.
    planes: PlanarConfiguration: 1, interleaved; 2, separate.
    kind: SampleFormat: 1, whole numbers; 3, floats.
  """
  samples = 3 if white == 2 else 1
  begins = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
  tags = {256: [size[0]], 257: [size[1]], 258: [bits] * samples, 259: [1], 262: [white]}
  tags |= {273: begins, 277: [samples], 278: [size[1]], 279: list(map(len, strips)), 284: [planes]}
  tags[339] = [kind] * samples
  content, entries = b''.join(strips), b''
  for tag, values in tags.items():
    packed = struct.pack(f'<{len(values)}I', *values)
    if len(values) > 1:
      content += packed
      packed = struct.pack('<I', 8 + len(content) - len(packed))
    entries += struct.pack('<HHI', tag, 4, len(values)) + packed
  directory = struct.pack('<H', len(tags)) + entries + bytes(4)
  return b'II*\0' + struct.pack('<I', 8 + len(content)) + content + directory


def photograph(
  box=(40, 30, 60, 90), size=(120, 140), ground=(255, 255, 255), ink=(200, 30, 40)
) -> Image.Image:
  """Returns a rectangle (left, top, right, bottom) on a plain ground."""
  image = Image.new('RGB', size, ground)
  image.paste(ink, box)
  return image


def bombs() -> dict[str, bytes]:
  """Returns small files whose headers declare 16383 x 16383 pixels or more."""
  side = 16383
  body = b'IDAT', zlib.compress(bytes(10**6))
  gif = saved(Image.new('L', (28, 28)), 'GIF')
  bmp = saved(Image.new('L', (28, 28)), 'BMP')
  jpeg = saved(Image.new('L', (28, 28)), 'JPEG')
  sof = jpeg.index(b'\xff\xc0')
  extended = b'VP8X' + struct.pack('<II', 10, 0) + 2 * (side - 1).to_bytes(3, 'little')
  sides = struct.pack('<I', (side - 1) | (side - 1) << 14)
  lossless = b'VP8L' + struct.pack('<I', 8) + b'\x2f' + sides + bytes(8)
  key_frame = b'\0\0\0\x9d\x01\x2a' + struct.pack('<HH', side, side)
  lossy = b'VP8 ' + struct.pack('<I', 20) + key_frame + bytes(10)
  return {
    'png': png(header(100_000, 100_000), body, (b'IEND', b'')),
    'gif': gif[:6] + struct.pack('<HH', 65535, 65535) + gif[10:],
    'bmp': bmp[:18] + struct.pack('<ii', 30_000, 30_000) + bmp[26:],
    'jpeg': jpeg[: sof + 5] + struct.pack('>HH', 60_000, 60_000) + jpeg[sof + 9 :],
    'webp extended': _riff(extended),
    'webp lossless': _riff(lossless),
    'webp lossy': _riff(lossy),
  }


def _riff(content: bytes) -> bytes:
  return b'RIFF' + struct.pack('<I', len(content) + 4) + b'WEBP' + content


def write_tar(path: pathlib.Path, members: Mapping[str, bytes]) -> None:
  with tarfile.open(path, 'w') as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def write_tfrecord(
  path: pathlib.Path, encoded: Sequence[bytes], labels: Sequence[int] = ()
) -> None:
  """Writes an Example for each picture, with its label if there are any."""
  import tensorflow as tf

  def example(content: bytes, label: int | None) -> bytes:
    feature = {'image/encoded': tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))}
    if label is not None:
      feature['label'] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

  with tf.io.TFRecordWriter(str(path)) as writer:
    for content, label in itertools.zip_longest(encoded, labels):
      writer.write(example(content, label))
