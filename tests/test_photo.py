"""The conversions of pictures that are not what a network takes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from images import decode, model_card, photo
from tests.pictures import photograph, saved

SHAPE = (28, 28, 1)


def decoded(data: bytes, max_pixels: int = 10**6) -> np.ndarray:
  pixels, reasons, *_ = decode.decode([data], 'auto', max_pixels, SHAPE)
  assert not reasons
  return pixels[0, ..., 0]


def exif(orientation: int) -> Image.Exif:
  """Returns metadata with an orientation; 6: turn the picture by 90 degrees to see it upright."""
  found = Image.Exif()
  found[0x0112] = orientation
  return found


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
    lying = plain.transpose(Image.Transpose.ROTATE_90)
    data = saved(lying, 'JPEG', quality=100, exif=exif(orientation=6))
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


def test_a_picture_that_lies_on_its_side_is_turned_upright():
  exif = Image.Exif()
  exif[0x0112] = 6
  lying = saved(photograph(box=(0, 0, 31, 20), size=(31, 20)), 'PNG', exif=exif)
  pixels, reasons, converted, _ = decode.decode([lying], 'auto', 10**6, (20, 31, 3), 0, 'fit')
  assert (reasons, converted) == ({}, 1)
  assert not pixels[0, :, 0].any()  # upright it is 20 wide: background beside it
  assert pixels[0, :, 15].any(axis=1).all()


@pytest.mark.parametrize(('channels', 'background'), [(3, 0), (3, 255), (1, 7)])
def test_fit_keeps_the_aspect_ratio_on_the_networks_background(channels, background):
  picture = saved(Image.new('RGB', (200, 100), (10, 20, 30)), 'PNG')
  shape = (32, 32, channels)
  pixels, _, converted, _ = decode.decode([picture], 'auto', 10**6, shape, background, 'fit')
  assert converted == 1
  ink = [10, 20, 30] if channels == 3 else [18]  # 0.299 * 10 + 0.587 * 20 + 0.114 * 30
  assert (pixels[0, 8:24] == ink).all()
  assert (pixels[0, :8] == background).all()
  assert (pixels[0, 24:] == background).all()


def test_a_light_background_is_not_negated():
  dark = photo.convert_fashion_mnist(photograph(), SHAPE, 0).pixels
  light = photo.convert_fashion_mnist(photograph(), SHAPE, 255).pixels
  np.testing.assert_array_equal(255 - dark, light)


def on_black(image: Image.Image) -> Image.Image:
  """Returns an item as a network expects it, on a black ground."""
  return Image.fromarray(255 - np.asarray(image.convert('L')))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_a_picture_on_a_dark_ground_is_not_negated(kind):
  result = decode.decode([saved(on_black(photograph()), kind)], 'auto', 10**6, SHAPE)
  assert (result.converted, result.by_background) == (1, {'dark': 1})
  expected = decoded(saved(photograph(), 'PNG'))
  assert np.abs(result.pixels[0, ..., 0].astype(int) - expected).mean() < 8


@pytest.mark.parametrize(('ground', 'seen_on'), [((255,) * 3, 'dark'), ((0,) * 3, 'light')])
def test_the_ground_that_the_user_names_is_believed(ground, seen_on):
  data = saved(photograph(ground=ground, ink=(130, 130, 130)), 'PNG')
  results = [decode.decode([data], 'auto', 10**6, SHAPE, seen_on=by) for by in ('auto', seen_on)]
  assert results[1].by_background == {seen_on: 1}
  np.testing.assert_array_equal(results[0].pixels, 255 - results[1].pixels)


@pytest.mark.parametrize(
  ('ground', 'ink', 'seen_on'),
  [
    (250, 30, 'light'),
    (140, 250, 'light'),
    (100, 30, 'light'),
    (100, 200, 'dark'),
    (40, 9, 'dark'),
  ],
)
def test_a_ground_is_light_or_dark_by_itself_or_by_what_lies_on_it(ground, ink, seen_on):
  picture = photograph(ground=(ground,) * 3, ink=(ink,) * 3)
  assert photo.convert_fashion_mnist(picture, SHAPE, 0).seen_on == seen_on


def test_one_corner_that_the_item_covers_does_not_decide():
  picture = photograph(box=(0, 0, 60, 90), ground=(0, 0, 0), ink=(200, 200, 200))
  converted = photo.convert_fashion_mnist(picture, SHAPE, 0)
  assert converted.seen_on == 'dark'
  assert set(np.unique(converted.pixels)) == {0, 200}


def cut_out(ink: int) -> Image.Image:
  """Returns an item that is alone on transparency, whose colour there is another."""
  clear = Image.new('RGBA', (120, 140), (0, 90, 0, 0))
  clear.paste((ink, ink, ink, 255), (40, 30, 60, 90))
  return clear


@pytest.mark.parametrize(
  ('ink', 'flag', 'seen_on', 'shown'),
  [
    (30, 'auto', 'light', 225),
    (200, 'auto', 'light', 55),
    (250, 'auto', 'dark', 250),  # on white, nobody would see it
    (255, 'auto', 'dark', 255),
    (30, 'dark', 'dark', 30),
    (200, 'dark', 'dark', 200),
    (200, 'light', 'light', 55),
  ],
)
def test_a_cut_out_is_laid_where_it_is_seen(ink, flag, seen_on, shown):
  result = decode.decode([saved(cut_out(ink), 'PNG')], 'auto', 10**6, SHAPE, seen_on=flag)
  assert result.by_background == {seen_on: 1}
  assert set(np.unique(result.pixels)) == {0, shown}


def drawn_on_nothing(mode: str) -> bytes:
  """Returns a 28x28 PNG of an item whose black ground is transparent."""
  grey = Image.fromarray(np.pad(np.full((10, 10), 180, np.uint8), 9))
  if mode == 'grey with tRNS':
    return saved(grey, 'PNG', transparency=0)
  if mode == '16 bits with tRNS':
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return saved(sixteen, 'PNG', transparency=0)
  if mode == 'P':
    return saved(grey.convert('P'), 'PNG', transparency=0)
  alpha = grey.point(lambda value: 255 if value else 0)
  return saved(Image.merge('LA', (grey, alpha)).convert(mode), 'PNG')


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'P', 'grey with tRNS', '16 bits with tRNS'])
def test_a_cut_out_of_the_networks_size_is_laid_on_its_background(mode):
  result = decode.decode([drawn_on_nothing(mode)], 'auto', 10**6, SHAPE)
  assert (result.reasons, result.converted) == ({}, 0)
  assert set(np.unique(result.pixels)) == {0, 180}


def test_a_cut_out_of_the_networks_size_that_would_vanish_there_is_converted():
  alpha = Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), 9))
  data = saved(Image.merge('LA', (Image.new('L', (28, 28), 5), alpha)), 'PNG')
  result = decode.decode([data], 'auto', 10**6, SHAPE)
  assert result.by_background == {'light': 1}
  assert result.pixels.max() == 250


def test_a_picture_that_is_wholly_transparent_is_rejected():
  data = saved(Image.new('RGBA', (50, 50), (9, 9, 9, 0)), 'PNG')
  assert decode.decode([data], 'auto', 10**6, SHAPE).reasons == {
    0: 'the picture is wholly transparent'
  }


def test_the_conversions_are_those_of_the_model_card():
  assert set(photo.CONVERSIONS) == set(model_card.CHANNELS_BY_PREPROCESSING)


def test_a_picture_of_one_colour_is_rejected():
  with pytest.raises(ValueError, match='one colour only'):
    photo.convert_fashion_mnist(Image.new('RGB', (50, 50), (9, 9, 9)), SHAPE, 0)


class TestReducedScale:
  """A large JPEG is not decoded whole, and shows the network the same."""

  SIZE = 3000, 2000

  @staticmethod
  def pictures(box, kind, **options) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of a large photo of an item in `box`, as such a file and as a PNG."""
    size = TestReducedScale.SIZE
    whole = photograph(box=box, size=size)
    whole.paste((20, 90, 200), (box[0], box[1], (box[0] + box[2]) // 2, (box[1] + box[3]) // 2))
    whole = whole.convert('CMYK') if kind == 'CMYK' else whole
    stored = whole.transpose(Image.Transpose.ROTATE_90) if 'exif' in options else whole
    data = saved(stored, 'JPEG', quality=95, **options)
    (pixels,), reasons, *_ = decode.decode([data], 'auto', 10**7, SHAPE)
    assert not reasons
    fully = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    return pixels[..., 0], decoded(saved(fully, 'PNG', compress_level=1), 10**7)

  @pytest.mark.parametrize(
    'box',
    [(400, 300, 1900, 1700), (2800, 1900, 2960, 1990), (1000, 900, 1050, 950), (77, 77, 80, 85)],
    ids=['large', '160 pixels', '50 pixels', '8 pixels'],
  )
  def test_items_of_every_size(self, box):
    found, expected = self.pictures(box, 'RGB')
    assert np.abs(found.astype(int) - expected).mean() < 2

  @pytest.mark.parametrize('kind', ['progressive', 'CMYK', 'exif'])
  def test_jpegs_of_every_kind(self, kind):
    options = {'progressive': {'progressive': True}, 'exif': {'exif': exif(orientation=6)}}
    found, expected = self.pictures((400, 300, 1900, 1700), kind, **options.get(kind, {}))
    assert np.abs(found.astype(int) - expected).mean() < 2

  def test_max_pixels_counts_the_whole_picture(self):
    data = saved(photograph(size=self.SIZE), 'JPEG')
    reason = decode.decode([data], 'auto', 3000 * 2000 - 1, SHAPE).reasons[0]
    assert reason == '3000x2000 is more than --max_pixels=5999999: not decoded'

  def test_one_colour_is_rejected_at_any_scale(self):
    data = saved(Image.new('RGB', self.SIZE, (200, 200, 200)), 'JPEG')
    assert decode.decode([data], 'auto', 10**7, SHAPE).reasons == {
      0: 'the picture shows one colour only'
    }

  def test_colours_for_networks_that_take_them(self):
    data = saved(photograph((750, 500, 2250, 1500), self.SIZE), 'JPEG', quality=95)
    (pixels,), *_ = decode.decode([data], 'auto', 10**7, (64, 64, 3), 255, 'fit')
    expected = np.asarray(photograph((16, 21, 48, 43), (64, 64))).astype(int)
    assert np.abs(pixels - expected).mean() < 4
