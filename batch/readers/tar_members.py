"""The members of a tar archive, from its headers.

Headers are the 512-byte blocks of POSIX ustar, with GNU and pax long names and sparse files.
Python's tarfile stops at the first damage and spends 30 microseconds per member; this takes a
fifth, reports where the damage is, and continues with the next header. Archives may follow one
another.
"""

from collections.abc import Iterator
from typing import NamedTuple

from batch.readers import content, stream, tar_numbers, tar_sparse

BLOCK = tar_numbers.BLOCK
MAX_NAME_BYTES = 1 << 20  # of a long name or pax header, which are read whole
MAGIC, MAGIC_PLACE = b'ustar', 257
CUT_SHORT = 'the archive is cut short'
NO_END = 'the archive is cut short: it has no end marker'

# Kinds of members. Unknown types are files, as POSIX demands.
FILE, LINK, DAMAGE, IGNORED = 'file', 'link', 'damage', ''
SPECIAL, DAMAGED_NAME = 'special file', 'damaged header of a long name'
AFTER_END, DAMAGED_END = 'piece of data after the end of an archive', 'damaged end of an archive'
KINDS = {
  b'1': LINK,
  b'2': LINK,
  b'3': SPECIAL,
  b'4': SPECIAL,
  b'6': SPECIAL,
  b'5': IGNORED,  # a directory
  b'D': IGNORED,  # GNU: a directory's names
  b'V': IGNORED,  # GNU: a volume's name
  b'N': IGNORED,  # old GNU long names
  b'g': IGNORED,  # pax: for all members
}
HAS_NO_CONTENT = frozenset(b'123456V')
LONG_NAME, LONG_LINK, PAX, SPARSE, CONTINUED = b'L', b'K', (b'x', b'X'), b'S', b'M'
EXTENSIONS = frozenset((LONG_NAME, LONG_LINK, *PAX))


class Member(NamedTuple):
  """A member, whose content is next in the stream when it is yielded.

  Attributes:
    offset: where its header begins.
    kind: FILE, LINK or DAMAGE; any other is to be passed over.
    stored: the number of bytes of its content in the archive.
    note: why it is damaged; what a link points to.
    sparse: how a sparse file is put together.
    lead: the number of bytes before it that describe it.
  """

  offset: int
  kind: str
  name: str = ''
  stored: int = 0
  note: str = ''
  sparse: tar_sparse.Sparse | None = None
  lead: int = 0

  @property
  def size(self) -> int:
    """Returns the number of bytes that reading it takes."""
    return max(self.sparse.size, self.stored) if self.sparse else self.stored

  def read(self, source: stream.Stream) -> bytes | None:
    """Returns the content, or None if the archive ends before.

    Raises:
      ValueError: it is sparse, and the map of its parts is damaged.
    """
    stored = source.take(self.stored)
    if len(stored) < self.stored:
      return None
    return self.sparse.expand(stored) if self.sparse else stored


class _Extension:
  """What the headers before a member say about it."""

  def __init__(self, begin: int) -> None:
    self.begin = begin
    self.name = self.link = b''
    self.records: dict[bytes, list[bytes]] = {}

  def add(self, kind: bytes, value: bytes) -> bool:
    """Adds a header's content; returns whether it is whole."""
    is_whole = True
    if kind == LONG_NAME:
      self.name = value
    elif kind == LONG_LINK:
      self.link = value
    else:
      records, is_whole = tar_numbers.pax_records(value)
      self.records.update(records)
    return is_whole

  def last(self, *keys: bytes) -> bytes:
    """Returns the last value of the first key that has one, or b''."""
    return next((self.records[key][-1] for key in keys if key in self.records), b'')


NO_EXTENSION = _Extension(0)


def read_members(source: stream.Stream) -> Iterator[Member]:
  """Yields the members, and one of kind DAMAGE where something is unreadable."""
  beginning = b'' if source.offset else source.peek(content.BEGINNING_BYTES)
  if foreign := content.archive_kind(beginning):
    yield Member(0, DAMAGE, note=f'the file is {foreign}; unpack it, or pack its files as tar')
    return
  yield from _Reader(source).read()


