"""tf.train.Example read from protobuf's wire format: its message class comes with all of TensorFlow."""

from collections.abc import Iterator
from typing import Any


def parse(record: bytes) -> dict[str, list[bytes] | list[int] | None]:
  """The features of a serialised tf.train.Example: key to its values, None for floats.

  Raises:
    ValueError: it is something else.
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
  """The int64 of an Int64List, packed or one at a time."""
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
  """(field number, value) of a protobuf message, value an int or bytes."""
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
