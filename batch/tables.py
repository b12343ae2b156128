"""IDX files, as Fashion-MNIST is published in them, and Parquet tables with a column of images."""

import os
import struct
from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import app

from batch import chunk, flags, stream
from storage import files

IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801  # uint8 in three dimensions, uint8 in one
IMAGE_COLUMNS = ('image', 'image/encoded', 'img', 'bytes', 'png', 'jpg')
WRITTEN = ('id', 'label', 'label_index', 'confidence', 'probabilities', 'model_version', 'top_labels',
           'top_probabilities')  # fmt: skip


# --- IDX -----------------------------------------------------------------------------------------------------------


def idx_shape(uri: str) -> tuple[int, int, int]:
  """(images, height, width) as an IDX file's header has them.

  Raises:
    app.UsageError: it is not an IDX file of images.
  """
  header = stream.Stream(uri).take(16)
  if len(header) < 16 or struct.unpack('>I', header[:4])[0] != IDX_IMAGES:
    raise app.UsageError(
      f'{uri}: is not an IDX file of uint8 images; pass one whose name has -images-idx3-ubyte'
    )
  count, height, width = struct.unpack('>III', header[4:])
  return count, height, width


def is_idx_labels(uri: str) -> bool:
  header = stream.Stream(uri).take(4)
  return len(header) == 4 and struct.unpack('>I', header)[0] == IDX_LABELS


def idx_labels(images_uri: str) -> np.ndarray | None:
  """The labels, uint8 (N,), in the file that goes with a file of images by its name; None where there is none."""
  home, name = os.path.split(images_uri)
  plain = os.path.join(home, name.replace('images', 'labels').replace('idx3', 'idx1')).removesuffix(
    '.gz'
  )
  uri = next(
    (uri for uri in (plain, plain + '.gz') if uri != images_uri and files.exists(uri)), None
  )
  if uri is None:
    return None
  source = stream.Stream(uri)
  header = source.take(8)
  if len(header) < 8 or struct.unpack('>I', header[:4])[0] != IDX_LABELS:
    return None
  return np.frombuffer(source.take(struct.unpack('>I', header[4:])[0]), np.uint8)


def read_idx(shard: chunk.Shard, skip: int, chunk_images: int) -> Iterator[chunk.ReadImages]:
  """Images `start` + skip to `stop` of an IDX file, in chunks. An id is the file's path, # and the row."""
  _, height, width = idx_shape(shard.uri)
  labels = idx_labels(shard.uri)
  source = stream.Stream(shard.uri)
  source.skip(16 + (shard.start + skip) * height * width)
  for first in range(shard.start + skip, shard.stop, chunk_images):
    wanted = min(chunk_images, shard.stop - first)
    content = source.take(wanted * height * width)
    got = len(content) // (height * width)
    columns = _idx_columns(
      np.frombuffer(content, np.uint8, got * height * width).reshape(got, height, width, 1)
    )
    columns.ids = [f'{shard.uri}#{row}' for row in range(first, first + got)]
    columns.labels = (
      None if labels is None else [*labels[first : first + got].tolist(), *[None] * got][:got]
    )
    if got < wanted:
      reason = f'{source.broken or "the file is cut short"}: images {first + got} to {shard.stop - 1} are not there'
      offset = 16 + (first + got) * height * width
      columns.rejects.append(chunk.Reject(f'{shard.uri}@{offset}', 'read', reason))
    yield columns
    if got < wanted:
      return


def _idx_columns(pixels: np.ndarray) -> chunk.ReadImages:
  if pixels.shape[1:] == (28, 28, 1):
    return chunk.ReadImages(pixels=pixels)
  return chunk.ReadImages(encoded=[cv2.imencode('.bmp', image)[1].tobytes() for image in pixels])


# --- Parquet -------------------------------------------------------------------------------------------------------


