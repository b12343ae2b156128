"""Pictures that a table names or contains, each with its label: CSV or Parquet.

Whatever the scorer reads with labels is read: TFRecord and tar files, too. A column may name each
picture's split; else some of each class are held out for the test and the validation.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

from absl import app

from batch import chunk, flags, ranges, source
from storage import files
from trainer.datasets import SPLITS, Dataset, Options, gathering, pictures, scorers_readers
from trainer.datasets.splits import SPLIT_NAMES

SAMPLE_SHARDS, SAMPLE_PICTURES = 32, 1024  # at most, that size and colour are chosen by
FORMATS = ('manifest', 'parquet', 'tfrecord', 'tar')


def load(name: str, options: Options) -> Dataset:
  """Returns the dataset in the table `source`, local or gs://.

  Raises:
    app.UsageError: `source` is missing, cannot be read, or does not make a classifier.
  """
  if not options.source:
    raise app.UsageError(
      f'--source is not given: --dataset={name} needs a CSV or Parquet file of pictures and labels'
    )
  if options.idx_dir:
    raise app.UsageError(f'--dataset={name}: takes --source, not --idx_dir')
  where = f'--source={options.source}'
  settings = scorers_readers.settings(
    image_column=options.image_column,
    label_column=options.label_column,
    carry=(options.split_column,) if options.split_column else (),
  )
  with files.as_usage_error(where):
    plan = _plan(options.source, settings)
    if plan.format not in FORMATS:
      raise app.UsageError(f'{where}: is {plan.format}, which has no labels; pass a CSV or Parquet')
  shards = ranges.whole(plan.shards)  # one after the other
  table = gathering.Source(
    where,
    _chunks(where, shards, settings),
    total=plan.images,
    fingerprint=repr((options.source, plan.fingerprint, settings)),
    sample=lambda: _sample(where, shards, settings),
    passed_over=plan.passed_over,
  )
  title = os.path.splitext(os.path.basename(options.source.rstrip('/')))[0]
  return pictures.to_dataset(table, options, name=name, title=title)


def _plan(path: str, settings: flags.Settings) -> source.Plan:
  """Returns the scorer's plan; its errors name the trainer's flags."""
  try:
    return source.plan([path], 'auto', settings)
  except app.UsageError as error:
    said = str(error).replace('--input=', '--source=').replace('--carry=', '--split_column=')
    raise app.UsageError(said) from error


def _sample(where: str, shards: Sequence[chunk.Shard], settings: flags.Settings) -> Iterator[bytes]:
  """Yields pictures from everywhere in the table, as far as it can be read from there."""
  step = -(-len(shards) // SAMPLE_SHARDS)
  some = sorted({*range(0, len(shards), step), len(shards) - 1})
  few = dataclasses.replace(settings, chunk_images=SAMPLE_PICTURES // len(some), read_threads=2)
  for number in some:
    for read in itertools.islice(_chunks(where, [shards[number]], few), 1):
      yield from read.encoded


def _chunks(
  where: str, shards: Sequence[chunk.Shard], settings: flags.Settings
) -> Iterator[gathering.Chunk]:
  read = itertools.chain.from_iterable(source.read(shard, 0, settings) for shard in shards)
  return scorers_readers.to_chunks(where, read, lambda images: _splits(where, images, settings))


def _splits(where: str, images: chunk.ReadImages, settings: flags.Settings) -> list[str]:
  """Returns the split of each image, '' for all if no column names them."""
  if images.carried is None:
    return [''] * len(images.ids)
  given = [str(value or '').strip() for value in images.carried.column(0).to_pylist()]
  if unknown := sorted({name for name in given if name.lower() not in SPLIT_NAMES}):
    raise app.UsageError(
      f'{where}: --split_column={settings.carry[0]}: contains {unknown[0]!r}; name each split '
      f'{", ".join(SPLITS)}'
    )
  return [SPLIT_NAMES[name.lower()] for name in given]
