"""The scorer's command line. Nothing here imports Beam: --help must be quick."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from absl import app

from batch import readers, writers

INPUT_FORMATS = ('auto', *readers.READERS)
PREPROCESSING = ('auto', 'none', 'photo')
BACKGROUNDS = ('auto', 'light', 'dark')
PRECISIONS = ('auto', 'float32', 'bfloat16')


class Parser(argparse.ArgumentParser):
  """A parser that raises UsageError instead of exiting."""

  def error(self, message: str) -> NoReturn:
    """Raises the UsageError."""
    raise app.UsageError(message)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the scorer's own flags to a parser."""
  _add_input_and_output(parser)
  _add_scoring(parser)
  _add_sizes(parser)
  _add_columns(parser)
  _add_labels(parser)


def _add_input_and_output(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    '--input',
    action='append',
    metavar='PATTERN',
    help='Images to score: a file, a directory or a pattern, local or gs://; ** matches any '
    'number of directories. Repeat the flag for more.',
  )
  add(
    '--input_format',
    default='auto',
    choices=INPUT_FORMATS,
    help='Format of the input. auto infers it from the file names.',
  )
  add(
    '--model',
    metavar='DIR',
    help='A SavedModel that trainer.main exported, such as runs/seed/export/1.',
  )
  add('--output', metavar='DIR', help='Directory for predictions, rejects, summary and report.')
  add(
    '--output_format',
    default='parquet',
    choices=tuple(writers.WRITERS),
    help='File format of the predictions.',
  )
  add('--overwrite', action='store_true', help='First remove the results in --output.')
  add(
    '--resume',
    action='store_true',
    help='Continue the run in --output; its completed chunks are kept.',
  )
  add('--verbose', action='store_true', help='On failure, also print tracebacks.')


def _add_scoring(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    '--preprocess',
    default='auto',
    choices=PREPROCESSING,
    help="auto leaves images of the model's size and colours unchanged and converts all others "
    'as the Fashion-MNIST paper does; none rejects the others; photo converts every image.',
  )
  add(
    '--background',
    default='auto',
    choices=BACKGROUNDS,
    help="What images that are converted show their item on. Those on the opposite of the model's "
    'background are negated. auto judges each by its border.',
  )
  add(
    '--precision',
    default='auto',
    choices=PRECISIONS,
    help='auto is bfloat16 on processors that support it; close calls are rescored in float32.',
  )
  add(
    '--max_reject_fraction',
    default=1.0,
    type=_fraction,
    metavar='FRACTION',
    help='Exit with 3, after writing all results, if a larger fraction of the images is rejected.',
  )
  add(
    '--top_k',
    default=0,
    type=_at_least(0),
    metavar='K',
    help='Also write the K most likely labels and their probabilities.',
  )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    '--max_pixels',
    default=50_000_000,
    type=_at_least(1),
    metavar='PIXELS',
    help='Images whose header specifies more pixels are rejected before they are decoded.',
  )
  add(
    '--chunk_images',
    default=4096,
    type=_at_least(1),
    metavar='IMAGES',
    help='Images that are read, scored and logged together.',
  )
  add(
    '--rows_per_file',
    default=1_000_000,
    type=_at_least(1),
    metavar='IMAGES',
    help='About how many images a file of predictions has, of whole chunks; fewer if it would be '
    'larger than 128 MB.',
  )
  add(
    '--batch_images',
    default=0,
    type=_at_least(0),
    metavar='IMAGES',
    help='Maximum number of images per call of the model; halved when memory runs out. '
    '0 is 256 on a CPU and 2048 on a GPU.',
  )
  add(
    '--read_threads',
    default=0,
    type=_at_least(0),
    metavar='THREADS',
    help='Image files that each worker reads concurrently; 0 is 8 on a disk and 32 in a bucket.',
  )


def _add_labels(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--label_from',
    default='none',
    choices=('none', 'directory'),
    help="For image files: whether the directory's name is the label.",
  )
  parser.add_argument(
    '--label_map',
    default='',
    metavar='FILE',
    help="JSON or CSV: the model's label for each value that the input uses, such as "
    '{"boots": "Ankle boot", "12": "Bag"}. Values that it lacks are not labels of the model.',
  )
  parser.add_argument(
    '--label_offset',
    default=0,
    type=int,
    metavar='N',
    help="The integer that stands for the model's first label: 1 if labels count from 1.",
  )


def _add_columns(parser: argparse.ArgumentParser) -> None:
  for column in ('image', 'id', 'label'):
    parser.add_argument(
      f'--{column}_column',
      default='',
      metavar='NAME',
      help=f'The column, feature or member suffix with the {column}s.',
    )
  parser.add_argument(
    '--carry',
    default='',
    metavar='NAMES',
    help='Parquet and CSV: comma-separated columns to copy into the predictions.',
  )
  parser.add_argument(
    '--root',
    default='',
    metavar='DIR',
    help="Manifests: the directory that relative paths start from, instead of the manifest's own.",
  )


def _at_least(minimum: int) -> Callable[[str], int]:
  """Returns a parser of whole numbers from `minimum`."""

  def _parse(text: str) -> int:
    value = int(text) if text.lstrip('-').isdigit() else minimum - 1
    if value < minimum:
      raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least {minimum}')
    return value

  return _parse


def _fraction(text: str) -> float:
  """Parses a number from 0 to 1."""
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
  return value
