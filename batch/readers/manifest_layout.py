"""Which columns of a manifest are what: by the flags, by its header, or by its first row."""

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

from absl import app

from batch import chunk, flags
from batch.readers import sniff, stream, text

URI_COLUMNS = (
  'uri',
  'path',
  'file',
  'image',
  'filename',
  'file_name',
  'filepath',
  'file_path',
  'image_path',
  'image_file',
)
LABEL_COLUMNS = ('label', 'class')
ID_COLUMNS = ('id',)
DELIMITERS = ',;\t|'
SAMPLE_ROWS = 20
EXCEL_HINT = re.compile(r'sep=(.)')  # Excel's own first line
TABLE_NAME = re.compile(r'\.(csv|tsv)' + stream.SUFFIX + '$')
NUMBER = re.compile(r'[+-]?\d*[.,]?\d+')


class Layout(NamedTuple):
  """How to read a manifest.

  Attributes:
    encoding: how its text is stored.
    begin: offset of the first line that names an image.
    delimiter: of its columns, '' if a line is a name.
    width: its number of columns.
    uri, id, label: the columns' places, -1 for one that it does not have.
    carry: places of the columns to carry.
  """

  encoding: text.Encoding
  begin: int = 0
  delimiter: str = ''
  width: int = 1
  uri: int = 0
  id: int = -1
  label: int = -1
  carry: tuple[int, ...] = ()


def read_layout(uri: str, settings: flags.Settings) -> Layout:
  """Returns how to read a manifest.

  Raises:
    app.UsageError: it has no column that a flag names, or none that is known to name images.
  """
  encoding = text.find_encoding(uri)
  found = text.lines(text.blocks(uri, encoding), encoding.line_end, 0)
  sample = [row for row, _ in zip(found, range(SAMPLE_ROWS))]
  if not sample:
    return Layout(encoding)
  begin = len(text.BOM) if sample[0].text.startswith('\ufeff') else 0
  sample[0] = sample[0]._replace(text=sample[0].text.removeprefix('\ufeff'))
  is_table = TABLE_NAME.search(uri.lower()) or _asked(settings)
  if not is_table:
    return Layout(encoding, begin)
  hint = EXCEL_HINT.fullmatch(sample[0].text.strip())
  if hint:
    begin = sample.pop(0).end
  delimiter = hint[1] if hint else _find_delimiter(uri, sample, settings)
  rows = [row for row in text.table_rows(sample, delimiter) if not is_blank(row, delimiter)]
  if not rows:
    return Layout(encoding, begin, delimiter)
  return _of_table(uri, Layout(encoding, begin, delimiter), rows, settings)


def is_blank(row: text.Row, delimiter: str) -> bool:
  """Returns whether a row has nothing in it."""
  return not row.problem and not row.text.strip(f' \t\r\n\0\x1a{delimiter}')


def _asked(settings: flags.Settings) -> dict[str, str]:
  """Returns the columns that flags name, by flag."""
  names = {
    'image_column': settings.image_column,
    'id_column': settings.id_column,
    'label_column': settings.label_column,
  }
  return {flag: name for flag, name in names.items() if name} | {
    f'carry={name}': name for name in settings.carry if name != 'id'
  }


def _find_delimiter(uri: str, sample: Sequence[text.Row], settings: flags.Settings) -> str:
  """Returns the delimiter with which the first row has known names, or else the most columns."""
  if uri.lower().removesuffix('.gz').endswith('.tsv'):
    return '\t'
  known = {*URI_COLUMNS, *LABEL_COLUMNS, *ID_COLUMNS, *_asked(settings).values()}
  scores = []
  for delimiter in DELIMITERS:
    widths = [len(_fields(row, delimiter)) for row in text.table_rows(sample, delimiter)]
    names = {_normal(name) for name in _fields(sample[0], delimiter)}
    is_even = widths[0] > 1 and widths.count(widths[0]) * 2 > len(widths)
    scores.append((len(names & known), is_even, widths[0]))
  return DELIMITERS[scores.index(max(scores))]


def _fields(row: text.Row, delimiter: str) -> list[str]:
  try:
    return text.fields(row.text, delimiter)
  except csv.Error:
    return []


def _normal(name: str) -> str:
  return name.strip().lower()


