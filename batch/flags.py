"""The flags of the scorer, and what is wrong with a set of them. Nothing here imports Beam: help should be quick."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence

from absl import app

from batch import readers

INPUT_FORMATS = ('auto', *readers.READERS)
EXIT_USAGE = 64  # EX_USAGE of sysexits.h
EXIT_REJECTS = 3
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command with --resume goes on


@dataclasses.dataclass(frozen=True)
class Settings:
  """The flags that workers need. Anything in it can be pickled."""

  model: str
  output: str
  output_format: str
  preprocess: str
  precision: str
  max_pixels: int
  chunk_images: int
  batch_images: int
  read_threads: int
  top_k: int
  label_from: str
  image_column: str
  id_column: str
  label_column: str
  carry: tuple[str, ...]


def add(parser: argparse.ArgumentParser) -> None:
  """Adds the scorer's own flags to a parser."""
  flag = parser.add_argument
  flag('--input', action='append', metavar='PATTERN', help='What to score: a file, a directory or a pattern, local or '
       'gs://; ** crosses directories. Repeat it for more.')  # fmt: skip
  flag('--input_format', default='auto', type=_one_of('input_format', INPUT_FORMATS), metavar='|'.join(INPUT_FORMATS),
       help='How to read it. auto goes by the names.')  # fmt: skip
  flag(
    '--model',
    metavar='DIR',
    help='A SavedModel that trainer.main exported, such as runs/seed/export/1.',
  )
  flag(
    '--output', metavar='DIR', help='Where predictions, rejects, summary.json and report.html go.'
  )
  flag('--output_format', default='parquet', type=_one_of('output_format', ('parquet', 'jsonl')),
       metavar='parquet|jsonl', help='How predictions are written.')  # fmt: skip
  flag('--overwrite', action='store_true', help='Remove the results that --output holds first.')
  flag(
    '--resume',
    action='store_true',
    help='Continue the run that --output holds: what it wrote stays.',
  )
  flag('--preprocess', default='auto', type=_one_of('preprocess', ('auto', 'none', 'photo')),
       metavar='auto|none|photo', help='auto leaves 28x28 grey images as they are and converts others as the '
       'Fashion-MNIST paper does; none rejects others; photo converts every image.')  # fmt: skip
  flag('--precision', default='auto', type=_one_of('precision', ('auto', 'float32', 'bfloat16')),
       metavar='auto|float32|bfloat16', help='auto is bfloat16 on processors that have it, with float32 deciding what '
       'that leaves close.')  # fmt: skip
  flag('--max_pixels', default=50_000_000, type=_integer('max_pixels', 784), metavar='PIXELS',
       help='Images that say they are larger are rejected before they are decoded.')  # fmt: skip
  flag('--max_reject_fraction', default=1.0, type=_fraction, metavar='FRACTION',
       help='Fail, after everything good is written, where more than this part of the images is rejected.')  # fmt: skip
  flag('--chunk_images', default=4096, type=_integer('chunk_images', 1), metavar='IMAGES',
       help='Images that are read, scored and written together, in one file of predictions.')  # fmt: skip
  flag('--batch_images', default=0, type=_integer('batch_images', 0), metavar='IMAGES',
       help='Images in one call of the model, at most; halved while memory does not suffice. 0 is 256 on a CPU, '
       '2048 on a GPU.')  # fmt: skip
  flag('--read_threads', default=0, type=_integer('read_threads', 0), metavar='THREADS',
       help='Image files that each worker reads at the same time; 0 is 8 on a disk and 32 in a bucket.')  # fmt: skip
  flag('--top_k', default=0, type=_integer('top_k', 0, 10), metavar='K',
       help='Also write the K likeliest labels and their probabilities.')  # fmt: skip
  flag('--label_from', default='none', type=_one_of('label_from', ('none', 'directory')), metavar='none|directory',
       help="For image files: whether the directory's name is the label.")  # fmt: skip
  flag('--image_column', default='', metavar='NAME', help='Parquet: the column with the images.')
  flag('--id_column', default='', metavar='NAME', help='Parquet: the column with the ids.')
  flag('--label_column', default='', metavar='NAME', help='Parquet: the column with the labels.')
  flag('--carry', default='', metavar='NAMES', help='Parquet: columns, separated by commas, to write beside the '
       'predictions.')  # fmt: skip


def check(flags: argparse.Namespace) -> Settings:
  """The settings, once the flags make sense together.

  Raises:
    app.UsageError: they do not.
  """
  for name, example in (
    ('input', "'pictures/**/*.png'"),
    ('model', 'runs/seed/export/1'),
    ('output', 'scored'),
  ):
    if not getattr(flags, name):
      raise app.UsageError(f'--{name} is missing; pass one, such as --{name}={example}')
  if flags.overwrite and flags.resume:
    raise app.UsageError('--overwrite and --resume exclude each other; pass one of the two')
  values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(Settings)}
  carry = tuple(name.strip() for name in flags.carry.split(',') if name.strip())
  return Settings(**{**values, 'carry': carry})


def _one_of(flag: str, values: Sequence[str]) -> Callable[[str], str]:
  def parse(text: str) -> str:
    if text not in values:
      raise app.UsageError(f'--{flag}={text} is not known; pass one of {", ".join(values)}')
    return text

  return parse


def _integer(flag: str, least: int, most: int | None = None) -> Callable[[str], int]:
  bounds = f'from {least} on' if most is None else f'from {least} to {most}'

  def parse(text: str) -> int:
    value = int(text) if text.lstrip('-').isdigit() else least - 1
    if value < least or (most is not None and value > most):
      raise app.UsageError(f'--{flag}={text} is out of range; pass a whole number {bounds}')
    return value

  return parse


def _fraction(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise app.UsageError(f'--max_reject_fraction={text} is out of range; pass a number from 0 to 1')
  return value
