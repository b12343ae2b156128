"""Text in parts: its lines, and the rows of tables, whose quoted fields may contain line breaks.

Text is UTF-8, or UTF-16, which is read as if it were UTF-8. Offsets are in bytes of UTF-8 after
decompression. A byte that is not UTF-8 stays what it is.
"""

import codecs
import collections
import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from absl import app

from batch.readers import stream

BLOCK_BYTES = 1 << 20
MAX_ROW_BYTES = 1 << 20  # of a line, and of a row of several lines
MAX_ROW_LINES = 1000
BOM = codecs.BOM_UTF8
QUOTE = ord('"')
TOO_LONG = f'the line has more than {MAX_ROW_BYTES} bytes'
UNCLOSED = 'a quote is opened and not closed'


class Encoding(NamedTuple):
  """How a text is stored.

  Attributes:
    name: utf-8, utf-16-le or utf-16-be.
    is_seekable: whether reading can begin in the middle.
    line_end: the last byte of a line, a line feed or, in old files of a Mac, a carriage return.
  """

  name: str
  is_seekable: bool
  line_end: bytes


class Row(NamedTuple):
  """A line, or the lines of one row of a table.

  Attributes:
    text: without the line feed at its end; '' if it cannot be read.
    end: offset of what follows.
    problem: why it cannot be read, or ''.
  """

  text: str
  end: int
  problem: str = ''


def find_encoding(uri: str) -> Encoding:
  """Returns how a text file is stored, from its beginning.

  Raises:
    app.UsageError: it is UTF-32, which nothing writes unasked.
  """
  head = stream.Stream(uri).take(BLOCK_BYTES)
  if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
    raise app.UsageError(f'{uri}: is UTF-32; save it as UTF-8')
  name = _name_encoding(head)
  text = codecs.getincrementaldecoder(name)('replace').decode(head)
  line_end = b'\r' if '\r' in text and '\n' not in text else b'\n'
  return Encoding(name, name == 'utf-8' and not stream.is_compressed(uri), line_end)


def _name_encoding(head: bytes) -> str:
  """Returns the encoding that a byte order mark, or the place of the first zero byte, tells."""
  if head.startswith(codecs.BOM_UTF16_LE) or head[1:2] == b'\0' != head[:1]:
    return 'utf-16-le'
  if head.startswith(codecs.BOM_UTF16_BE) or head[:1] == b'\0' != head[1:2]:
    return 'utf-16-be'
  return 'utf-8'


def blocks(uri: str, encoding: Encoding, start: int = 0, stop: int = -1) -> Iterator[bytes | str]:
  """Yields the text from `start` to `stop`; at the end, a str if it ends too early: the reason."""
  if encoding.is_seekable:
    source = stream.Stream(uri, start, stop)
    skipped, left = 0, stop - start if stop >= 0 else 1 << 62
  else:
    source, skipped, left = stream.Stream(uri), start, stop - start if stop >= 0 else 1 << 62
  decoder = codecs.getincrementaldecoder(encoding.name)('replace')
  while left and (block := source.take(BLOCK_BYTES)):
    if encoding.name != 'utf-8':
      block = decoder.decode(block).encode()
    drop = min(skipped, len(block))
    skipped -= drop
    block = block[drop : drop + left]
    left -= len(block)
    yield block
  if left and source.broken:
    yield source.broken


def lines(parts: Iterable[bytes | str], line_end: bytes, offset: int) -> Iterator[Row]:
  """Yields lines; one that is too long, and the end of damaged text, with a problem.

  Args:
    parts: the text, as `blocks` yields it.
    line_end: the last byte of a line.
    offset: of the first part.
  """
  begun, dropped = b'', 0  # the line that has begun, and how many of its bytes were let go
  for part in parts:
    if isinstance(part, str):
      # One byte further, so that it lies within the part of the text that ends here.
      yield Row('', offset + dropped + len(begun) + 1, part)
      return
    *whole, begun = (begun + part).split(line_end)
    for line in whole:
      offset += dropped + len(line) + 1
      yield _line(line, offset, dropped)
      dropped = 0
    if len(begun) > MAX_ROW_BYTES:
      dropped, begun = dropped + len(begun), b''
  if begun or dropped:
    yield _line(begun, offset + dropped + len(begun), dropped)


def _line(line: bytes, end: int, dropped: int) -> Row:
  if dropped or len(line) > MAX_ROW_BYTES:
    return Row('', end, TOO_LONG)
  return Row(line.decode('utf-8', 'surrogateescape'), end)


def table_rows(found: Iterable[Row], delimiter: str) -> Iterator[Row]:
  """Yields the rows of a table, joining the lines of those with line breaks within quotes.

  A quote that is not closed affects only the line that it is in.
  """
  pending, source = collections.deque[Row](), iter(found)
  while True:
    first = pending.popleft() if pending else next(source, None)
    if first is None:
      return
    state = _State(delimiter)
    if first.problem or '"' not in first.text or not state.add(first.text):
      yield first
      continue
    row = [first]
    while state.is_open and len(row) < MAX_ROW_LINES and state.length < MAX_ROW_BYTES:
      following = pending.popleft() if pending else next(source, None)
      if following is None:
        break
      row.append(following)
      if following.problem or not state.add(following.text):
        break
    if state.is_complete:
      yield Row('\n'.join(line.text for line in row), row[-1].end)
    else:
      yield Row('', first.end, UNCLOSED)
      pending.extendleft(reversed(row[1:]))


class _State:
  """Whether the row that some lines make up ends within quotes."""

  def __init__(self, delimiter: str):
    self._delimiter = delimiter
    self.is_open, self.is_malformed, self.length = False, False, 0

  @property
  def is_complete(self) -> bool:
    """Returns whether all quotes are closed."""
    return not self.is_open and not self.is_malformed

  def add(self, line: str) -> bool:
    """Adds a line; returns whether the row goes on in the next one."""
    self.length += len(line) + 1
    line = line.removesuffix('\r')
    place = 0
    while place < len(line) or self.is_open:
      if not self.is_open:
        if line[place] != '"':
          place = line.find(self._delimiter, place) + 1 or len(line)
          continue
        self.is_open, place = True, place + 1
      quote = line.find('"', place)
      if quote < 0:
        return True
      place = quote + 1
      if line[place : place + 1] == '"':
        place += 1
        continue
      self.is_open = False
      if line[place : place + 1] not in ('', self._delimiter):
        self.is_malformed = True
        return False
      place += 1
    return False


def fields(row: str, delimiter: str) -> list[str]:
  """Returns the fields of a row, or all of it if `delimiter` is ''.

  Raises:
    csv.Error: it cannot be read.
  """
  row = row.removesuffix('\r')
  if not delimiter:
    return [row]
  if '"' not in row:
    return row.split(delimiter)
  csv.field_size_limit(2 * MAX_ROW_BYTES)
  return next(csv.reader([row], delimiter=delimiter), [])