def parquet_groups(uri: str, settings: flags.Settings) -> list[int]:
  """The rows of each row group, once the columns asked for are found to be there.

  Raises:
    app.UsageError: the file is not Parquet, or a column is missing or of another type.
  """
  try:
    with files.open_bytes(uri) as file:
      table = pq.ParquetFile(file)
      parquet_columns(table.schema_arrow, uri, settings)
      return [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
  except (pa.ArrowException, OSError) as error:
    raise app.UsageError(
      f'{uri}: cannot be read as Parquet ({str(error).splitlines()[0]}); pass one that can'
    ) from error


def parquet_columns(schema: pa.Schema, uri: str, settings: flags.Settings) -> tuple[str, str, str]:
  """The names of the columns with the images, the ids and the labels; '' for none.

  Raises:
    app.UsageError: a column is missing, of another type, or would be written over by the predictions.
  """
  has = ', '.join(schema.names)
  image = settings.image_column or next(
    (name for name in IMAGE_COLUMNS if name in schema.names), ''
  )
  if not image:
    raise app.UsageError(
      f'{uri}: has no column of images, only {has}; name one with --image_column'
    )
  asked = {
    'image_column': image,
    'id_column': settings.id_column,
    'label_column': settings.label_column,
  }
  for flag, name in [*asked.items(), *(('carry', name) for name in settings.carry)]:
    if name and name not in schema.names:
      raise app.UsageError(
        f'--{flag}={name}: {uri} has no such column, only {has}; pass one of these'
      )
  for name in settings.carry:
    if name in WRITTEN and name != 'id':
      raise app.UsageError(
        f'--carry={name}: predictions have a column of that name; rename it in {uri}'
      )
  if not _is_image(schema.field(image).type):
    raise app.UsageError(
      f'--image_column={image}: in {uri} it is {schema.field(image).type}; pass one that holds bytes'
    )
  present = lambda name, default: name or (default if default in schema.names else '')
  return image, present(settings.id_column, 'id'), present(settings.label_column, 'label')


def _is_image(kind: pa.DataType) -> bool:
  if pa.types.is_struct(kind):
    return any(
      kind.field(i).name == 'bytes' and _is_image(kind.field(i).type)
      for i in range(kind.num_fields)
    )
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read_parquet(
  shard: chunk.Shard, skip: int, chunk_images: int, settings: flags.Settings
) -> Iterator[chunk.ReadImages]:
  """The rows of row groups `start` to `stop` after the first `skip`, in chunks."""
  with files.open_bytes(shard.uri) as file:
    table = pq.ParquetFile(file)
    image, id_name, label_name = parquet_columns(table.schema_arrow, shard.uri, settings)
    carry = [name for name in settings.carry if name != 'id']
    wanted = sorted({name for name in (image, id_name, label_name, *carry) if name})
    row = 0
    groups = list(range(shard.start, shard.stop))
    for batch in table.iter_batches(chunk_images, row_groups=groups, columns=wanted):
      for rows in _pieces(batch):
        row += rows.num_rows
        if row > skip:
          first = shard.first_row + row - rows.num_rows
          yield _parquet_chunk(rows, [f'{shard.uri}#{first + i}' for i in range(rows.num_rows)], image, id_name,
                               label_name, carry)  # fmt: skip


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
  pieces = -(-batch.nbytes // stream.CHUNK_BYTES) or 1
  rows = -(-batch.num_rows // pieces)
  for first in range(0, batch.num_rows, max(rows, 1)):
    yield batch.slice(first, rows)


def _parquet_chunk(
  rows: pa.RecordBatch,
  names: list[str],
  image: str,
  id_name: str,
  label_name: str,
  carry: list[str],
) -> chunk.ReadImages:
  values = rows.column(image)
  paths: list[str | None] = [None] * rows.num_rows
  if pa.types.is_struct(values.type):
    members = {values.type.field(i).name: member for i, member in enumerate(values.flatten())}
    values = members['bytes']
    paths = members['path'].to_pylist() if 'path' in members else paths
  given = rows.column(id_name).to_pylist() if id_name else paths
  ids = [name if i is None else str(i) for i, name in zip(given, names)]
  labels = rows.column(label_name).to_pylist() if label_name else None
  carried = pa.Table.from_batches([rows]).select(carry) if carry else None
  return chunk.ReadImages(
    ids, [value or b'' for value in values.to_pylist()], None, labels, carried
  )
