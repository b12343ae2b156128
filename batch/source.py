"""What --input names: which files, of which format, in which shards; and the images of a shard."""

import dataclasses
import functools
import hashlib
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import cast

from absl import app

from batch import chunk, flags
from batch.readers import READERS, base
from storage import files

AUTO = 'auto'
TFDS_METADATA = 'dataset_info.json'


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shards of the input and what the summary reports about them.

  Attributes:
    images: their number, or None if only reading tells.
    fingerprint: equal for two plans only if they name the same files of the same sizes.
    passed_over: what planning left out, by kind.
  """

  shards: list[chunk.Shard]
  format: str
  images: int | None
  bytes: int
  fingerprint: str
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)


def plan(patterns: Sequence[str], input_format: str, settings: flags.Settings) -> Plan:
  """Returns the shards that the patterns name.

  Raises:
    app.UsageError: a pattern matches nothing, the files are of several formats, or are not of the
      format that is given.
  """
  found = {file.uri: file for pattern in patterns for file in _expand(pattern, input_format)}
  matched = [found[uri] for uri in sorted(found)]
  kind = _only_format(list(found)) if input_format == AUTO else input_format
  _check_settings(kind, settings)
  parts, images, passed_over = reader(kind).plan(matched, settings)
  if not parts:
    raise app.UsageError(
      f'--input={", ".join(patterns)}: contains no images; pass files that contain some'
    )
  shards = [dataclasses.replace(part, number=number) for number, part in enumerate(parts)]
  digest = hashlib.sha256(repr([(file.uri, file.size) for file in matched]).encode()).hexdigest()
  return Plan(
    shards, kind, images, sum(file.size for file in matched), digest[:16], dict(passed_over)
  )


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Returns the images of a shard after its first `skip`, rejects counted, in chunks."""
  return reader(shard.format).read(shard, skip, settings)


@functools.cache
def reader(input_format: str) -> base.Reader:
  """Returns the module that plans and reads a format."""
  return cast(base.Reader, importlib.import_module(READERS[input_format]))


def guess_format(uri: str) -> str:
  """Returns the format that a file's name implies, or ''."""
  name = uri.lower()
  return next((kind for kind in READERS if re.search(reader(kind).FILE_NAME, name)), '')


def _check_settings(kind: str, settings: flags.Settings) -> None:
  """Raises UsageError if a flag does not apply to the format."""
  if settings.label_from == 'directory' and kind != 'image':
    raise app.UsageError(
      f'--label_from=directory: applies to image files, and the input is {kind}; leave it out'
    )
  if settings.carry and kind != 'parquet':
    raise app.UsageError(
      f'--carry={",".join(settings.carry)}: applies to Parquet, and the input is {kind}; '
      'leave it out'
    )


def _expand(pattern: str, input_format: str) -> list[files.File]:
  """Returns the files of a pattern, or those in a directory whose names imply a format."""
  found = files.match(pattern) or _in_directory(pattern, input_format)
  if not found:
    raise app.UsageError(
      f'--input={pattern}: matches no file; pass a file, a directory, or a pattern such as '
      "'pictures/**/*.png', in quotes"
    )
  return found


def _in_directory(directory: str, input_format: str) -> list[files.File]:
  inside = files.match(files.join(directory, '**'))
  kinds = list(READERS) if input_format == AUTO else [input_format]
  if any(os.path.basename(file.uri) == TFDS_METADATA for file in inside):
    # TFDS keeps JSON and text files beside its shards.
    kinds = [kind for kind in kinds if kind == 'tfrecord']
  found = [file for file in inside if guess_format(file.uri) in kinds]
  if inside and not found:
    raise app.UsageError(
      f'--input={directory}: no file in that directory has a recognized extension; name the files '
      'with a pattern, and their format with --input_format'
    )
  return found


def _only_format(uris: Sequence[str]) -> str:
  """Returns the format that all names imply."""
  kinds: dict[str, str] = {}
  for uri in uris:
    kinds.setdefault(guess_format(uri), uri)
  if '' in kinds:
    raise app.UsageError(
      f'--input: the name {kinds[""]} does not imply a format; pass --input_format'
    )
  if len(kinds) > 1:
    examples = ', '.join(f'{kind} ({uri})' for kind, uri in sorted(kinds.items()))
    raise app.UsageError(
      f'--input: names files of several formats: {examples}; score each separately, into its own '
      '--output'
    )
  return next(iter(kinds))
