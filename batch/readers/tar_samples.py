"""Samples of tar archives in WebDataset's convention, as images, rejects and what is neither.

Consecutive members with the same path up to the first dot of the name are one sample. All its
pictures are images, with the sample's label.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from batch import chunk, flags
from batch.readers import sniff, stream, tar_names
from batch.readers.tar_members import DAMAGE, FILE, LINK, Member, read_members

MAX_MEMBER_BYTES = 256 << 20  # a larger member is rejected before it fills a worker's memory
MAX_TEXT_BYTES = 1000  # of an id or a label
MAX_PART_IMAGES = 1000  # of a sample: a larger one is passed on in parts, so that memory is bounded
LABEL_SUFFIX = 'cls'
IS_PICTURE_NAME = re.compile(rf'(.*\.)?({sniff.EXTENSIONS})').fullmatch  # of suffixes
HIDDEN, RESOURCE_FORK = 'hidden file', 'resource fork'
OTHER_PICTURE = 'picture outside the image column'
LATE_LABEL = 'label apart from its image'


class Picture(NamedTuple):
  """A picture of a sample: its whole name, its place, and its content or why it has none."""

  name: str
  offset: int
  content: bytes
  problem: str = ''


class Image(NamedTuple):
  """An image that was read."""

  id: str
  content: bytes
  label: bytes | None


# What an archive consists of: images, rejects, and the kinds of what is passed over.
Item = Image | chunk.Reject | str


@dataclasses.dataclass
class Sample:
  """The members of one key, or a part of them if they are many.

  Attributes:
    key: their path up to the first dot of the name.
    begin: where the first of them begins.
    follows_damage: whether members may be missing.
    is_continued: whether this is not the first part.
    num_bytes: the size of the pictures.
  """

  key: str
  begin: int
  follows_damage: bool
  is_continued: bool = False
  pictures: list[Picture] = dataclasses.field(default_factory=list)
  label: bytes | None = None
  id: bytes | None = None
  num_bytes: int = 0

  def add(self, picture: Picture) -> None:
    """Adds a picture."""
    self.pictures.append(picture)
    self.num_bytes += len(picture.content)

  def is_full(self) -> bool:
    """Returns whether it has to be passed on."""
    return len(self.pictures) >= MAX_PART_IMAGES or self.num_bytes >= stream.CHUNK_BYTES

  def rest(self) -> 'Sample':
    """Returns the next part, without pictures so far."""
    return dataclasses.replace(self, is_continued=True, pictures=[], num_bytes=0)


class Archive:
  """Reads the samples of an archive, or of a range that begins and ends where samples do."""

  def __init__(
    self, shard: chunk.Shard, settings: flags.Settings, known: tar_names.Names, skims: bool = False
  ):
    """Prepares to read.

    Args:
      shard: the archive, and the range.
      settings: the scorer's.
      known: the names that occurred before.
      skims: whether pictures are as many zeros, if that saves reading them.
    """
    self._uri, self._stop, self._skims = shard.uri, shard.stop, skims
    self._source = stream.Stream(shard.uri, shard.start, skims=skims)
    self._image_suffix = column_suffix(settings.image_column)
    self._id_suffix = column_suffix(settings.id_column)
    self._label_suffix = column_suffix(settings.label_column) or LABEL_SUFFIX
    self._names = known  # keys, and names that are ids

  def items(self) -> Iterator[Item]:
    """Yields the images, rejects and kinds of other members, in the archive's order."""
    for found in self.samples():
      if isinstance(found, Sample):
        yield from self.finish(found)
      else:
        yield found

  def samples(self) -> Iterator[Sample | chunk.Reject | str]:
    """Yields the samples, and damage and kinds of other members, in the archive's order."""
    sample: Sample | None = None
    follows_damage = False
    for member in read_members(self._source):
      begin = member.offset - member.lead
      if begin >= self._stop >= 0:
        break
      if member.kind == DAMAGE:
        if sample:
          yield sample
        sample, follows_damage = None, True
        yield chunk.Reject(f'{self._uri}@{member.offset}', 'read', member.note)
        continue
      kind = hidden_kind(member.name) if member.kind in (FILE, LINK) else member.kind
      if kind:
        yield kind
        continue
      key, suffix = split(member.name)
      if sample and (sample.key != key or sample.is_full()):
        yield sample
        sample = sample.rest() if sample.key == key else None
      sample = sample or Sample(key, begin, follows_damage)
      follows_damage = False
      kind = self._add(sample, member, suffix)
      if kind:
        yield kind
    if sample:
      yield sample

  def _add(self, sample: Sample, member: Member, suffix: str) -> str:
    """Adds a member to its sample, or returns what kind it is if it is of no use there."""
    is_file = member.kind == FILE
    if is_file and suffix == self._label_suffix:
      is_late = sample.is_continued and sample.label is None  # for the parts before
      sample.label = self._source.peek(min(member.stored, MAX_TEXT_BYTES))
      return LATE_LABEL if is_late else ''
    if is_file and suffix == self._id_suffix:
      sample.id = self._source.peek(min(member.stored, MAX_TEXT_BYTES))
      return ''
    is_picture = IS_PICTURE_NAME(suffix) or (is_file and self._is_picture(member))
    if suffix == self._image_suffix or (is_picture and self._image_suffix is None):
      picture = self._picture(member)
      if picture:
        sample.add(picture)
      return ''
    if is_picture:
      return OTHER_PICTURE
    if not is_file:
      return 'link'
    return sniff.kind_of(member.name)

  def _is_picture(self, member: Member) -> bool:
    """Returns whether a member, whose name does not tell, begins as an image does."""
    return sniff.may_be_image(member.name) and sniff.is_image(
      self._source.peek(min(member.stored, sniff.HEAD_BYTES))
    )

  def _picture(self, member: Member) -> Picture | None:
    """Returns a picture, or None if the archive is cut short in it."""
    place = (member.name, member.offset)
    if member.kind == LINK:
      problem = (
        f'the archive has only a link to {member.note}, not the picture; pack it again with tar '
        '--dereference --hard-dereference'
      )
      return Picture(*place, b'', problem)
    if member.size > MAX_MEMBER_BYTES:
      return Picture(
        *place, b'', f'{member.size} bytes are more than the {MAX_MEMBER_BYTES} that are read'
      )
    try:
      whole = self._content(member)
    except ValueError as error:
      return Picture(*place, b'', str(error))
    return None if whole is None else Picture(*place, whole)

  def _content(self, member: Member) -> bytes | None:
    is_skimmed = self._skims and member.sparse is None
    return bytes(member.stored) if is_skimmed else member.read(self._source)

  def finish(self, sample: Sample) -> Iterator[Item]:
    """Yields the images of a sample."""
    if not sample.pictures:
      if sample.label is not None and not sample.is_continued:
        yield self._without_image(sample)
      return
    for picture in sample.pictures:
      name = self._name(sample, picture)
      if picture.problem:
        yield chunk.Reject(name, 'read', picture.problem)
      else:
        yield Image(name, picture.content, sample.label)
    self._names.add(sample.key)

  def _without_image(self, sample: Sample) -> Item:
    """Returns what becomes of a label on its own: its image is missing, unless it is elsewhere."""
    if sample.follows_damage or self._names.has(sample.key):
      return LATE_LABEL
    reason = f'the sample has no image, only .{self._label_suffix}'
    return chunk.Reject(f'{self._uri}#{sample.key}', 'read', reason)

  def _name(self, sample: Sample, picture: Picture) -> str:
    """Returns a picture's id, which no other of the archive has."""
    is_only = len(sample.pictures) == 1 and not sample.is_continued
    given = (sample.id or b'').decode('utf-8', 'backslashreplace').strip()
    if given:
      return given if is_only else f'{given}#{split(picture.name)[1]}'
    name = sample.key if is_only else picture.name
    if name and self._names.add(name):
      return f'{self._uri}#{name}'
    return f'{self._uri}#{name}@{picture.offset}'


def column_suffix(column: str) -> str | None:
  """Returns the suffix that a flag names, or None if it is not given."""
  return column.lower().removeprefix('.') or None


def split(name: str) -> tuple[str, str]:
  """Returns a member's key and its lower-case suffix, after the first dot of the name."""
  directory, slash, base = name.rpartition('/')
  stem, _, suffix = base.partition('.')
  return directory + slash + stem, suffix.lower()


def hidden_kind(name: str) -> str:
  """Returns what kind of hidden file a name says, or ''."""
  if '.' not in name[:1] and '/.' not in name and '__MACOSX' not in name:
    return ''
  parts = [part for part in name.split('/') if part not in ('.', '..')]
  if '__MACOSX' in parts or (parts[-1:] and parts[-1].startswith('._')):
    return RESOURCE_FORK
  return HIDDEN if any(part.startswith('.') for part in parts) else ''
