"""The values of the scorer's flags, and what is checked of them."""

import argparse
import dataclasses

from absl import app

from images import model_card

REQUIRED = {'input': "'pictures/**/*.png'", 'model': 'runs/seed/export/1', 'output': 'scored'}

MAX_PIXEL_BYTES = 64 << 20  # of a chunk, as the model takes them


@dataclasses.dataclass(frozen=True)
class Settings:
  """The flags that workers need. All values can be pickled."""

  model: str
  output: str
  output_format: str
  preprocess: str
  background: str
  precision: str
  max_pixels: int
  chunk_images: int
  rows_per_file: int
  batch_images: int
  read_threads: int
  top_k: int
  label_from: str
  image_column: str
  id_column: str
  label_column: str
  label_map: str
  label_offset: int
  carry: tuple[str, ...]
  root: str


def to_settings(args: argparse.Namespace) -> Settings:
  """Returns the settings.

  Raises:
    app.UsageError: a required flag is missing, or flags exclude each other.
  """
  for name, example in REQUIRED.items():
    if not getattr(args, name):
      raise app.UsageError(f'--{name} is missing; pass one, such as --{name}={example}')
  if args.overwrite and args.resume:
    raise app.UsageError('--overwrite and --resume exclude each other; pass one of the two')
  if args.label_map and args.label_offset:
    raise app.UsageError('--label_map and --label_offset exclude each other; pass one of the two')
  values = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
  carry = tuple(dict.fromkeys(name.strip() for name in args.carry.split(',') if name.strip()))
  return Settings(**{**values, 'carry': carry})


def fit_model(settings: Settings, card: model_card.ModelCard) -> Settings:
  """Returns the settings, with so few images in a chunk that their pixels are MAX_PIXEL_BYTES.

  Raises:
    app.UsageError: a value is out of range.
  """
  height, width, channels = card.image_shape
  pixels = height * width
  if settings.max_pixels < pixels:
    raise app.UsageError(
      f"--max_pixels={settings.max_pixels}: the model's images have {pixels}; pass at least that"
    )
  if settings.top_k > len(card.labels):
    raise app.UsageError(
      f'--top_k={settings.top_k}: the model has {len(card.labels)} labels; pass at most that'
    )
  fitting = max(MAX_PIXEL_BYTES // (pixels * channels), 1)
  return dataclasses.replace(settings, chunk_images=min(settings.chunk_images, fitting))
