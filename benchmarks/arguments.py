"""What the programs' command lines have in common."""

import argparse

from trainer import config


class Parser(argparse.ArgumentParser):
  """A parser whose help shows the program's docstring as it is."""

  def __init__(self, description: str | None):
    super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def positive(text: str) -> int:
  """Returns the integer in `text`. Raises ValueError unless it is 1 or more."""
  if int(text) < 1:
    raise ValueError
  return int(text)


def non_negative(text: str) -> int:
  """Returns the integer in `text`. Raises ValueError unless it is 0 or more."""
  if int(text) < 0:
    raise ValueError
  return int(text)


def add_validation_examples(parser: argparse.ArgumentParser) -> None:
  """Adds --validation_examples with the trainer's default."""
  parser.add_argument(
    '--validation_examples',
    type=positive,
    default=config.VALIDATION_EXAMPLES,
    help='training images that are not trained on',
  )
