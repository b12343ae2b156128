"""Pictures and labels through the scorer's readers."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from batch import arguments, chunk, flags, labels
from storage import files
from trainer.datasets import gathering

CHUNK_PICTURES = 512  # read and decoded at a time
# What the readers' reasons name if a file may be there, or may be opened, another time.
NOT_OPENED = re.compile(r'\b(FileNotFound|Permission|NotADirectory)Error: ')


def settings(**given: Any) -> flags.Settings:
  """Returns the scorer's default settings, except for those given."""
  parser = arguments.Parser()
  arguments.add_arguments(parser)
  defaults = vars(parser.parse_args([]))
  values = {field.name: defaults[field.name] for field in dataclasses.fields(flags.Settings)}
  fixed = {'model': '', 'output': '', 'carry': (), 'chunk_images': CHUNK_PICTURES}
  return flags.Settings(**{**values, **fixed, **given})


def to_chunks(
  where: str,
  read: Iterator[chunk.ReadImages],
  split_of: Callable[[chunk.ReadImages], list[str]],
  label_of: Callable[[Any], str] = labels.to_text,
) -> Iterator[gathering.Chunk]:
  """Yields what a reader has read.

  Args:
    where: what messages call the source.
    read: by the scorer's `source.read`.
    split_of: returns the split of each image.
    label_of: returns what the trainer calls a label.

  Raises:
    app.UsageError: the source cannot be read.
  """
  with files.as_usage_error(where):
    for images in read:
      yield _to_chunk(images, split_of(images), label_of)


def _to_chunk(
  images: chunk.ReadImages, splits: list[str], label_of: Callable[[Any], str]
) -> gathering.Chunk:
  return gathering.Chunk(
    ids=images.ids,
    encoded=images.encoded or [],
    labels=[label_of(label) for label in images.labels or [''] * len(images.ids)],
    splits=splits,
    rejects=[(each.id, each.stage, each.reason) for each in images.rejects],
    passed_over=images.passed_over,
    unread=sum(bool(NOT_OPENED.search(each.reason)) for each in images.rejects),
  )
