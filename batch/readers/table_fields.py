"""The columns of a table by name, those inside structs and in the names of folders included."""

import urllib.parse
from collections.abc import Iterator

import pyarrow as pa

from batch.readers.table_values import plain, plain_type

PARTITION = {b'lookbook': b'partition'}  # marks a column that is in the names of folders
NO_PARTITION = '__HIVE_DEFAULT_PARTITION__'


def with_partitions(schema: pa.Schema, uri: str) -> pa.Schema:
  """Returns the schema and, as strings, the columns that folders such as `label=3` stand for."""
  names = [name for name in partitions(uri) if name not in schema.names]
  fields = [pa.field(name, pa.string(), metadata=PARTITION) for name in names]
  return pa.schema([*schema, *fields], schema.metadata)


def partitions(uri: str) -> dict[str, str | None]:
  """Returns the values of columns in the names of a file's folders, as Hive writes them."""
  folders = [folder.partition('=') for folder in uri.split('/')[:-1]]
  values = {name: urllib.parse.unquote(value) for name, equals, value in folders if equals and name}
  return {name: None if value == NO_PARTITION else value for name, value in values.items()}


def find(fields: pa.Schema | pa.StructType, name: str) -> list[int] | None:
  """Returns the indices that lead to a column: a.b is the member b of the struct a."""
  children = list(fields)
  for index, field in enumerate(children):
    if field.name == name:
      return [index]
  for index, field in enumerate(children):
    if name.startswith(f'{field.name}.') and pa.types.is_struct(plain_type(field.type)):
      inside = find(plain_type(field.type), name[len(field.name) + 1 :])
      if inside is not None:
        return [index, *inside]
  return None


def kind_of(schema: pa.Schema, name: str) -> pa.DataType:
  """Returns the type of a column that `find` finds."""
  first, *rest = find(schema, name) or []
  kind = schema.field(first).type
  for index in rest:
    kind = plain_type(kind).field(index).type
  return kind


def column(batch: pa.RecordBatch, name: str) -> pa.Array:
  """Returns a column that `find` finds; null in a null struct."""
  first, *rest = find(batch.schema, name) or []
  values = batch.column(first)
  for index in rest:
    values = plain(values).flatten()[index]
  return values


def listed(schema: pa.Schema) -> str:
  """Returns the names of all columns and of the members of structs."""
  return ', '.join(_names(schema)) or 'none'


def _names(fields: pa.Schema | pa.StructType, prefix: str = '') -> Iterator[str]:
  for field in fields:
    yield prefix + field.name
    if pa.types.is_struct(plain_type(field.type)):
      yield from _names(plain_type(field.type), f'{prefix}{field.name}.')
