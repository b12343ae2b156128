"""tf.train.Example from protobuf's wire format: the message class comes with all of TensorFlow."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Values = list[bytes] | list[int] | list[float]


def parse(record: bytes) -> dict[str, Values]:
  """Returns the features of a serialised tf.train.Example, those without a value left out.

  Raises:
    ValueError: it is not one; the message is a reason to reject it.
  """
  try:
    return _parse(record)
  except UnicodeDecodeError as error:
    raise ValueError('the record is not a tf.train.Example') from error


def _parse(record: bytes) -> dict[str, Values]:
  found: dict[str, Values] = {}
  for number, features in _wire(record):
    if number == 2 and isinstance(features, bytes):
      raise ValueError(
        'the record is a tf.train.SequenceExample, whose lists of features are not read; write one '
        'tf.train.Example per picture'
      )
    if number == 1 and isinstance(features, bytes):
      for entry in _fields(features, 1):
        for key, feature in zip(_fields(entry, 1), _fields(entry, 2)):
          values = _values(feature)
          if values:
            found[key.decode()] = values
  return found


def _values(feature: bytes) -> Values:
  kinds = dict(_wire(feature))
  if 1 in kinds:
    return _fields(kinds[1], 1)
  if 2 in kinds:
    return _floats(b''.join(_fields(kinds[2], 1)))
  return [number for run in _numbers(kinds.get(3, b'')) for number in run]


def _floats(data: bytes) -> list[float]:
  if len(data) % 4:
    raise ValueError('the record is not a tf.train.Example')
  return np.frombuffer(data, '<f4').tolist()


def _fields(message: Any, number: int) -> list[bytes]:
  return [value for field, value in _wire(message) if field == number and isinstance(value, bytes)]


def _numbers(message: Any) -> Iterator[list[int]]:
  """Yields the int64 of an Int64List, packed or one at a time."""
  for field, value in _wire(message):
    if field == 1:
      yield [_signed(n) for n in _varints(value)] if isinstance(value, bytes) else [_signed(value)]


def _signed(number: int) -> int:
  number &= (1 << 64) - 1
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
  raise ValueError('the record is not a tf.train.Example')


def _wire(message: Any) -> Iterator[tuple[int, Any]]:
  """Yields (field number, value) of a protobuf message; a value is an int or bytes."""
  if not isinstance(message, bytes):
    raise ValueError('the record is not a tf.train.Example')
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
      raise ValueError('the record is not a tf.train.Example')
    yield key >> 3, message[position : position + size]
    position += size