class _Reader:
  """Reads an archive, header by header."""

  def __init__(self, source: stream.Stream):
    self._source = source
    self._extension = NO_EXTENSION
    self._zero_blocks = 0  # since the last header
    self._is_cut = False

  def read(self) -> Iterator[Member]:
    """Yields the members and the damage."""
    source = self._source
    while not self._is_cut and source.ensure(1):
      offset = source.offset
      header = source.take(BLOCK)
      if not header.strip(b'\0'):
        self._zero_blocks += 1
      elif not tar_numbers.is_header(header):
        source.position -= len(header)
        yield from self._find_next(offset)
      elif header[156:157] in EXTENSIONS:
        self._zero_blocks = 0
        yield from self._read_extension(header, offset)
      else:
        self._zero_blocks = 0
        yield from self._read_member(header, offset)
    if not self._is_cut and not self._zero_blocks:
      yield Member(source.offset, DAMAGE, note=source.broken or NO_END)
    elif not self._is_cut and source.broken:
      yield Member(source.offset, DAMAGED_END)

  def _find_next(self, offset: int) -> Iterator[Member]:
    """Moves to the next header or the end, and yields what the bytes from `offset` are."""
    yield _pass_over(self._source, self._zero_blocks, offset)
    self._extension, self._zero_blocks = NO_EXTENSION, int(self._source.at_end())

  def _read_extension(self, header: bytes, offset: int) -> Iterator[Member]:
    """Reads a header that describes the next member; yields it if it is damaged."""
    if self._extension is NO_EXTENSION:
      self._extension = _Extension(offset)
    note = _extend(self._source, header, self._extension)
    if note:
      kind = DAMAGE if note == CUT_SHORT else note
      yield Member(offset, kind, note=self._source.broken or note)
    self._is_cut = note == CUT_SHORT

  def _read_member(self, header: bytes, offset: int) -> Iterator[Member]:
    """Yields a member, unless it is ignored, and moves to its end."""
    source = self._source
    if self._extension is NO_EXTENSION and header[156:157] == b'0':
      size = tar_numbers.number(header[124:136])
      member = Member(offset, FILE, tar_numbers.name(header), size)
    else:
      member = _member(source, header, offset, self._extension)
      if self._extension is not NO_EXTENSION:
        member = member._replace(lead=offset - self._extension.begin)
      self._extension = NO_EXTENSION
    if source.lacks(member.stored):
      source.position -= 1
      self._zero_blocks = 0
      yield from self._find_next(offset)
      return
    end = source.offset + member.stored
    if member.kind != IGNORED:
      yield member
    if source.skip(end - source.offset):
      source.skip(-member.stored % BLOCK)
      return
    self._is_cut = True
    if member.kind != DAMAGE:
      yield Member(offset, DAMAGE, note=source.broken or CUT_SHORT)


def _extend(source: stream.Stream, header: bytes, extension: _Extension) -> str:
  """Reads the content of a header that describes the next member; returns what is wrong, or ''."""
  size = tar_numbers.number(header[124:136])
  padded = size + -size % BLOCK
  if not 0 <= size <= MAX_NAME_BYTES:
    return DAMAGED_NAME if source.skip(max(padded, 0)) else CUT_SHORT
  value = source.take(padded)
  if len(value) < padded:
    return CUT_SHORT
  return '' if extension.add(header[156:157], value[:size]) else DAMAGED_NAME


def _member(source: stream.Stream, header: bytes, offset: int, extension: _Extension) -> Member:
  """Returns the member of a header and of those that describe it."""
  kind, size = header[156:157], tar_numbers.number(header[124:136])
  path = extension.last(b'GNU.sparse.name', b'path') or extension.name
  name = tar_numbers.text(path) if path else tar_numbers.name(header)
  given = extension.last(b'size')
  if given.isdigit() and len(given) < 20:
    size = int(given)
  if kind[0] in HAS_NO_CONTENT:
    size = 0
  if kind == b'\0' and name.endswith('/'):  # a directory, before there was a type for them
    return Member(offset, IGNORED, name, size)
  if kind == CONTINUED:
    note = f'{name} begins in another volume; join the volumes of the archive'
    return Member(offset, DAMAGE, stored=size, note=note)
  try:
    sparse = (
      tar_sparse.from_gnu_header(header, source)
      if kind == SPARSE
      else tar_sparse.from_pax(extension.records)
    )
  except ValueError as error:
    return Member(offset, DAMAGE, stored=size, note=f'{name}: {error}')
  link = extension.last(b'linkpath') or extension.link or header[157:257]
  return Member(offset, KINDS.get(kind, FILE), name, size, tar_numbers.text(link), sparse)


def _pass_over(source: stream.Stream, zero_blocks: int, begin: int) -> Member:
  """Moves to the next header or the end, and returns what is wrong with the bytes from `begin`."""
  if _find_header(source):
    return Member(begin, DAMAGE, note=f'{source.offset - begin} bytes are no member of the archive')
  if zero_blocks > 1:
    return Member(begin, DAMAGED_END if source.broken else AFTER_END)
  return Member(begin, DAMAGE, note=source.broken or f'{CUT_SHORT} or damaged')


def _find_header(source: stream.Stream) -> bool:
  """Moves to the next header after this place, or to the end; returns whether there is one."""
  source.position += 1
  while source.ensure(BLOCK):
    place = source.buffer.find(MAGIC, source.position + MAGIC_PLACE)
    if place < 0:
      source.position = max(len(source.buffer) - MAGIC_PLACE - len(MAGIC) + 1, source.position + 1)
      continue
    source.position = place - MAGIC_PLACE
    if tar_numbers.is_header(source.peek(BLOCK)):
      return True
    source.position += 1
  source.position = len(source.buffer)
  return False
