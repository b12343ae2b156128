"""The values of a table's columns as pictures, ids and labels, whatever types its writer chose."""

import decimal
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Channels by OpenCV's code of the type, in the structs of Spark's image source.
SPARK_CHANNELS = {0: 1, 16: 3, 24: 4}
SPARK_UNDECODED = -1
PATH_MEMBERS = ('path', 'origin')  # of structs of images
SPARK_MEMBERS = {'height', 'width', 'mode', 'data'}
IS_BYTES = (
  pa.types.is_binary,
  pa.types.is_large_binary,
  pa.types.is_binary_view,
  pa.types.is_fixed_size_binary,
)
IS_LIST = (
  pa.types.is_list,
  pa.types.is_large_list,
  pa.types.is_fixed_size_list,
  pa.types.is_list_view,
  pa.types.is_large_list_view,
)


def plain_type(kind: pa.DataType) -> pa.DataType:
  """Returns the type of the values without a dictionary or an extension around them."""
  while True:
    if isinstance(kind, pa.BaseExtensionType):
      kind = kind.storage_type
    elif pa.types.is_dictionary(kind):
      kind = kind.value_type
    else:
      return kind


def plain(values: pa.Array) -> pa.Array:
  """Returns an array without a dictionary or an extension around its values."""
  while True:
    if isinstance(values.type, pa.BaseExtensionType):
      values = values.storage
    elif pa.types.is_dictionary(values.type):
      values = values.dictionary_decode()
    else:
      return values


def _is_bytes(kind: pa.DataType) -> bool:
  return any(is_one(kind) for is_one in IS_BYTES)


def is_list(kind: pa.DataType) -> bool:
  """Returns whether a type is one of Arrow's lists."""
  return any(is_one(kind) for is_one in IS_LIST)


def members(kind: pa.DataType) -> dict[str, pa.DataType]:
  """Returns the types of a struct's members, {} of any other type."""
  return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


def is_image(kind: pa.DataType) -> bool:
  """Returns whether a column contains a picture a row, or a list of pictures."""
  kind = plain_type(kind)
  return _is_picture(kind) or (is_list(kind) and _is_picture(plain_type(kind.value_type), False))


def _is_picture(kind: pa.DataType, alone: bool = True) -> bool:
  """Returns whether it is bytes, a struct of them or, `alone`, a list of integers."""
  if _is_bytes(kind):
    return True
  if is_list(kind):
    return alone and pa.types.is_integer(plain_type(kind.value_type))
  inside = members(kind)
  return members(kind).keys() >= SPARK_MEMBERS or (
    'bytes' in inside and _is_bytes(plain_type(inside['bytes']))
  )


def is_nested(kind: pa.DataType) -> bool:
  """Returns whether an image column has a list of pictures a row."""
  kind = plain_type(kind)
  return is_list(kind) and not pa.types.is_integer(plain_type(kind.value_type))


def unnested(values: pa.Array) -> tuple[list[int] | None, pa.Array]:
  """Returns the number of pictures of each row, None if each has one, and all pictures."""
  values = plain(values)
  if not is_nested(values.type):
    return None, values
  if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
    values = values.cast(pa.large_list(values.type.value_type))
  return pc.list_value_length(values).fill_null(0).to_pylist(), values.flatten()


def is_label(kind: pa.DataType) -> bool:
  """Returns whether a column contains a name or a number a row."""
  kind, types = plain_type(kind), pa.types
  is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
  return is_number or types.is_boolean(kind) or types.is_null(kind) or _is_text(kind)


def is_id(kind: pa.DataType) -> bool:
  """Returns whether a column contains a text, a number or a time a row."""
  kind, types = plain_type(kind), pa.types
  return is_label(kind) or types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind)


def _is_text(kind: pa.DataType) -> bool:
  types = pa.types
  is_string = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
  return is_string or _is_bytes(kind)


def to_list(values: pa.Array) -> list[Any]:
  """Returns an array as Python's values; bytes that are not UTF-8 in a string as \\xNN."""
  if not isinstance(values.type, pa.UuidType):
    values = plain(values)
  if pa.types.is_temporal(values.type):
    values = values.cast(pa.string())
  try:
    return values.to_pylist()
  except UnicodeDecodeError:
    encoded = values.cast(pa.large_binary()).to_pylist()
    return [None if each is None else each.decode('utf-8', 'backslashreplace') for each in encoded]


def to_ids(values: pa.Array) -> list[str]:
  """Returns the ids in a column, '' for a row without one.

  A whole float is '7', not '7.0'; bytes that are no text are hexadecimal.
  """
  return [_to_id(value) for value in to_list(values)]


def _to_id(value: Any) -> str:
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return ''
  if isinstance(value, float | decimal.Decimal) and math.isfinite(value) and value == int(value):
    return str(int(value))
  if not isinstance(value, bytes):
    return str(value)
  try:
    text = value.decode()
  except UnicodeDecodeError:
    return value.hex()
  return text if text.isprintable() else value.hex()


def to_labels(values: pa.Array, names: Sequence[str] | None) -> list[Any]:
  """Returns the labels in a column; integers by their names if the file has these."""
  found = to_list(values)
  return found if names is None else [_named(label, names) for label in found]


def _named(label: Any, names: Sequence[str]) -> Any:
  """Returns the name of an integer, or text that is no label of any model if it has none."""
  if not isinstance(label, int | float) or label == -1 or label != label:
    return label
  is_known = 0 <= label < len(names) and label == int(label)
  return names[int(label)] if is_known else f'{label} without a name in the file'


def to_pictures(values: pa.Array) -> tuple[list[bytes | str | None], list[str]]:
  """Returns the pictures of a column, a str for the reason why there is none, and their paths.

  A path is '' if the column has none for a row.
  """
  values = plain(values)
  if is_list(values.type):
    return [_from_integers(each) for each in values.to_pylist()], [''] * len(values)
  inside = members(values.type)
  if not inside:
    return values.to_pylist(), [''] * len(values)
  parts = dict(zip(inside, values.flatten()))
  where = next((name for name in PATH_MEMBERS if name in parts), None)
  paths = to_ids(parts[where]) if where else [''] * len(values)
  if 'bytes' in parts:
    return plain(parts['bytes']).to_pylist(), paths
  return [_from_spark(each) for each in values.to_pylist()], paths


def _from_integers(value: Sequence[int | None] | None) -> bytes | str | None:
  try:
    return None if value is None else bytes(value)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    return 'the list has a value that is not a byte'


def _from_spark(value: dict[str, Any] | None) -> bytes | str | None:
  """Returns the pixels in a struct of Spark's image source, blue first, as a PNG file."""
  if value is None or value['data'] is None:
    return None
  if value['mode'] == SPARK_UNDECODED:
    return 'Spark could not decode it when it wrote the table'
  height, width, data = value['height'] or 0, value['width'] or 0, value['data']
  channels = SPARK_CHANNELS.get(value['mode'], 0)
  if not 0 < len(data) == height * width * channels:
    return f'{len(data)} bytes are not {width}x{height} pixels of mode {value["mode"]}'
  pixels = np.frombuffer(data, np.uint8).reshape(height, width, channels)
  return cv2.imencode('.png', pixels)[1].tobytes()
