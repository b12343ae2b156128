"""What --input names: which files, of which format, in which shards; and the images of a shard."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence

from absl import app

from batch import chunk, flags, listing, names, ranges
from batch.listing import reader
from storage import files
from storage.spool import Spool

SHARDS_IN_MEMORY = 16  # each may have thousands of names
UNSPLIT = ('image', 'manifest')  # an image that is not there is its reader's, a manifest an error
LEADS_NOWHERE = 'the link leads nowhere; get the file that it stands for, or remove it'


@dataclasses.dataclass(frozen=True)
class Plan:
  """The shards of the input and what the summary reports about them.

  Attributes:
    shards: in the order of their numbers.
    ranges: those of them that are ranges.
    images: the number of images, or None if only reading tells.
    fingerprint: equal for two plans only if they name the same files of the same sizes.
    passed_over: what planning left out, by kind.
  """

  shards: Collection[chunk.Shard]
  ranges: Sequence[chunk.Shard]
  format: str
  images: int | None
  bytes: int
  fingerprint: str
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)

  def ranges_of(self, left: Sequence[int]) -> list[chunk.Shard]:
    """Returns all ranges of the files of which some are among the shards with these numbers."""
    numbers = set(left)
    cut = {shard.uri for shard in self.ranges if shard.number in numbers}
    return [shard for shard in self.ranges if shard.uri in cut]


def plan(patterns: Sequence[str], input_format: str, settings: flags.Settings) -> Plan:
  """Returns the shards that the patterns name.

  Raises:
    app.UsageError: a pattern matches nothing, the files are of several formats, or are not of the
      format that is given.
  """
  matched, kind, passed_over = listing.find(patterns, input_format, settings.output)
  _check_settings(kind, settings)
  there, gone = (matched, []) if kind in UNSPLIT else _split_links(matched)
  parts, images, passed_over_inside = reader(kind).plan(there, settings)
  shards, cut = Spool[chunk.Shard](block=SHARDS_IN_MEMORY), []
  for part in parts:
    shard = dataclasses.replace(part, number=len(shards))
    shards.append(shard)
    cut += [shard] if shard.is_range else []
  for file in gone if shards else ():
    readable = next(iter(shards)).uri
    shards.append(
      chunk.Shard(len(shards), kind, file.uri, 0, 0, uris=(readable,), broken=LEADS_NOWHERE)
    )
  if not shards:
    raise app.UsageError(
      f'--input={", ".join(patterns)}: contains no images; pass files that contain some'
    )
  passed_over.update(passed_over_inside)
  num_bytes = sum(file.size for file in matched)
  images = None if images is None else images + len(gone)
  return Plan(shards, cut, kind, images, num_bytes, _fingerprint(matched), dict(passed_over))


def _split_links(
  matched: Collection[files.File],
) -> tuple[Collection[files.File], Sequence[files.File]]:
  """Returns the files that are there, and the links that lead nowhere.

  Raises:
    app.UsageError: none is there.
  """
  gone = [file for file in matched if not file.size and not files.exists(file.uri)]
  if not gone:
    return matched, gone
  names_gone = {file.uri for file in gone}
  there = Spool(file for file in matched if file.uri not in names_gone)
  if not there:
    raise app.UsageError(f'--input: {gone[0].uri}: {LEADS_NOWHERE}')
  return there, gone


def _fingerprint(matched: Iterable[files.File]) -> str:
  digest = hashlib.sha256()
  for file in matched:
    digest.update(repr(tuple(file)).encode())
  return digest.hexdigest()[:16]


def survey(shard: chunk.Shard, settings: flags.Settings) -> list[ranges.Survey]:
  """Returns what a worker finds in a range of a file; of some formats, in all ranges at once."""
  return list(reader(shard.format).survey(shard, settings))


def join(surveys: Iterable[ranges.Survey], settings: flags.Settings) -> ranges.Places:
  """Returns what is in all ranges."""

  def again(shard: chunk.Shard, begin: int) -> ranges.Survey:
    (found,) = reader(shard.format).survey(shard, settings, begin)
    return found

  return ranges.join(surveys, again)


def read(shard: chunk.Shard, skip: int, settings: flags.Settings) -> Iterator[chunk.ReadImages]:
  """Returns the images of a shard after its first `skip`, rejects counted, in chunks.

  Raises:
    ValueError: the shard is a range, of which nothing is known yet.
  """
  if shard.is_range:
    raise ValueError(f'{shard}: use ranges.place or ranges.whole first')
  if shard.broken and not settings.carry:  # or else its reader knows the columns
    reject = chunk.Reject(shard.uri, 'read', shard.broken)
    return map(_with_exact_ids, [] if skip else [chunk.ReadImages(encoded=[], rejects=[reject])])
  return map(_with_exact_ids, reader(shard.format).read(shard, skip, settings))


def _with_exact_ids(images: chunk.ReadImages) -> chunk.ReadImages:
  """Returns the images with all ids, and the rejects' reasons, as valid UTF-8."""
  if _is_utf8(images.ids) and all(_is_utf8(dataclasses.astuple(each)) for each in images.rejects):
    return images
  return dataclasses.replace(
    images,
    ids=[names.exact(name) for name in images.ids],
    rejects=[
      chunk.Reject(
        names.exact(each.id), each.stage, each.reason.encode('utf-8', 'replace').decode()
      )
      for each in images.rejects
    ],
  )


def _is_utf8(texts: Sequence[str]) -> bool:
  try:
    ''.join(texts).encode()
  except UnicodeEncodeError:
    return False
  return True


def _check_settings(kind: str, settings: flags.Settings) -> None:
  """Raises UsageError if a flag does not apply to the format."""
  if settings.label_from == 'directory' and kind != 'image':
    raise app.UsageError(
      f'--label_from=directory: applies to image files, and the input is {kind}; leave it out'
    )
  if settings.carry and kind not in ('parquet', 'manifest'):
    raise app.UsageError(
      f'--carry={",".join(settings.carry)}: applies to Parquet and CSV, and the input is {kind}; '
      'leave it out'
    )
  if settings.root and kind != 'manifest':
    raise app.UsageError(
      f'--root={settings.root}: applies to manifests, and the input is {kind}; leave it out'
    )
