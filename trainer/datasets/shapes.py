"""The size and colour of the images that are made of pictures, and the pictures that differ."""

import collections
import io
import math
from collections.abc import Iterable, Iterator

from absl import logging
from PIL import Image

from images import ImageShape, decode
from trainer.datasets import Options

PHOTO_SIDE = 64  # of the images that are made of photos
MAX_OWN_SIDE = 128  # larger pictures are photos, even if all have one size
MAX_PIXELS = 50_000_000  # of a picture, as the scorer has it
CHANNELS = {'grey': 1, 'rgb': 3}
HEADERS = ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM')
GREY_MODES = {'1', 'L', 'LA', 'I;16', 'I', 'F'}


def chosen(where: str, sample: Iterable[bytes], options: Options) -> ImageShape:
  """Returns the shape of the images to train on: as asked, else that of a sample's pictures.

  Args:
    where: what messages call the source.
    sample: encoded pictures. They keep their size only if all have it, and are grey if all are.
    options: what is asked.
  """
  headers = set() if options.image_size and options.channels else set(_headers(sample))
  sizes = {size for size, _ in headers}
  columns, rows = next(iter(sizes)) if len(sizes) == 1 else (0, 0)
  if options.image_size:
    rows = columns = options.image_size
  elif not 0 < max(rows, columns) <= MAX_OWN_SIDE:
    rows = columns = PHOTO_SIDE
  are_grey = bool(headers) and all(mode in GREY_MODES for _, mode in headers)
  channels = CHANNELS[options.channels or ('grey' if are_grey else 'rgb')]
  logging.info(
    f'{where}: images of {rows}x{columns}, {decode.COLOURS[channels]}; pass --image_size and '
    '--channels for others'
  )
  return rows, columns, channels


def count_others(encoded: Iterable[bytes], shape: ImageShape, options: Options) -> dict[str, int]:
  """Returns how many pictures differ from those that the shape was chosen for, by what is lost.

  What is asked, and the size of photos, was not chosen for any.
  """
  rows, columns, channels = shape
  keeps_size = not options.image_size and (rows, columns) != (PHOTO_SIDE, PHOTO_SIDE)
  is_grey = not options.channels and channels == CHANNELS['grey']
  counts = collections.Counter[str]()
  if keeps_size or is_grey:
    for size, mode in _headers(encoded):
      if is_grey and mode not in GREY_MODES:
        counts['picture stored in colour, made grey; --channels=rgb keeps it'] += 1
      if keeps_size and size != (columns, rows):
        counts[f'picture of another size than {rows}x{columns}, fitted; see --image_size'] += 1
  return dict(counts)


def _headers(encoded: Iterable[bytes]) -> Iterator[tuple[tuple[int, int], str]]:
  """Yields (width, height) and Pillow's mode of each picture that may be one to train on."""
  for content in encoded:
    try:
      with Image.open(io.BytesIO(content), formats=HEADERS) as image:
        if math.prod(image.size) <= MAX_PIXELS:
          yield image.size, image.mode
    except Exception as error:  # a picture that cannot be read is rejected when it is decoded
      logging.debug('%s', error)
