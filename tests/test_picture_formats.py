"""Formats: those that are read, what names the others, damage, bombs, and any bytes at all."""

import io
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from images import colours, decode, formats, opening, png
from tests.pictures import header, photograph, png_of_lines, saved, tiff
from tests.pictures import png as png_file

SHAPE = (28, 28, 1)
GREY = (np.add.outer(np.arange(28) * 3, np.arange(28) * 5) % 256).astype(np.uint8)
AVIF = pytest.param('AVIF', marks=pytest.mark.skipif('AVIF' not in formats.READ, reason='no AVIF'))


def only(data: bytes, preprocess: str = 'auto', max_pixels: int = 10**6) -> decode.Decoded:
  """Decodes one file."""
  return decode.decode([data], preprocess, max_pixels, SHAPE)


def chunk(kind: bytes, data: bytes, checksum: bytes | None = None) -> bytes:
  """Returns a PNG chunk, its checksum right unless one is given."""
  right = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + (checksum or right)


def after_header(chunk_: bytes) -> bytes:
  """Returns a PNG of GREY with a chunk after its header."""
  data = saved(GREY, 'PNG')
  return data[:33] + chunk_ + data[33:]


@pytest.mark.parametrize('kind', ['TIFF', 'JPEG2000', 'PPM', 'PNG', 'BMP', 'GIF'])
def test_a_lossless_format_gives_the_pixels_that_were_stored(kind):
  np.testing.assert_array_equal(only(saved(GREY, kind)).pixels[0, ..., 0], GREY)


def interlaced(pixels: np.ndarray) -> bytes:
  """Returns the Adam7 PNG of a grey picture, its lines unfiltered."""
  starts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
  steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
  lines = [
    b'\0' + line.tobytes()
    for (top, left), (down, right) in zip(starts, steps)
    for line in pixels[top::down, left::right]
  ]
  kind, fields = header(*pixels.shape[::-1])
  return png_file(
    (kind, fields[:-1] + b'\1'), (b'IDAT', zlib.compress(b''.join(lines))), (b'IEND', b'')
  )


def test_an_interlaced_png_gives_the_pixels_that_were_stored():
  np.testing.assert_array_equal(only(interlaced(GREY)).pixels[0, ..., 0], GREY)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'BMP', 'PPM'])
def test_one_bit_is_black_or_white(kind):
  bilevel = Image.fromarray(GREY).convert('1')
  expected = np.asarray(bilevel.convert('L'))
  np.testing.assert_array_equal(only(saved(bilevel, kind)).pixels[0, ..., 0], expected)


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
@pytest.mark.parametrize('progressive', [False, True])
def test_jpegs_of_every_kind(mode, progressive):
  image = Image.fromarray(GREY).convert(mode)
  result = only(saved(image, 'JPEG', quality=95, progressive=progressive))
  assert (result.reasons, result.converted) == ({}, 0)
  assert np.abs(result.pixels[0, ..., 0].astype(int) - GREY).mean() < 5


@pytest.mark.parametrize('kind', ['WEBP', 'JPEG', 'JPEG2000', AVIF])
@pytest.mark.parametrize('quality', [30, 80])
def test_a_lossy_file_of_a_grey_picture_is_taken_as_drawn(kind, quality):
  options = {'irreversible': True} if kind == 'JPEG2000' else {'quality': quality}
  result = only(saved(Image.fromarray(GREY).convert('RGB'), kind, **options))
  assert (result.reasons, result.converted) == ({}, 0)
  assert np.abs(result.pixels[0, ..., 0].astype(int) - GREY).mean() < 30  # and not 255 - GREY


