"""Files to pixels: every way to store an image, the conversions, and what is rejected."""

import io

import numpy as np
import pytest
from PIL import Image

from images import decode
from tests.pictures import bombs, photograph, png_of_lines, saved

SHAPE = (28, 28, 1)


@pytest.fixture(scope='module')
def drawn() -> np.ndarray:
  """A grey picture, uint8 (28, 28), with every brightness."""
  return (np.arange(784, dtype=np.uint32) * 977 % 256).astype(np.uint8).reshape(28, 28)


def decoded(data: bytes, preprocess: str = 'auto', max_pixels: int = 10**6) -> np.ndarray:
  pixels, reasons, *_ = decode.decode([data], preprocess, max_pixels, SHAPE)
  assert not reasons
  return pixels[0, ..., 0]


def test_28x28_without_colour_passes_untouched_however_it_is_stored(drawn):
  grey = Image.fromarray(drawn)
  palette = grey.convert('P')
  alpha = Image.merge('LA', (grey, Image.new('L', (28, 28), 255)))
  sixteen = Image.fromarray(drawn.astype(np.uint16) * 257)
  rgb = grey.convert('RGB')
  stored = [
    saved(grey, 'PNG'),
    saved(grey, 'PNG', compress_level=0),
    saved(grey, 'BMP'),
    saved(grey, 'GIF'),
    saved(rgb, 'PNG'),
    saved(rgb, 'BMP'),
    saved(rgb, 'WEBP', lossless=True),
    saved(palette, 'PNG'),
    saved(alpha, 'PNG'),
    saved(sixteen, 'PNG'),
  ]
  pixels, reasons, converted, _ = decode.decode(stored, 'auto', 10**6, SHAPE)
  assert (reasons, converted) == ({}, 0)
  for image in pixels:
    np.testing.assert_array_equal(image[..., 0], drawn)
  np.testing.assert_array_equal(decoded(saved(drawn, 'PNG'), 'none'), drawn)


@pytest.mark.parametrize('filters', [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
def test_every_filter_of_plain_pngs_gives_pillows_pixels(filters):
  noise = np.random.default_rng(0).integers(
    0, 256, (150, 28, 29), np.uint8
  )  # random filtered lines are a PNG too
  noise[:, :, 0] = np.resize(filters, (150, 28))
  files = [png_of_lines(lines.tobytes(), parts=1 + i % 2) for i, lines in enumerate(noise)]
  pixels, reasons, converted, _ = decode.decode(files, 'auto', 10**6, SHAPE)
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
    lambda data: png_of_lines(b'\x05' + bytes(811)),  # no such filter
    lambda data: png_of_lines(bytes(700)),
    lambda data: data[:-20],
  ],
)
def test_a_damaged_png_spares_its_neighbours(drawn, damage):
  good = saved(drawn, 'PNG')
  pixels, reasons, *_ = decode.decode(
    [good] * 30 + [damage(good)] + [good] * 50, 'auto', 10**6, SHAPE
  )
  assert set(reasons) == {30}
  assert all((image[..., 0] == drawn).all() for i, image in enumerate(pixels) if i != 30)


def test_preprocess_photo_converts_everything_and_none_nothing(drawn):
  negated = 255 - drawn
  negated[0] = 255  # a light ground, which is cropped
  pixels = decoded(saved(negated, 'PNG'), 'photo')
  assert not np.array_equal(pixels, negated)
  assert pixels.mean() < 150
  _, reasons, *_ = decode.decode(
    [saved(photograph(), 'PNG'), saved(drawn, 'PNG')], 'none', 10**6, SHAPE
  )
  assert reasons == {0: '120x140 RGB, not 28x28 grey, and --preprocess=none'}


OTHER_SHAPES = [(32, 32, 1), (32, 32, 3), (20, 31, 3), (20, 31, 1), (300, 200, 3)]


@pytest.mark.parametrize('shape', OTHER_SHAPES)
@pytest.mark.parametrize('kind', ['PNG', 'BMP'])
def test_an_image_of_the_networks_shape_passes_untouched(shape, kind):
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (70, *shape), np.uint8)
  stored = [saved(image if shape[2] == 3 else image[..., 0], kind) for image in images]
  pixels, reasons, converted, _ = decode.decode(stored, 'none', 10**6, shape)
  assert (reasons, converted) == ({}, 0)
  np.testing.assert_array_equal(pixels, images)


@pytest.mark.parametrize('filters', [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
def test_every_filter_of_rgb_pngs_gives_pillows_pixels(filters):
  noise = np.random.default_rng(0).integers(0, 256, (70, 20, 1 + 31 * 3), np.uint8)
  noise[:, :, 0] = np.resize(filters, (70, 20))
  files = [png_of_lines(lines.tobytes(), (20, 31, 3)) for lines in noise]
  pixels, reasons, converted, _ = decode.decode(files, 'auto', 10**6, (20, 31, 3))
  assert (reasons, converted) == ({}, 0)
  expected = [np.asarray(Image.open(io.BytesIO(data))) for data in files]
  np.testing.assert_array_equal(pixels, expected)


def test_grey_is_rgb_too_and_colour_is_not_grey():
  grey = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
  pixels, reasons, converted, _ = decode.decode([saved(grey, 'PNG')], 'auto', 10**6, (32, 32, 3))
  assert (reasons, converted) == ({}, 0)
  np.testing.assert_array_equal(pixels[0], np.repeat(grey[..., None], 3, axis=2))
  colour = saved(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), 'PNG')
  _, reasons, *_ = decode.decode([colour], 'none', 10**6, (32, 32, 1))
  assert reasons == {0: '32x32 RGB, not 32x32 grey, and --preprocess=none'}
  _, reasons, *_ = decode.decode([colour], 'none', 10**6, (32, 20, 3))
  assert reasons == {0: '32x32 RGB, not 20x32 RGB, and --preprocess=none'}


@pytest.mark.parametrize('kind', bombs())
def test_a_bomb_is_refused_by_its_header(kind, monkeypatch):
  def loaded(self):
    raise AssertionError('it was decoded')

  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', loaded)
  _, reasons, *_ = decode.decode([bombs()[kind]], 'auto', 50_000_000, SHAPE)
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
    pixels, reasons, *_ = decode.decode([bytes(damaged)], 'auto', 10**6, SHAPE)
    assert reasons, f'byte {place} changed'
    assert not pixels.any()


@pytest.mark.parametrize('kind', ['JPEG', 'GIF', 'BMP', 'WEBP'])
def test_a_file_cut_short_is_refused(kind):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
  data = saved(Image.fromarray(noise).convert('RGB' if kind == 'WEBP' else 'L'), kind)
  for kept in (1, 20, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
    assert decode.decode([data[:kept]], 'auto', 10**6, SHAPE)[1], f'{kept} of {len(data)} bytes'


def test_one_bad_file_is_rejected_alone(drawn):
  good = saved(drawn, 'PNG')
  pixels, reasons, *_ = decode.decode([good, b'', good, b'no image', good], 'auto', 10**6, SHAPE)
  assert reasons == {
    1: 'the file is empty',
    3: "text, which is not read: fetch the picture again: it begins with b'no image'",
  }
  for place in (0, 2, 4):
    np.testing.assert_array_equal(pixels[place, ..., 0], drawn)
