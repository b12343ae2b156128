"""Which files --input names, and which format they are of.

A file that is named by its own name is read. Of a directory, or of what a pattern matches, the
files of one format are read, and all others are passed over and counted.
"""

import collections
import functools
import importlib
import itertools
import logging
import operator
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from absl import app

from batch import names
from batch.readers import READERS, base, image_files, sniff
from storage import files, spool
from storage.spool import Spool

AUTO = 'auto'
TFDS_METADATA = 'dataset_info.json'
RESULT = "file of the scorer's results"
CHUNK_COUNTS = re.compile(
  r'(.*)/(counts/part-\d{5,}-(\d{6,}|of-\d{5,})\.json|chunks/\d{5,}/\d{6,}-[^/]*\.arrow)'
)

LOG_SECONDS = 10.0  # between lines about a long listing

logger = logging.getLogger(__name__)

Counts = collections.Counter[str]
Groups = dict[str, Spool[files.File]]  # files by format; '' if the name implies none


class Found(NamedTuple):
  """The files to read, sorted, their format, and what was passed over, by kind."""

  files: Collection[files.File]
  format: str
  passed_over: Counts


def find(patterns: Sequence[str], input_format: str, output: str) -> Found:
  """Returns the files that the patterns name.

  Raises:
    app.UsageError: a pattern names nothing that can be read, or the files are of several formats.
    OSError: a directory cannot be read.
  """
  passed_over = Counts()
  found = [_find_one(pattern, input_format, output, passed_over) for pattern in patterns]
  examples = {kind: next(iter(groups[kind])).uri for groups in reversed(found) for kind in groups}
  if len(examples) > 1:
    raise app.UsageError(_several_formats(examples))
  (kind,) = examples
  first, *others = (groups[kind] for groups in found)
  if not others:
    return Found(first, kind, passed_over)
  return Found(spool.in_order(_once(itertools.chain(first, *others))), kind, passed_over)


def _once(found: Iterable[files.File]) -> Iterator[files.File]:
  """Yields each file once, by the first of its names: several patterns may name the same."""
  real = functools.lru_cache(os.path.realpath)

  def place(uri: str) -> str:
    home, name = os.path.split(uri)
    return f'{real(home)}/{name}' if files.is_local(uri) else uri

  placed = ((place(file.uri), number, file) for number, file in enumerate(found))
  for _, same in itertools.groupby(spool.ordered(placed), key=operator.itemgetter(0)):
    yield next(same)[2]


def _find_one(pattern: str, input_format: str, output: str, passed_over: Counts) -> Groups:
  """Returns the files of one pattern by their format, sorted."""
  matched = spool.in_order(_logged(pattern, files.iter_match(pattern, passed_over)))
  first = next(iter(matched), None)
  if first and first.uri == pattern and len(matched) == 1:
    return {_format_of(first, input_format): matched}
  is_pattern = bool(matched)
  counts = Counts()
  found = matched or spool.in_order(_logged(pattern, files.iter_files(pattern, counts)))
  found = found or _below(pattern, passed_over, counts)
  passed_over.update(counts)
  inside = _without_results(pattern, found, output, passed_over)
  if not inside:
    raise app.UsageError(
      f'--input={pattern}: matches no file{_but(passed_over)}; pass a file, a directory, or a '
      "pattern such as 'pictures/**/*.png', in quotes"
    )
  chosen = _choose(_group(inside), input_format, is_pattern)
  if sum(map(len, chosen.values())) < len(inside):
    used = itertools.chain.from_iterable(chosen.values())
    passed_over.update(_kinds(inside) - _kinds(used))
  if not chosen:
    also = '' if input_format != AUTO else ', and their format with --input_format'
    raise app.UsageError(
      f'--input={pattern}: no file there has a recognized extension or holds an image'
      f'{_but(passed_over)}; name the files with a pattern{also}'
    )
  return chosen


def _kinds(found: Iterable[files.File]) -> Counts:
  return Counts(sniff.kind_of(file.uri) for file in found)


def _logged(pattern: str, found: Iterable[files.File]) -> Iterator[files.File]:
  """Yields the files, and logs how many there are from time to time."""
  logged = time.monotonic()
  for number, file in enumerate(found, 1):
    if number % 1000 == 0 and time.monotonic() - logged > LOG_SECONDS:
      logged = time.monotonic()
      logger.info('%s: %s files found so far', names.exact(pattern), f'{number:,}')
    yield file


