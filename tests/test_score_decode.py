"""Files to pixels: every way to store an image, the paper's conversion of photos, and what is refused."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from images import decode, photo

SHAPE = (28, 28, 1)


@pytest.fixture(scope='module')
def drawn() -> np.ndarray:
  """A grey picture, uint8 (28, 28), with every brightness."""
  return (np.arange(784, dtype=np.uint32) * 977 % 256).astype(np.uint8).reshape(28, 28)


def saved(image, kind: str, **options) -> bytes:
  image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def decoded(data: bytes, preprocess: str = 'auto', max_pixels: int = 10**6) -> np.ndarray:
  pixels, reasons, _ = decode.decode([data], preprocess, max_pixels, SHAPE)
  assert not reasons
  return pixels[0, ..., 0]


def test_28x28_without_colour_passes_untouched_however_it_is_stored(drawn):
  grey = Image.fromarray(drawn)
  palette = grey.convert('P')
  alpha = Image.merge('LA', (grey, Image.new('L', (28, 28), 255)))
  sixteen = Image.fromarray(drawn.astype(np.uint16) * 257)
  stored = [
    saved(grey, 'PNG'), saved(grey, 'PNG', compress_level=0), saved(grey, 'BMP'), saved(grey, 'GIF'),
    saved(grey.convert('RGB'), 'PNG'), saved(grey.convert('RGB'), 'BMP'),
    saved(grey.convert('RGB'), 'WEBP', lossless=True),
    saved(palette, 'PNG'), saved(alpha, 'PNG'), saved(sixteen, 'PNG'),
  ]  # fmt: skip
  pixels, reasons, converted = decode.decode(stored, 'auto', 10**6, SHAPE)
  assert (reasons, converted) == ({}, 0)
  for image in pixels:
    np.testing.assert_array_equal(image[..., 0], drawn)
  np.testing.assert_array_equal(decoded(saved(drawn, 'PNG'), 'none'), drawn)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
  framed = lambda kind, data: (
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  )
  return b'\x89PNG\r\n\x1a\n' + b''.join(framed(kind, data) for kind, data in chunks)


def header(width: int, height: int) -> tuple[bytes, bytes]:
  return b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)


def drawn_by(lines: bytes, parts: int = 1) -> bytes:
  """The 28x28 grey PNG of these filtered lines, its pixels in so many parts."""
  packed = zlib.compress(lines)
  cuts = [len(packed) * i // parts for i in range(parts + 1)]
  pixels = [(b'IDAT', packed[start:stop]) for start, stop in itertools.pairwise(cuts)]
  return png(header(28, 28), *pixels, (b'IEND', b''))


@pytest.mark.parametrize('filters', [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
def test_every_filter_of_plain_pngs_gives_pillows_pixels(filters):
  noise = np.random.default_rng(0).integers(
    0, 256, (150, 28, 29), np.uint8
  )  # random filtered lines are a PNG too
  noise[:, :, 0] = np.resize(filters, (150, 28))
  files = [drawn_by(lines.tobytes(), parts=1 + i % 2) for i, lines in enumerate(noise)]
  pixels, reasons, converted = decode.decode(files, 'auto', 10**6, SHAPE)
  assert (reasons, converted) == ({}, 0)
  np.testing.assert_array_equal(
    pixels[..., 0], [np.asarray(Image.open(io.BytesIO(data))) for data in files]
  )


@pytest.mark.parametrize(
  'damage',
  [
    lambda data: (
      data[:60] + bytes([data[60] ^ 1]) + data[61:]
    ),  # pixels that no longer fit their checksum
    lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],  # nor the header
    lambda data: drawn_by(b'\x05' + bytes(811)),  # no such filter
    lambda data: drawn_by(bytes(700)),
    lambda data: data[:-20],
  ],
)
def test_a_damaged_png_costs_its_neighbours_nothing(drawn, damage):
  good = saved(drawn, 'PNG')
  pixels, reasons, _ = decode.decode(
    [good] * 30 + [damage(good)] + [good] * 50, 'auto', 10**6, SHAPE
  )
  assert set(reasons) == {30}
  assert all((image[..., 0] == drawn).all() for i, image in enumerate(pixels) if i != 30)


def photograph(
  box=(40, 30, 60, 90), size=(120, 140), ground=(255, 255, 255), ink=(200, 30, 40)
) -> Image.Image:
  """A rectangle on a plain ground: left, top, right, bottom."""
  image = Image.new('RGB', size, ground)
  image.paste(ink, box)
  return image


def test_a_photo_is_trimmed_fitted_centred_negated_and_grey():
  pixels = decoded(saved(photograph(), 'PNG'))
  ink = 255 - round(0.299 * 200 + 0.587 * 30 + 0.114 * 40)
  columns = np.flatnonzero(pixels.any(axis=0))
  assert pixels.any(axis=1).all()  # 60 high: the longest edge fills the canvas
  assert (columns[0], columns[-1]) == (9, 17)  # 20 wide: 28 * 20 / 60 = 9, in the middle
  assert set(np.unique(pixels)) == {0, ink}


def test_what_is_close_to_the_ground_is_trimmed_too():
  image = photograph()
  image.putpixel((2, 2), (245, 250, 246))  # within 5 % of white
  np.testing.assert_array_equal(decoded(saved(image, 'PNG')), decoded(saved(photograph(), 'PNG')))
  image.putpixel((2, 2), (235, 250, 246))
  assert not np.array_equal(decoded(saved(image, 'PNG')), decoded(saved(photograph(), 'PNG')))


@pytest.mark.parametrize(
  'kind', ['alpha', 'palette', 'palette with transparency', 'cmyk', 'sixteen bits', 'exif']
)
def test_every_way_to_store_a_photo_gives_the_same_pixels(kind):
  plain = photograph(ink=(60, 60, 60))
  if kind == 'alpha':
    clear = Image.new('RGBA', plain.size, (0, 90, 0, 0))
    clear.paste((60, 60, 60, 255), (40, 30, 60, 90))
    data = saved(clear, 'PNG')
  elif kind == 'palette':
    data = saved(plain.convert('P', palette=Image.Palette.ADAPTIVE), 'GIF')
  elif kind == 'palette with transparency':
    data = saved(
      plain.convert('P', palette=Image.Palette.ADAPTIVE, colors=2),
      'PNG',
      transparency=_white(plain),
    )
  elif kind == 'cmyk':
    data = saved(plain.convert('CMYK'), 'JPEG', quality=100)
  elif kind == 'sixteen bits':
    data = saved(Image.fromarray(np.asarray(plain.convert('L')).astype(np.uint16) * 257), 'PNG')
  else:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees to see it upright
    data = saved(plain.transpose(Image.Transpose.ROTATE_90), 'JPEG', quality=100, exif=exif)
  pixels, expected = decoded(data), decoded(saved(plain, 'PNG'))
  assert np.abs(pixels.astype(int) - expected).mean() < 3, kind


def _white(image: Image.Image) -> int:
  palette = image.convert('P', palette=Image.Palette.ADAPTIVE, colors=2)
  return palette.getpixel((0, 0))


def test_an_animations_first_frame_counts():
  frames = [photograph(), photograph(box=(0, 0, 100, 10))]
  data = saved(frames[0], 'GIF', save_all=True, append_images=frames[1:], duration=100)
  expected = decoded(saved(frames[0], 'PNG'))
  assert np.abs(decoded(data).astype(int) - expected).mean() < 8


def test_preprocess_photo_converts_everything_and_none_nothing(drawn):
  assert not np.array_equal(decoded(saved(drawn, 'PNG'), 'photo'), drawn)
  _, reasons, _ = decode.decode(
    [saved(photograph(), 'PNG'), saved(drawn, 'PNG')], 'none', 10**6, SHAPE
  )
  assert reasons == {0: '120x140 RGB, not 28x28 grey, and --preprocess=none'}


def test_a_picture_of_nothing_is_refused():
  with pytest.raises(ValueError, match='one colour only'):
    photo.convert_fashion_mnist(Image.new('RGB', (50, 50), (9, 9, 9)), SHAPE, 0)


def bombs() -> dict[str, bytes]:
  """Small files that say they are 16383 x 16383 or more."""
  side = 16383
  body = b'IDAT', zlib.compress(bytes(10**6))
  gif = saved(Image.new('L', (28, 28)), 'GIF')
  bmp = saved(Image.new('L', (28, 28)), 'BMP')
  jpeg = saved(Image.new('L', (28, 28)), 'JPEG')
  sof = jpeg.index(b'\xff\xc0')
  extended = b'VP8X' + struct.pack('<II', 10, 0) + 2 * (side - 1).to_bytes(3, 'little')
  lossless = (
    b'VP8L'
    + struct.pack('<I', 8)
    + b'\x2f'
    + struct.pack('<I', (side - 1) | (side - 1) << 14)
    + bytes(8)
  )
  lossy = (
    b'VP8 '
    + struct.pack('<I', 20)
    + b'\0\0\0\x9d\x01\x2a'
    + struct.pack('<HH', side, side)
    + bytes(10)
  )
  riff = lambda content: b'RIFF' + struct.pack('<I', len(content) + 4) + b'WEBP' + content
  return {
    'png': png(header(100_000, 100_000), body, (b'IEND', b'')),
    'gif': gif[:6] + struct.pack('<HH', 65535, 65535) + gif[10:],
    'bmp': bmp[:18] + struct.pack('<ii', 30_000, 30_000) + bmp[26:],
    'jpeg': jpeg[: sof + 5] + struct.pack('>HH', 60_000, 60_000) + jpeg[sof + 9 :],
    'webp extended': riff(extended),
    'webp lossless': riff(lossless),
    'webp lossy': riff(lossy),
  }


@pytest.mark.parametrize('kind', bombs())
def test_a_bomb_is_refused_by_its_header(kind, monkeypatch):
  def loaded(self):
    raise AssertionError('it was decoded')

  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', loaded)
  _, reasons, _ = decode.decode([bombs()[kind]], 'auto', 50_000_000, SHAPE)
  assert 'is more than --max_pixels=50000000: not decoded' in reasons[0]


def test_max_pixels_is_the_users(drawn):
  data = saved(photograph(size=(120, 140)), 'PNG')
  assert decode.decode([data], 'auto', 120 * 140, SHAPE)[1] == {}
  assert decode.decode([data], 'auto', 120 * 140 - 1, SHAPE)[1] == {
    0: '120x140 is more than --max_pixels=16799: not decoded'
  }


@pytest.mark.parametrize('size', [28, 64])
def test_a_damaged_png_is_refused_wherever_the_damage_is(size):
  grey = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
  data = saved(grey, 'PNG')
  for cut in (1, 4, 12, 13, 20, len(data) // 2, len(data) - 30, len(data) - 60):
    assert decode.decode([data[:-cut]], 'auto', 10**6, SHAPE)[1], f'{cut} bytes short'
  for place in range(8, len(data), 7):
    damaged = bytearray(data)
    damaged[place] ^= 0x55
    pixels, reasons, _ = decode.decode([bytes(damaged)], 'auto', 10**6, SHAPE)
    assert reasons, f'byte {place} changed'
    assert not pixels.any()


@pytest.mark.parametrize('kind', ['JPEG', 'GIF', 'BMP', 'WEBP'])
def test_a_file_cut_short_is_refused(kind):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
  data = saved(Image.fromarray(noise).convert('RGB' if kind == 'WEBP' else 'L'), kind)
  for kept in (1, 20, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
    assert decode.decode([data[:kept]], 'auto', 10**6, SHAPE)[1], f'{kept} of {len(data)} bytes'


def test_one_bad_file_costs_itself_only(drawn):
  good = saved(drawn, 'PNG')
  pixels, reasons, _ = decode.decode([good, b'', good, b'no image', good], 'auto', 10**6, SHAPE)
  assert reasons == {
    1: 'the file is empty',
    3: "not one of PNG, JPEG, GIF, BMP, WEBP: it begins with b'no image'",
  }
  for place in (0, 2, 4):
    np.testing.assert_array_equal(pixels[place, ..., 0], drawn)
