"""tf.train.Example to images, ids and labels.

Records that are alike are parsed together by TensorFlow, in 1 microsecond each; the others one by
one. What is alike is found out for each chunk from some of its records, and whatever another record
has besides sends that one through the parser for single records. Records with other features that
may be pictures, such as captions, are all parsed one by one.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from batch import chunk
from batch.readers import protobuf
from batch.readers.features import Features, no_picture, other_pictures, pictures_of
from storage import files

SAMPLE_RECORDS = 8
# A record that has so much more besides what is read than the sample's may have another picture,
# which takes 45 bytes at least with its feature. The lengths in a record vary by 10.
SPARE_BYTES = 16
LABEL_NAMES = '{}.labels.txt'  # what TFDS keeps beside its files, after the feature's name

MISSING = (b'', None, chunk.NO_LABEL)  # the defaults of TensorFlow's parser, and none at all

Labels = Sequence[int | str | bytes | None]


class Layout(NamedTuple):
  """What records that are alike have.

  Attributes:
    image: the feature with the picture.
    kinds: the types of all features that are read, bytes, int or float.
    besides: the most bytes that one of the sample has besides the text and the picture in these.
  """

  image: str
  kinds: dict[str, type]
  besides: int


class Records:
  """Reads the records of one file.

  Args:
    uri: the file, by which images without an id are named: uri#row.
    wanted: the features to read.
  """

  def __init__(self, uri: str, wanted: Features):
    self._uri, self._wanted = uri, wanted
    self._names_of = functools.cache(self._read_names)

  def to_columns(self, rows: Sequence[int], records: Sequence[bytes]) -> chunk.ReadImages:
    """Returns the images of N records, `rows` of the file."""
    if not records:
      return chunk.ReadImages(encoded=[])
    layout = self._find_layout(records[:: max(len(records) // SAMPLE_RECORDS, 1)])
    columns = self._parse_together(rows, records, layout) if layout else None
    return columns or self._parse_singly(rows, records)

  def _find_layout(self, sample: Sequence[bytes]) -> Layout | None:
    """Returns the layout of records that are alike, or None if these are not."""
    try:
      parsed = [protobuf.parse(record) for record in sample]
    except ValueError:
      return None
    wanted = self._wanted
    images = {
      key
      for features in parsed
      for key, _ in pictures_of(features, wanted) + other_pictures(features, wanted)
    }
    if len(images) != 1 or images & {*wanted.ids, *wanted.labels}:
      return None
    # Also those that none of the sample has: another record may.
    kinds: dict[str, type] = dict.fromkeys([*images, *wanted.images, *wanted.ids], bytes)
    kinds.update({key: bytes if key.endswith('/text') else int for key in wanted.labels})
    for features in parsed:
      kinds.update({key: type(features[key][0]) for key in kinds if key in features})
      if not _is_small({key: features[key] for key in features.keys() - kinds.keys()}):
        return None
    besides = max(
      len(record) - sum(_text_bytes(features[key]) for key in kinds if key in features)
      for record, features in zip(sample, parsed)
    )
    return Layout(images.pop(), kinds, besides)

  def _parse_together(
    self, rows: Sequence[int], records: Sequence[bytes], layout: Layout
  ) -> chunk.ReadImages | None:
    """Returns the images, or None if TensorFlow says that the records are not alike."""
    import tensorflow as tf

    scalars = {
      bytes: tf.io.FixedLenFeature([], tf.string, ''),
      int: tf.io.FixedLenFeature([], tf.int64, chunk.NO_LABEL),
      float: tf.io.FixedLenFeature([], tf.float32, chunk.NO_LABEL),
    }
    spec = {key: scalars[kind] for key, kind in layout.kinds.items()}
    try:
      tensors = tf.io.parse_example(records, spec)
    except (
      tf.errors.InvalidArgumentError,
      UnicodeDecodeError,
    ):  # of its message, which quotes keys
      return None
    found = {key: tensor.numpy().tolist() for key, tensor in tensors.items()}
    encoded = found[layout.image]
    odd = self._odd(records, found, layout)
    ids = _first_of([found[key] for key in self._wanted.ids])
    names = [_text(i) or f'{self._uri}#{row}' for i, row in zip(ids, rows)]
    labels = _first_of([self._with_names(key, found[key]) for key in self._wanted.labels])
    if not odd:
      return chunk.ReadImages(names, encoded, labels=labels)
    columns, start = chunk.ReadImages(encoded=[], labels=[]), 0
    for i in odd:
      _extend(columns, names[start:i], encoded[start:i], labels[start:i])
      self._add_record(columns, rows[i], records[i])
      start = i + 1
    _extend(columns, names[start:], encoded[start:], labels[start:])
    return columns

  def _odd(self, records: Sequence[bytes], found: dict[str, list], layout: Layout) -> Sequence[int]:
    """Returns the places of records without a picture, or with what may be another."""
    left = list(map(len, records))
    for key, kind in layout.kinds.items():
      if kind is bytes and any(found[key]):
        left = [size - len(value) for size, value in zip(left, found[key])]
    limit, encoded = layout.besides + SPARE_BYTES, found[layout.image]
    odd = {i for i, size in enumerate(left) if size > limit or not encoded[i]}
    for key in self._wanted.images:
      if key != layout.image:
        odd.update(i for i, picture in enumerate(found[key]) if picture)
    return sorted(odd)

  def _with_names(self, key: str, values: list) -> list:
    """Returns labels, numbers as the names that the file's folder has for them."""
    if isinstance(values[0], bytes):
      return values
    names = self._names_of(key)
    if names is None and isinstance(values[0], int):
      return values
    return [_label([value], names) for value in values]

  def _parse_singly(self, rows: Sequence[int], records: Sequence[bytes]) -> chunk.ReadImages:
    columns = chunk.ReadImages(encoded=[], labels=[])
    for row, record in zip(rows, records):
      self._add_record(columns, row, record)
    return columns

  def _add_record(self, columns: chunk.ReadImages, row: int, record: bytes) -> None:
    """Appends the pictures of a record, or the reason why it has none."""
    name = f'{self._uri}#{row}'
    try:
      features = protobuf.parse(record)
    except ValueError as error:
      columns.rejects.append(chunk.Reject(name, 'read', str(error)))
      return
    wanted = self._wanted
    name = next((text for key in wanted.ids if (text := _id(features.get(key)))), name)
    found = pictures_of(features, wanted)
    if not found:
      reason = no_picture(features, wanted)
      columns.rejects.append(chunk.Reject(name, 'read', reason))
      return
    names = [name] if len(found) == 1 else [f'{name}#{i}' for i in range(len(found))]
    label = self._label_of(features)
    _extend(columns, names, [picture for _, picture in found], [label] * len(found))
    if others := len(other_pictures(features, wanted)):
      kind = 'picture in another feature'
      columns.passed_over[kind] = columns.passed_over.get(kind, 0) + others

  def _label_of(self, features: dict[str, protobuf.Values]) -> int | str | bytes | None:
    """Returns the label of the first feature that has one."""
    for key in self._wanted.labels:
      label = _label(features[key], self._names_of(key)) if key in features else None
      if label not in MISSING:
        return label
    return None

  def _read_names(self, key: str) -> dict[int, str] | None:
    """Returns the names that a feature's numbers stand for, or None if the folder has none."""
    home = os.path.dirname(self._uri)
    try:
      text = files.read(os.path.join(home, LABEL_NAMES.format(key.replace('/', '-'))))
    except (FileNotFoundError, PermissionError):  # the latter if listing a bucket is not allowed
      return None
    return dict(enumerate(text.decode('utf-8', 'replace').splitlines()))