def _below(pattern: str, passed_over: Counts, counts: Counts) -> Spool[files.File]:
  """Returns the files below the directories that a pattern matches, if it matches nothing else."""
  if not set(pattern) & set('*?['):
    return Spool()
  passed_over.pop('directory', None)
  return spool.in_order(files.iter_match(files.join(pattern, '**'), counts))


def _but(passed_over: Counts) -> str:
  kinds = ', '.join(f'{kind}: {count}' for kind, count in sorted(passed_over.items()))
  return f' (passed over: {kinds})' if kinds else ''


def _format_of(file: files.File, input_format: str) -> str:
  """Returns the format of a file that was named."""
  if input_format != AUTO:
    return input_format
  kind = guess_format(file.uri) or ('image' if image_files.holds_image(file.uri) else '')
  if not kind:
    raise app.UsageError(
      f'--input: the name {file.uri} does not imply a format; pass --input_format'
    )
  return kind


@functools.cache
def reader(input_format: str) -> base.Reader:
  """Returns the module that plans and reads a format."""
  return cast(base.Reader, importlib.import_module(READERS[input_format]))


def guess_format(uri: str) -> str:
  """Returns the format that a file's name implies, or ''."""
  name = uri.lower()
  return next((kind for kind in READERS if re.search(reader(kind).FILE_NAME, name)), '')


def _group(found: Iterable[files.File]) -> Groups:
  groups: Groups = collections.defaultdict(Spool)
  for file in found:
    groups[guess_format(file.uri)].append(file)
  return groups


def _choose(groups: Groups, input_format: str, is_pattern: bool) -> Groups:
  """Returns the files that are meant, by format: of more than one only if it is unclear which."""
  unknown = groups.pop('', Spool[files.File]())
  if input_format != AUTO and (input_format != 'image' or is_pattern):
    # What a pattern names is of the format that the user says, unless its name says another.
    some = groups.get(input_format, Spool())
    if is_pattern and unknown:
      some = spool.in_order(itertools.chain(some, unknown))
    return {input_format: some} if some else {}
  if any(os.path.basename(file.uri) == TFDS_METADATA for file in unknown):
    groups, unknown = {kind: groups[kind] for kind in groups if kind == 'tfrecord'}, Spool()
  _add_images(groups, unknown)
  if input_format != AUTO:
    groups = {kind: groups[kind] for kind in groups if kind == input_format}
  if len(groups) > 1:
    groups.pop('manifest', None)  # README.txt or labels.csv, beside what they describe
  return groups


def _add_images(groups: Groups, unknown: Iterable[files.File]) -> None:
  """Adds those of unknown format that hold an image, to become rejects also those unreadable."""
  images, unclear = image_files.holding_images(
    file for file in unknown if sniff.may_be_image(file.uri)
  )
  if images or ('image' in groups and unclear):
    groups['image'] = spool.in_order(itertools.chain(groups.get('image', ()), images, unclear))


def _without_results(
  pattern: str, found: Spool[files.File], output: str, passed_over: Counts
) -> Spool[files.File]:
  """Returns the files that no run of the scorer has written there.

  Raises:
    app.UsageError: all of them are in --output.
  """
  homes = {os.path.dirname(file.uri) for file in found if file.uri.endswith('/settings.json')}
  if homes:
    homes &= {match[1] for file in found if (match := CHUNK_COUNTS.fullmatch(file.uri))}
  exists = not files.is_local(output) or os.path.isdir(output)
  here = Spool(file for file in found if not _is_in(file.uri, output)) if exists else found
  if found and not here:
    raise app.UsageError(
      f'--output={output}: contains the input {pattern}; pass a directory that has nothing else '
      'in it'
    )
  starts = tuple(f'{home}/' for home in homes)
  kept = Spool(file for file in here if not file.uri.startswith(starts)) if homes else here
  passed_over.update({RESULT: len(found) - len(kept)} if len(kept) < len(found) else {})
  return kept


def _is_in(uri: str, directory: str) -> bool:
  if not files.is_local(uri) or not files.is_local(directory):
    return uri.startswith(files.join(directory, ''))
  home = _real(os.path.dirname(uri))
  return f'{home}/'.startswith(files.join(_real(directory), ''))


_real = functools.lru_cache(os.path.realpath)


def _several_formats(examples: Mapping[str, str]) -> str:
  named = ', '.join(f'{kind} ({examples[kind]})' for kind in sorted(examples))
  flags = ' or '.join(f'--input_format={kind}' for kind in sorted(examples))
  return (
    f'--input: names files of several formats: {named}; pass {flags} to read those and pass '
    'over the others, or score each separately, into its own --output'
  )
