"""Images of one size in folders named after their labels.

    ROOT/train/LABEL/*.png
    ROOT/test/LABEL/*.png

PNG files, or the other formats that images.decode reads, grey or RGB. Labels are the folders'
sorted names; the order is that of the sorted paths.
"""

import concurrent.futures
import functools
import io
from collections.abc import Sequence

import numpy as np
from absl import app
from PIL import Image

from images import ImageShape, decode
from storage import files
from trainer.data import Examples
from trainer.datasets import Dataset

SPLITS = ('train', 'test')
SUFFIXES = ('.png', '.jpg', '.jpeg', '.gif', '.bmp', '.webp')
PILLOW_FORMATS = ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP')
READERS = 16  # files read at the same time, which matters in a bucket
GREY_MODES = ('1', 'L')


def load(data_dir: str | None, idx_dir: str | None, source: str | None) -> Dataset:
  """Returns the dataset in the folder `source`, local or gs://.

  Raises:
    app.UsageError: `source` is missing, has no images to train or to test on, has one class only,
      or its first image cannot be read.
  """
  if not source:
    raise app.UsageError('--source is not given: --dataset=image_folder needs the folder of images')
  if data_dir or idx_dir:
    raise app.UsageError('--dataset=image_folder: takes --source, not --data_dir or --idx_dir')
  root = source.rstrip('/')
  with files.as_usage_error(f'--source={source}'):
    paths = {split: _images_in(files.join(root, split)) for split in SPLITS}
  labels = tuple(sorted({_label(path) for path in paths['train']}))
  _check_labels(source, paths, labels)
  shape = _image_shape(paths['train'][0])
  return Dataset(
    name='image_folder',
    title=root.rsplit('/', 1)[-1],
    image_shape=shape,
    labels=labels,
    num_examples={split: len(found) for split, found in paths.items()},
    read=functools.partial(_read, paths, labels, shape),
    flip=False,  # the images may show letters or digits
    preprocessing='fit',
  )


def _images_in(folder: str) -> list[str]:
  """Returns the sorted paths FOLDER/LABEL/NAME of image files."""
  depth = folder.count('/') + 2
  found = [file.uri for file in files.list_files(folder) if file.uri.count('/') == depth]
  return sorted(path for path in found if path.lower().endswith(SUFFIXES))


def _label(path: str) -> str:
  return path.rsplit('/', 2)[1]


def _check_labels(source: str, paths: dict[str, list[str]], labels: Sequence[str]) -> None:
  """Raises app.UsageError if the folders' names do not make the labels of a classifier."""
  if odd := [label for label in labels if not _is_line_of_text(label)]:
    raise app.UsageError(
      f'--source={source}: a folder is named {odd[0]!a}, which is not a line of UTF-8; rename it'
    )
  for split, found in paths.items():
    if not found:
      raise app.UsageError(f'--source={source}: has no images named {split}/LABEL/*.png')
  if len(labels) < 2:
    raise app.UsageError(
      f'--source={source}: train/ has one class only, {labels[0]}; a classifier needs two or more'
    )
  if unknown := sorted({_label(path) for path in paths['test']} - set(labels)):
    raise app.UsageError(f'--source={source}: test/ has {unknown[0]}, which train/ does not have')


def _is_line_of_text(label: str) -> bool:
  return label.splitlines() == [label] and label.encode(errors='replace').decode() == label


def _image_shape(path: str) -> ImageShape:
  """Returns (height, width, channels) of an image: one channel if it is grey, otherwise three."""
  with files.as_usage_error('--source'):
    content = files.read(path)
  try:
    image = Image.open(io.BytesIO(content), formats=PILLOW_FORMATS)
  except (OSError, ValueError) as error:
    raise app.UsageError(f'--source: {path} cannot be read ({error})') from error
  return image.height, image.width, 1 if image.mode in GREY_MODES else 3


def _read(
  paths: dict[str, list[str]], labels: Sequence[str], shape: ImageShape, split: str
) -> Examples:
  """Decodes every image of a split: pixels uint8 (N, *shape).

  Raises:
    app.UsageError: a file cannot be read, or is not of `shape`.
  """
  found = paths[split]
  with files.as_usage_error('--source'), concurrent.futures.ThreadPoolExecutor(READERS) as readers:
    encoded = list(readers.map(files.read, found))
  height, width, _ = shape
  decoded = decode.decode(encoded, 'none', height * width, shape)
  if decoded.reasons:
    first = min(decoded.reasons)
    raise app.UsageError(
      f'--source: {found[first]} cannot be used ({decoded.reasons[first]}); every image must be '
      f'like {paths["train"][0]}'
    )
  index = {label: i for i, label in enumerate(labels)}
  return Examples(decoded.pixels, np.array([index[_label(path)] for path in found], np.int64))
