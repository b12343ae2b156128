"""tf.train.Example to images, ids and labels.

Many records that are alike are parsed by TensorFlow, others one by one from protobuf's wire format:
the message class comes with all of TensorFlow, and is slower.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app

from batch import chunk

IMAGE_KEYS = ('image/encoded', 'image')


@dataclasses.dataclass(frozen=True)
class Layout:
  """The feature with the image, and the types of the features `id` and `label`.

  A type is bytes or int; any other is not read.
  """

  image: str
  id_type: type
  label_type: type


def find_layout(record: bytes, where: str) -> Layout:
  """Infers the layout of all records of a file from one.

  Raises:
    app.UsageError: it is not an Example with an image; the message begins with `where`.
  """
  try:
    features = parse(record)
  except ValueError as error:
    raise app.UsageError(f'{where}: its records are not tf.train.Example protos') from error
  image = next((key for key in IMAGE_KEYS if key in features), None)
  if image is None:
    raise app.UsageError(
      f'{where}: has no feature {" or ".join(IMAGE_KEYS)}, only '
      f'{", ".join(sorted(features)) or "none"}; rename the image feature to one of these'
    )
  return Layout(image, _value_type(features.get('id')), _value_type(features.get('label')))


def layout_of(record: bytes) -> Layout | None:
  """Returns the layout that one record suggests, or None if it has no image."""
  try:
    return find_layout(record, '')
  except app.UsageError:
    return None


def _value_type(values: Sequence[bytes] | Sequence[int] | None) -> type:
  return type(values[0]) if values else type(None)


def to_columns(
  uri: str, rows: Sequence[int], records: list[bytes], layout: Layout | None
) -> chunk.Columns:
  """Returns the images of N records, `rows` of a file. An id is the feature `id` or uri#row."""
  if not records:
    return chunk.Columns(encoded=[])
  parsed = _parse_together(records, layout) if layout else None
  if parsed is None:
    return _parse_singly([f'{uri}#{row}' for row in rows], records)
  encoded, ids, labels = parsed
  names = [_text(i) or f'{uri}#{row}' for i, row in zip(ids, rows)]
  return chunk.Columns(names, encoded, None, labels)


def _parse_together(
  records: list[bytes], layout: Layout
) -> tuple[Sequence, Sequence, Sequence | None] | None:
  """Returns (images, ids, labels), or None if the records are not all alike.

  TensorFlow's parser takes 1 microsecond per record, a message object would take 3.
  """
  import tensorflow as tf

  scalars = {
    bytes: tf.io.FixedLenFeature([], tf.string, ''),
    int: tf.io.FixedLenFeature([], tf.int64, chunk.NO_LABEL),
  }
  wanted = {layout.image: bytes, 'id': layout.id_type, 'label': layout.label_type}
  spec = {key: scalars[kind] for key, kind in wanted.items() if kind in scalars}
  try:
    found = {key: tensor.numpy() for key, tensor in tf.io.parse_example(records, spec).items()}
  except tf.errors.InvalidArgumentError:
    return None
  labels = found.get('label')
  return (
    found[layout.image].tolist(),
    found.get('id', [b''] * len(records)),
    None if labels is None else labels.tolist(),
  )


def _parse_singly(names: list[str], records: list[bytes]) -> chunk.Columns:
  ids: list[str] = []
  encoded: list[bytes] = []
  labels: list[Any] = []
  rejects = []
  for name, record in zip(names, records):
    try:
      features = parse(record)
    except ValueError:
      rejects.append(chunk.Reject(name, 'read', 'the record is not a tf.train.Example'))
      continue
    values: dict[str, Any] = {key: found[0] if found else None for key, found in features.items()}
    image = next((values[key] for key in IMAGE_KEYS if isinstance(values.get(key), bytes)), None)
    if image is None:
      reason = f'the record has no image among its features {", ".join(sorted(values))}'
      rejects.append(chunk.Reject(name, 'read', reason))
      continue
    ids.append(_text(values.get('id')) or name)
    encoded.append(image)
    labels.append(values.get('label'))
  return chunk.Columns(ids, encoded, None, labels, rejects=rejects)


def _text(value: Any) -> str:
  """Returns an id as text; -1 stands for none, as it does in `_parse_together`."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'replace')
  return '' if value is None or value == chunk.NO_LABEL else str(value)


def parse(record: bytes) -> dict[str, list[bytes] | list[int] | None]:
  """Returns the features of a serialised tf.train.Example: key to values, None for floats.

  Raises:
    ValueError: it is not one.
  """
  found: dict[str, list[bytes] | list[int] | None] = {}
  for features in _fields(record, 1):
    for entry in _fields(features, 1):
      for key, feature in zip(_fields(entry, 1), _fields(entry, 2)):
        kinds = dict(_wire(feature))
        if 1 in kinds:
          found[key.decode()] = _fields(kinds[1], 1)
        elif 3 in kinds:
          found[key.decode()] = [number for run in _numbers(kinds[3]) for number in run]
        elif kinds:
          found[key.decode()] = None
  return found


def _fields(message: bytes, number: int) -> list[bytes]:
  return [value for field, value in _wire(message) if field == number and isinstance(value, bytes)]


def _numbers(message: bytes) -> Iterator[list[int]]:
  """Yields the int64 of an Int64List, packed or one at a time."""
  for field, value in _wire(message):
    if field == 1:
      yield [_signed(n) for n in _varints(value)] if isinstance(value, bytes) else [_signed(value)]


def _signed(number: int) -> int:
  return number - (1 << 64) if number >= 1 << 63 else number


def _varints(data: bytes) -> Iterator[int]:
  position = 0
  while position < len(data):
    number, position = _varint(data, position)
    yield number


def _varint(data: bytes, position: int) -> tuple[int, int]:
  number = shift = 0
  while position < len(data) and shift < 70:
    byte = data[position]
    number |= (byte & 0x7F) << shift
    position, shift = position + 1, shift + 7
    if byte < 0x80:
      return number, position
  raise ValueError('not a protobuf message')


def _wire(message: bytes) -> Iterator[tuple[int, Any]]:
  """Yields (field number, value) of a protobuf message; a value is an int or bytes."""
  position = 0
  while position < len(message):
    key, position = _varint(message, position)
    if key & 7 == 0:
      value, position = _varint(message, position)
      yield key >> 3, value
      continue
    size = {1: 8, 5: 4}.get(key & 7)
    if key & 7 == 2:
      size, position = _varint(message, position)
    if size is None or position + size > len(message):
      raise ValueError('not a protobuf message')
    yield key >> 3, message[position : position + size]
    position += size