def _extend(
  columns: chunk.ReadImages, ids: Sequence[str], encoded: Sequence[bytes], labels: Labels
) -> None:
  columns.ids.extend(ids)
  columns.encoded.extend(encoded)  # type: ignore[union-attr]
  columns.labels.extend(labels)  # type: ignore[union-attr]


def _is_small(features: dict[str, protobuf.Values]) -> bool:
  """Returns whether features are so small that no picture fits in their place."""
  single = all(len(values) == 1 for values in features.values())
  return single and sum(map(_text_bytes, features.values())) <= SPARE_BYTES


def _text_bytes(values: protobuf.Values) -> int:
  return sum(len(value) for value in values if isinstance(value, bytes))


def _first_of(columns: list[list]) -> list:
  """Returns per row the first value that is not missing."""
  merged, *others = columns
  for column in others:
    if set(column) - set(MISSING):
      merged = [b if a in MISSING else a for a, b in zip(merged, column)]
  return merged


def _id(values: protobuf.Values | None) -> str:
  return _text(values[0]) if values and len(values) == 1 else ''


def _text(value: Any) -> str:
  """Returns an id as text; -1 stands for none, as it does in `_parse_together`."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'backslashreplace')
  return '' if value is None or value == chunk.NO_LABEL else str(value)


def _label(values: Sequence[Any], names: dict[int, str] | None) -> Any:
  """Returns a feature's label; values that are no label are text that is none of the model's."""
  if len(set(values)) > 1:
    return ', '.join(str(value) for value in values[:10])
  (value,) = values[:1]
  if isinstance(value, bytes) or value == chunk.NO_LABEL:
    return value
  if isinstance(value, float):
    if not value.is_integer():
      return str(value)
    value = int(value)
  return value if names is None else names.get(value, f'{value}, which has no name')
