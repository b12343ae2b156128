"""Which columns of a table are the images, the ids and the labels."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from absl import app

from batch import chunk, flags
from batch.readers.table_fields import PARTITION, find, kind_of, listed
from batch.readers.table_values import (
  PATH_MEMBERS,
  is_id,
  is_image,
  is_label,
  is_nested,
  members,
  plain_type,
)

IMAGE_COLUMNS = (
  'image',
  'image/encoded',
  'img',
  'bytes',
  'png',
  'jpg',
  'jpeg',
  'picture',
  'photo',
  'image_bytes',
  'content',  # of Spark's binaryFile
)


class Layout(NamedTuple):
  """The names of the columns with images, ids and labels, '' if absent, and of those to carry.

  Attributes:
    label_names: the names of the labels 0, 1 and so on, if the file has them.
    unusable: columns of a type that cannot be an id or a label, as 'label column of type list'.
  """

  image: str
  id: str
  label: str
  carry: list[str]
  label_names: list[str] | None
  unusable: list[str]


def find_columns(schema: pa.Schema, uri: str, settings: flags.Settings) -> Layout:
  """Returns the columns that the settings name, and the usual ones for those they do not.

  Raises:
    app.UsageError: a column is missing, of another type, or would overwrite the predictions'.
  """
  for flag in ('image_column', 'id_column', 'label_column'):
    _check_exists(schema, uri, flag, getattr(settings, flag))
  for name in settings.carry:
    _check_exists(schema, uri, 'carry', name)
  image = settings.image_column or find_image(schema)
  if not image:
    raise app.UsageError(
      f'{uri}: has no column of images, only {listed(schema)}; name one with --image_column'
    )
  _check_type(schema, uri, 'image_column', image, is_image, 'a column of bytes')
  _check_named(schema, uri, settings)
  usable, unusable = _usual_columns(schema, settings)
  identity = settings.id_column or ('id' if 'id' in usable else '')
  label = settings.label_column or ('label' if 'label' in usable else '')
  carry = _carried(settings.carry, identity, uri)
  for name in (image, identity, label, *carry):
    if schema.names.count(name) > 1:
      raise app.UsageError(f'{uri}: has several columns called {name}; rename all but one')
  names = class_names(schema, label) if label and not settings.label_offset else None
  return Layout(image, identity, label, carry, names, unusable)


def _check_named(schema: pa.Schema, uri: str, settings: flags.Settings) -> None:
  """Checks the types of the columns that the settings name for ids and labels."""
  if name := settings.id_column:
    _check_type(schema, uri, 'id_column', name, is_id, 'a column of text or numbers')
  if name := settings.label_column:
    _check_type(schema, uri, 'label_column', name, is_label, 'a column of names or integers')


def _usual_columns(schema: pa.Schema, settings: flags.Settings) -> tuple[set[str], list[str]]:
  """Returns which of the columns id and label can be used, and what is wrong with the others."""
  fits = {'id': is_id, 'label': is_label}
  given = {'id': settings.id_column, 'label': settings.label_column}
  found = [name for name in fits if name in schema.names and not given[name]]
  if 'id' in found and schema.field('id').metadata == PARTITION:
    found.remove('id')
  usable = {name for name in found if fits[name](kind_of(schema, name))}
  unusable = [
    f'{name} column of type {kind_of(schema, name)}' for name in found if name not in usable
  ]
  return usable, unusable


def _check_exists(schema: pa.Schema, uri: str, flag: str, name: str) -> None:
  if name and find(schema, name) is None:
    raise app.UsageError(
      f'--{flag}={name}: {uri} has no such column, only {listed(schema)}; pass one of these'
    )


def _check_type(schema: pa.Schema, uri: str, flag: str, name: str, fits: Any, remedy: str) -> None:
  kind = kind_of(schema, name)
  if not fits(kind):
    raise app.UsageError(
      f'--{flag}={name}: in {uri} it is {kind}; pass {remedy}, of {listed(schema)}'
    )


def _carried(names: Sequence[str], identity: str, uri: str) -> list[str]:
  for name in names:
    if name in chunk.PREDICTION_COLUMNS and not (name == 'id' and identity == 'id'):
      raise app.UsageError(
        f'--carry={name}: predictions have a column of that name; rename it in {uri}'
      )
  return [name for name in dict.fromkeys(names) if name != 'id']


def find_image(schema: pa.Schema) -> str:
  """Returns the column of a usual name or that Hugging Face's metadata call an image, or ''."""
  names = [*IMAGE_COLUMNS, *(name for name in _features(schema) if _is_feature(schema, name))]
  usable = [name for name in names if name in schema.names and is_image(kind_of(schema, name))]
  return usable[0] if usable else next((name for name in names if name in schema.names), '')


def has_images(schema: pa.Schema) -> bool:
  """Returns whether any column, or any member of a struct, is of a type that images have."""
  kinds = [field.type for field in schema]
  while kinds:
    kind = kinds.pop()
    if is_image(kind):
      return True
    kinds += members(plain_type(kind)).values()
  return False


def has_lists(schema: pa.Schema, name: str) -> bool:
  """Returns whether the column contains a list of images a row."""
  return is_nested(kind_of(schema, name))


def path_column(schema: pa.Schema, image: str) -> str:
  """Returns the column of paths in the structs of a column of images, or ''."""
  inside = members(plain_type(kind_of(schema, image)))
  return next((f'{image}.{name}' for name in PATH_MEMBERS if name in inside), '')


def no_rows(schema: pa.Schema, names: Sequence[str]) -> pa.Table | None:
  """Returns a table of no rows with these columns, or None if there are none."""
  if not names:
    return None
  return pa.schema([pa.field(name, kind_of(schema, name)) for name in names]).empty_table()


def _is_feature(schema: pa.Schema, name: str) -> bool:
  feature = _features(schema)[name]
  return isinstance(feature, dict) and feature.get('_type') == 'Image'


def _features(schema: pa.Schema) -> dict[str, Any]:
  """Returns the features that Hugging Face's datasets describe in a schema's metadata."""
  try:
    found = json.loads((schema.metadata or {})[b'huggingface'])['info']['features']
  except (KeyError, TypeError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}


def class_names(schema: pa.Schema, name: str) -> list[str] | None:
  """Returns the names of a Hugging Face ClassLabel, which the file's integers number."""
  feature: Any = _features(schema)
  for part in [name] if name in feature else name.split('.'):
    feature = feature.get(part) if isinstance(feature, dict) else None
  if not isinstance(feature, dict) or feature.get('_type') != 'ClassLabel':
    return None
  names = feature.get('names')
  return [str(each) for each in names] if isinstance(names, list) else None
