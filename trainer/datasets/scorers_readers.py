"""Pictures and labels through the scorer's readers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from batch import arguments, chunk, flags, labels
from trainer.datasets import gathering

CHUNK_PICTURES = 512  # read and decoded at a time


def settings(**given: Any) -> flags.Settings:
  """Returns the scorer's default settings, except for those given."""
  parser = arguments.Parser()
  arguments.add_arguments(parser)
  defaults = vars(parser.parse_args([]))
  values = {field.name: defaults[field.name] for field in dataclasses.fields(flags.Settings)}
  fixed = {'model': '', 'output': '', 'carry': (), 'chunk_images': CHUNK_PICTURES}
  return flags.Settings(**{**values, **fixed, **given})


def to_chunks(
  read: Iterator[chunk.ReadImages], split_of: Callable[[chunk.ReadImages], list[str]]
) -> Iterator[gathering.Chunk]:
  """Yields what a reader has read; `split_of` returns the split of each image."""
  for images in read:
    yield gathering.Chunk(
      ids=images.ids,
      encoded=images.encoded or [],
      labels=[labels.to_text(label) for label in images.labels or [''] * len(images.ids)],
      splits=split_of(images),
      rejects=[(each.id, each.stage, each.reason) for each in images.rejects],
      passed_over=images.passed_over,
    )