def _of_table(
  uri: str, layout: Layout, rows: Sequence[text.Row], settings: flags.Settings
) -> Layout:
  """Returns the layout of a table of which `rows` are the first."""
  first, delimiter = rows[0], layout.delimiter
  header = [name.strip() for name in _fields(first, delimiter)]
  if _is_header(header, settings):
    return _named(uri, layout._replace(begin=first.end), header, settings)
  numbers = [str(number) for number in range(1, len(header) + 1)]
  return _numbered(uri, layout, header, numbers, settings)


def _is_header(row: Sequence[str], settings: flags.Settings) -> bool:
  """Returns whether a row consists of names of columns rather than of values."""
  asked = {name for name in _asked(settings).values() if not name.isdecimal()}
  if asked & set(row) or set(URI_COLUMNS) & {_normal(name) for name in row}:
    return True
  is_value = any(_is_path(field) or NUMBER.fullmatch(field) for field in row)
  return (
    not is_value and '' not in row and len(set(row)) == len(row) and (len(row) > 1 or bool(asked))
  )


def _is_path(field: str) -> bool:
  """Returns whether a field looks like the name of a file."""
  is_below = re.search(r'[/\\]', field) and re.search(r'[^\W\d]', field)
  return bool(is_below) or bool(re.search(sniff.FILE_NAME, field.strip().lower()))


def _named(uri: str, layout: Layout, header: list[str], settings: flags.Settings) -> Layout:
  """Returns the layout of a table with a header."""
  columns = ', '.join(header)
  _check_carried(uri, header, settings)
  places = {flag: _place(header, name) for flag, name in _asked(settings).items()}
  for flag, place in places.items():
    if place < 0:
      name = _asked(settings)[flag]
      raise app.UsageError(
        f'--{flag.partition("=")[0]}={name}: {uri} has no such column, only {columns}; pass one of '
        'these'
      )
  image = places.get('image_column', _known(header, URI_COLUMNS))
  if image < 0:
    raise app.UsageError(
      f'{uri}: none of its columns is known to name images: {columns}; name the one that does with '
      '--image_column'
    )
  return layout._replace(
    width=len(header),
    uri=image,
    id=places.get('id_column', _known(header, ID_COLUMNS)),
    label=places.get('label_column', _known(header, LABEL_COLUMNS)),
    carry=tuple(place for flag, place in places.items() if flag.startswith('carry=')),
  )


def _check_carried(uri: str, header: Sequence[str], settings: flags.Settings) -> None:
  """Raises UsageError if a column cannot be carried beside the predictions'."""
  has_id = (settings.id_column or 'id') == 'id' and 'id' in header
  for name in settings.carry:
    if name in chunk.PREDICTION_COLUMNS and not (name == 'id' and has_id):
      raise app.UsageError(
        f'--carry={name}: predictions have a column of that name; rename it in {uri}'
      )


def _known(header: Sequence[str], names: Sequence[str]) -> int:
  """Returns the place of the first of the names that the header has, or -1."""
  normal = [_normal(name) for name in header]
  return next((normal.index(name) for name in names if name in normal), -1)


def _place(header: Sequence[str], name: str) -> int:
  """Returns the place of a column that is called so, in this spelling or another; else -1."""
  return header.index(name) if name in header else _known(header, [_normal(name)])


def _numbered(
  uri: str, layout: Layout, row: Sequence[str], numbers: list[str], settings: flags.Settings
) -> Layout:
  """Returns the layout of a table without a header, whose columns are numbered from 1."""
  asked = _asked(settings)
  shown = ', '.join(f'{number} ({field[:40]})' for number, field in zip(numbers, row))
  for flag, name in asked.items():
    if name not in numbers:
      raise app.UsageError(
        f'--{flag.partition("=")[0]}={name}: {uri} has no header; name a column by its number: '
        f'{shown}'
      )
  paths = [place for place, field in enumerate(row) if _is_path(field)]
  if 'image_column' not in asked and (len(row) > 2 or (len(paths) != 1 and len(row) > 1)):
    raise app.UsageError(
      f'{uri}: has no header; name its columns by their numbers: --image_column and, if it has '
      f'them, --label_column and --id_column, of {shown}'
    )
  image = int(asked['image_column']) - 1 if 'image_column' in asked else (paths or [0])[0]
  other = 1 - image if len(row) == 2 and not asked else -1
  return layout._replace(
    width=len(row),
    uri=image,
    id=int(asked.get('id_column', 0)) - 1,
    label=int(asked['label_column']) - 1 if 'label_column' in asked else other,
    carry=tuple(int(asked[flag]) - 1 for flag in asked if flag.startswith('carry=')),
  )