@pytest.mark.parametrize('compression', [None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'])
@pytest.mark.parametrize('mode', ['L', 'RGB', 'P', 'RGBA', 'I;16'])
def test_tiff_of_every_compression_and_mode(compression, mode):
  image = Image.fromarray(GREY)
  image = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == 'I;16' else image.convert(mode)
  result = only(saved(image, 'TIFF', compression=compression))
  assert not result.reasons
  np.testing.assert_array_equal(result.pixels[0, ..., 0], GREY)


@pytest.mark.parametrize('scale', [1 / 255, 1, 257])
def test_floats_and_32_bit_integers_are_taken_in_the_range_they_use(scale):
  floats = Image.fromarray((GREY.astype(float) * scale).astype(np.float32))
  np.testing.assert_array_equal(only(saved(floats, 'TIFF')).pixels[0, ..., 0], GREY)
  if scale >= 1:
    integers = Image.fromarray((GREY.astype(float) * scale).astype(np.int32))
    np.testing.assert_array_equal(only(saved(integers, 'TIFF')).pixels[0, ..., 0], GREY)


def test_grey_tiff_of_12_bits_and_with_white_as_zero_shows_what_it_shows():
  whole = GREY
  twelve = whole.astype(int) * 4095 // 255
  pairs = twelve.reshape(-1, 2)
  packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1]], 1)
  deep = whole.astype('<u2') * 257
  size = whole.shape[::-1]
  for data in (
    tiff(size, 12, [packed.astype(np.uint8).tobytes()]),
    tiff(size, 16, [deep.tobytes()]),
    tiff(size, 16, [(65535 - deep).tobytes()], white=0),
    tiff(size, 8, [(255 - whole).tobytes()], white=0),
  ):
    found = np.asarray(colours.normalize(opening.open_picture(data, 10**6).image))
    assert np.abs(found.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
  ('bits', 'planes', 'kind', 'reason'),
  [
    (16, 2, 1, 'TIFF with 16 bits in a plane for each colour is not read; save it interleaved'),
    (32, 1, 3, 'TIFF with such pixels is not read; convert it to PNG or JPEG'),
    (32, 1, 1, 'TIFF with such pixels is not read; convert it to PNG or JPEG'),
  ],
)
def test_a_tiff_of_a_kind_that_is_not_read_says_so(bits, planes, kind, reason):
  plane = bytes(28 * 28 * bits // 8)
  strips = [plane] * 3 if planes == 2 else [plane * 3]
  data = tiff((28, 28), bits, strips, white=2, planes=planes, kind=kind)
  assert decode.decode([data], 'auto', 10**6, (28, 28, 1)).reasons == {0: reason}


def test_a_lack_of_memory_is_no_fault_of_a_picture():
  """In a process of its own, which may take a few MB more."""
  script = """
import io, pathlib, resource
import numpy as np
from PIL import Image
from images import decode
buffer = io.BytesIO()
Image.fromarray(np.arange(36_000_000, dtype=np.uint8).reshape(6000, 6000)).save(buffer, 'PNG')
pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 20_000_000,) * 2)
decode.decode([buffer.getvalue()], 'auto', 10**8, (28, 28, 1))
"""
  result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
  assert result.stderr.splitlines()[-1] == f'MemoryError: {opening.NO_MEMORY}'


def test_lab_is_converted():
  lab = Image.merge('LAB', [Image.fromarray(GREY), *[Image.new('L', (28, 28), 128)] * 2])
  result = only(saved(lab, 'TIFF'))
  assert (result.reasons, result.converted) == ({}, 0)
  order = result.pixels[0, ..., 0].ravel()[np.argsort(GREY, axis=None)].astype(int)
  assert (np.diff(order) >= 0).all()  # as light as L says


@pytest.mark.parametrize('kind', ['GIF', 'WEBP', 'PNG', 'TIFF', AVIF])
def test_of_several_pictures_in_a_file_the_first_counts(kind):
  other = Image.fromarray(255 - GREY)
  options = {'lossless': True} if kind == 'WEBP' else {}
  frames = [Image.fromarray(GREY).convert('RGB'), other.convert('RGB')]
  data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
  assert np.abs(only(data).pixels[0, ..., 0].astype(int) - GREY).mean() < 8


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_a_picture_is_turned_as_its_exif_says(turn, kind, mode):
  exif = Image.Exif()
  exif[0x0112] = turn
  inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
  inverse |= {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180}
  inverse |= {4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE}
  inverse |= {7: Image.Transpose.TRANSVERSE}
  stored = Image.fromarray(GREY).convert(mode)
  stored = stored.transpose(inverse[turn]) if turn > 1 else stored
  pixels = only(saved(stored, kind, exif=exif)).pixels[0, ..., 0]
  assert np.abs(pixels.astype(int) - GREY).mean() < 12


@pytest.mark.parametrize(
  'extra',
  [
    chunk(b'tEXt', b'Comment\0hi', b'\1\2\3\4'),
    chunk(b'zTXt', b'C\0\0' + zlib.compress(bytes(2_000_000))),
    chunk(b'zTXt', b'Raw profile type exif\0\0' + zlib.compress(bytes(2_000_000))),
    chunk(b'iCCP', b'p\0\0' + zlib.compress(bytes(2_000_000))),
    chunk(b'iCCP', b'p\0\1junk'),
    chunk(b'eXIf', b'junk'),
    chunk(b'eXIf', b'II*\0\xff\xff\xff\xff'),
    chunk(b'tRNS', b'\0\0'),
    chunk(b'tRNS', b'\0'),
    chunk(b'gAMA', b''),
    chunk(b'acTL', b'\0\0\0\2'),
    chunk(b'prVt', b'private', b'\1\2\3\4'),
  ],
)
def test_a_bad_chunk_that_pixels_do_not_need_costs_nothing(extra):
  result = only(after_header(extra))
  assert (result.reasons, result.converted) == ({}, 0)
  np.testing.assert_array_equal(result.pixels[0, ..., 0], GREY)


@pytest.mark.parametrize('kind', [b'IHDR', b'IDAT', b'PLTE', b'IEND'])
def test_a_damaged_chunk_that_pixels_need_costs_the_picture(kind):
  data = saved(Image.fromarray(GREY).convert('P'), 'PNG')
  place = data.index(kind)
  for at in (*range(4), 4):
    damaged = bytearray(data)
    damaged[place + at] ^= 0x20
    assert only(bytes(damaged)).reasons, f'byte {at} of {kind!r}'


CHEAP_REASONS = {
  b'': 'empty',
  b'\0' * 100: 'nothing but zeros',
  b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n': 'git lfs pull',
  b'<svg xmlns="http://www.w3.org/2000/svg"/>': 'SVG',
  b'<?xml version="1.0"?>\n<!-- made -->\n<svg/>': 'SVG',
  b'%PDF-1.7': 'PDF',
  b'\n<!DOCTYPE HTML><html>': 'HTML',
  b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': 'XML',
  b'{"error": 404}': 'JSON',
  b'Not Found': 'text',
  b'\0\0\0\x18ftypheic\0\0\0\0mif1heic': 'HEIC',
  b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic': 'HEIC',
  b'\0\0\0\x18ftypisom\0\0\0\0isomavc1': 'video',
  b'\xff\x0a\xfa': 'JPEG XL',
  b'\0\0\1\0\1\0': 'icon',
  b'8BPS\0\1': 'Photoshop',
  b'PK\3\4': 'ZIP',
  b'\x1f\x8b\x08': 'gzip',
  b'iVBORw0KGgoAAAANSUhEUg': 'base64',
  b'data:image/png;base64,iVBO': 'data URL',
  b'\0\5\x16\7\0\2': 'AppleDouble',
  bytes(128) + b'DICM': 'DICOM',
  b'\0\0\0\x18ftypcrx \0\0\0\1crx isom': 'camera raw',
  b'\x13\x37\xde\xad': 'it begins with',
}


@pytest.mark.parametrize('data', CHEAP_REASONS)
def test_what_is_not_read_is_named(data):
  assert CHEAP_REASONS[data] in only(data).reasons[0]


def lying(data: bytes, true: bytes, false: bytes, count: int = -1) -> bytes:
  """Returns a file with a number of its header replaced."""
  assert true in data
  return data.replace(true, false, count)


def bombs() -> dict[str, bytes]:
  """Returns small files that declare a lot, each in another way."""
  size = struct.pack('>II', 28, 28)
  huge = struct.pack('>II', 60_000, 60_000)
  tiff = saved(GREY, 'TIFF')
  jp2, j2k = saved(GREY, 'JPEG2000'), saved(GREY, 'JPEG2000', no_jp2=True)
  side = struct.pack('<HHII', 0x100, 4, 1, 28)
  tags = b''.join(struct.pack('<HHII', 40000 + i, 7, 10**6, 0) for i in range(300))
  scan = b'\xff\xda\0\x08\1\1\0\0\0\0'
  found = {
    'tiff': lying(tiff, side, struct.pack('<HHII', 0x100, 4, 1, 10**9)),
    'tiff tags': b'II*\0\x08\0\0\0' + struct.pack('<H', 300) + tags + bytes(4),
    'jpeg 2000': lying(jp2, size, huge, 1),
    'jpeg 2000 codestream': lying(jp2, size + bytes(8), huge + bytes(8)),
    'jpeg 2000 tiles': lying(
      j2k, size + bytes(8) + size, size + bytes(8) + struct.pack('>II', 1, 1)
    ),
    'jpeg 2000 layers': lying(j2k, b'\xff\x52\0\x0c\0\0\0\1', b'\xff\x52\0\x0c\0\0\xff\xff'),
    'jpeg 2000 markers': lying(j2k, b'\xff\x52', b'\xff\x64\0\2' * 1001 + b'\xff\x52', 1),
    'jpeg 2000 codestreams': j2k * 101,
    'ppm': b'P6 60000 60000 255\n' + bytes(100),
    'jpeg scans': saved(GREY, 'JPEG')[:-2] + scan * 200 + b'\xff\xd9',
  }
  if 'AVIF' in formats.READ:
    large = saved(Image.new('L', (2000, 2000)), 'AVIF', speed=10)
    found['avif'] = large
    # An `iloc` box of items without extents, again and again.
    found['avif parts'] = large[:16] + b'iloc\0\0\0\0\0\0\xff\xff' + bytes(1 << 16)
    found['avif boxes'] = lying(
      large, b'ispe\0\0\0\0' + struct.pack('>II', 2000, 2000), b'ispe\0\0\0\0' + size
    )
  return found


@pytest.mark.parametrize('kind', bombs())
def test_what_declares_too_much_is_refused_before_it_is_decoded(kind, monkeypatch):
  def loaded(self):
    raise AssertionError('it was decoded')

  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', loaded)
  data = bombs()[kind]
  if kind == 'jpeg 2000 tiles':
    data = lying(data, struct.pack('>II', 28, 28), struct.pack('>II', 900, 900), 1)
  assert 'not decoded' in only(data).reasons[0]


def test_decoders_print_nothing():
  tiff = bytearray(saved(GREY, 'TIFF', compression='tiff_adobe_deflate'))
  tiff[20:60] = bytes(40)
  script = (
    'import sys; from images import decode; data = sys.stdin.buffer.read(); '
    'assert decode.decode([data], "auto", 10**6, (28, 28, 1)).reasons'
  )
  result = subprocess.run(
    [sys.executable, '-c', script], input=bytes(tiff), capture_output=True, check=True
  )
  assert (result.stdout, result.stderr) == (b'', b'')


def seeds() -> dict[str, bytes]:
  """Returns a file of each format that is read."""
  colour = photograph(size=(40, 48), box=(5, 6, 20, 30))
  kinds = ['PNG', 'JPEG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'JPEG2000', 'PPM']
  kinds += ['AVIF'] if 'AVIF' in formats.READ else []
  return {kind: saved(colour, kind) for kind in kinds}


@pytest.mark.filterwarnings('ignore::UserWarning')  # pytest undoes the filter of images.decode
@pytest.mark.parametrize('kind', seeds())
def test_any_bytes_give_pixels_or_a_reason(kind):
  """Files cut anywhere, with one byte changed, or with several."""
  random_, whole = random.Random(0), seeds()[kind]
  files = [whole]
  for _ in range(150):
    data = bytearray(whole)
    for _ in range(random_.choice((1, 1, 5))):
      data[random_.randrange(min(len(data), random_.choice((64, 10**6))))] = random_.randrange(256)
    files.append(bytes(data[: random_.choice((len(data), random_.randrange(len(data))))]))
  result = decode.decode(files, 'auto', 10**6, SHAPE)
  assert 0 not in result.reasons
  assert all(result.reasons.values())
  assert not result.pixels[list(result.reasons)].any()


def test_any_lines_decode_as_pillow_decodes_them_or_are_left_to_it():
  random_ = np.random.default_rng(1)
  for trial in range(300):
    shape = (int(random_.integers(1, 40)), int(random_.integers(1, 40)), (1, 3)[trial % 2])
    lines = random_.integers(0, 256, (shape[0], 1 + shape[1] * shape[2]), np.uint8)
    lines[:, 0] = random_.integers(0, 6 if trial % 5 == 0 else 5, shape[0])
    data = png_of_lines(lines.tobytes(), shape)
    found = png.scanlines(data, shape)
    assert found is not None
    images = png.decode([found], shape)
    if lines[:, 0].max() > 4:
      assert images is None
      continue
    expected = np.asarray(Image.open(io.BytesIO(data))).reshape(shape)
    assert images is not None
    np.testing.assert_array_equal(images[0], expected)


def test_a_plain_png_with_any_byte_changed_is_no_longer_plain():
  data = saved(GREY, 'PNG')
  assert png.scanlines(data, SHAPE)
  for at in range(len(data)):
    damaged = bytearray(data)
    damaged[at] ^= 1 + at % 255
    assert png.scanlines(bytes(damaged), SHAPE) is None
    assert png.scanlines(data[:at], SHAPE) is None


def test_a_png_that_unpacks_to_more_than_its_pixels_is_not_plain():
  bomb = png_file(header(28, 28), (b'IDAT', zlib.compress(bytes(10**7))), (b'IEND', b''))
  assert png.scanlines(bomb, SHAPE) is None
  assert not only(bomb).reasons  # its first lines are a whole picture
