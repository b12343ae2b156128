"""Times making the network's pixels of photos: ours, a full decode, and a reduced one. Prints JSON.

  python -m benchmarks.photos --data_dir=data --model=runs/seed/export/1

The photos are Fashion-MNIST's test images, enlarged to six megapixels on a noisy light ground. For
each kind of file, all ways take turns over the same photos, in one process and one thread:

  ours: the scorer's, which decodes a JPEG again at a larger scale if the item turns out small.
  full: Pillow decodes all pixels.
  draft: Pillow decodes a JPEG once, at the smallest scale with 224 pixels a side.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks import arguments, collection, machine
from images import colours, decode, photo

SIZE = 3000, 2000
LARGE, SMALL = 1500, 90  # pixels of an item's sides
GROUND, NOISE = 243, 3
SHAPE = (28, 28, 1)
MAX_PIXELS = 10**8
DRAFT = (224, 224)
ORIENTATION, LYING = 0x0112, 6


def _photo(image: np.ndarray, side: int, random: np.random.Generator) -> Image.Image:
  """Returns a photo of a test image, uint8 (28, 28, 1): dark on light, `side` pixels wide."""
  item = Image.fromarray(255 - image[..., 0]).resize((side, side), Image.Resampling.BICUBIC)
  canvas = np.full((SIZE[1], SIZE[0]), GROUND, np.uint8)
  left, top = (int(random.integers(0, room - side)) for room in SIZE)
  canvas[top : top + side, left : left + side] = np.minimum(np.asarray(item), GROUND)
  noisy = canvas + random.integers(-NOISE, NOISE + 1, canvas.shape)
  return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert('RGB')


def _saved(image: Image.Image, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _lying(image: Image.Image) -> bytes:
  exif = Image.Exif()
  exif[ORIENTATION] = LYING
  return _saved(image.transpose(Image.Transpose.ROTATE_90), 'JPEG', quality=90, exif=exif)


def _framed(image: Image.Image) -> bytes:
  framed = Image.new('RGB', (image.width + 40, image.height + 40), (0, 0, 0))
  framed.paste(image, (20, 20))
  return _saved(framed, 'JPEG', quality=90)


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
  'jpeg': lambda image: _saved(image, 'JPEG', quality=90),
  'small_item': lambda image: _saved(image, 'JPEG', quality=90),
  'framed': _framed,
  'exif_rotated': _lying,
  'cmyk': lambda image: _saved(image.convert('CMYK'), 'JPEG', quality=90),
  'progressive': lambda image: _saved(image, 'JPEG', quality=90, progressive=True),
  'webp': lambda image: _saved(image, 'WebP', quality=80, method=0),
  'png': lambda image: _saved(image, 'PNG', compress_level=1),
}


def _ours(data: bytes) -> np.ndarray:
  return decode.decode_one(data, 'auto', MAX_PIXELS, SHAPE)[0]


def _full(data: bytes) -> np.ndarray:
  return _converted(Image.open(io.BytesIO(data)))


def _draft(data: bytes) -> np.ndarray:
  image = Image.open(io.BytesIO(data))
  image.draft(None, DRAFT)
  return _converted(image)


def _converted(image: Image.Image) -> np.ndarray:
  return photo.convert_fashion_mnist(colours.normalize(image), SHAPE, background=0).pixels


WAYS = {'ours': _ours, 'full': _full, 'draft': _draft}


def measure(kind: str, images: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  """Returns by way the photos per second of processor time, and the pixels (N, 28, 28, 1)."""
  random = np.random.default_rng(0)
  side = SMALL if kind == 'small_item' else LARGE
  seconds = dict.fromkeys(WAYS, 0.0)
  pixels: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
  for image in images:
    data = KINDS[kind](_photo(image, side, random))
    for way, convert in WAYS.items():
      started = time.process_time()
      pixels[way].append(convert(data))
      seconds[way] += time.process_time() - started
  rates = {way: round(len(images) / seconds[way], 1) for way in WAYS}
  return rates, {way: np.stack(found) for way, found in pixels.items()}


def agreement(model: str, by_kind: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
  """Returns by way the share of photos, of all kinds, whose class is that after a full decode."""
  import tensorflow as tf

  score = tf.saved_model.load(model).signatures['serve_pixels']

  def classes(way: str) -> np.ndarray:
    pixels = np.concatenate([found[way] for found in by_kind.values()])
    return score(pixels=tf.constant(pixels))['probabilities'].numpy().argmax(axis=1)

  expected = classes('full')
  return {way: round(float((classes(way) == expected).mean()), 4) for way in ('ours', 'draft')}


def parse(argv: list[str] | None) -> argparse.Namespace:
  """Returns the command line's arguments."""
  parser = arguments.Parser(__doc__)
  parser.add_argument('--data_dir', required=True, help='a TFDS directory with fashion_mnist')
  parser.add_argument('--model', required=True, help='a SavedModel that scores them')
  parser.add_argument('--photos', type=arguments.positive, default=40, help='of each kind')
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Measures every kind of photo."""
  args = parse(argv)
  images = collection.test_images(args.data_dir)[0][: args.photos]
  rates, by_kind = {}, {}
  for kind in KINDS:
    rates[kind], by_kind[kind] = measure(kind, images)
    print(kind, rates[kind], file=sys.stderr)
  found = {
    'photos_per_cpu_second': rates,
    'speedup_over_full_decode': {
      kind: round(found['ours'] / found['full'], 2) for kind, found in rates.items()
    },
    'same_class_as_full_decode': agreement(args.model, by_kind),
    'photos': len(images) * len(KINDS),
    'machine': machine.facts(),
  }
  print(json.dumps(found))


if __name__ == '__main__':
  main(sys.argv[1:])
