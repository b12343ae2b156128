"""Files, local or gs://, through Beam's FileSystems. What is written appears whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

MAX_FILE_BYTES = 256 << 20  # an image file larger than this is refused before it fills a worker's memory


def is_local(uri: str) -> bool:
  return '://' not in uri


def join(directory: str, *names: str) -> str:
  return '/'.join([directory.rstrip('/'), *names])


def match(pattern: str) -> list[FileMetadata]:
  """The files that a pattern names, sorted by path. `**/` also stands for no directory at all."""
  if is_local(pattern) and os.path.isfile(pattern):  # a name may hold [ or *
    return [FileMetadata(pattern, os.path.getsize(pattern), os.path.getmtime(pattern))]
  is_relative = is_local(pattern) and not os.path.isabs(pattern)
  whole = os.path.abspath(pattern) if is_relative else pattern  # Beam finds nothing for a bare name with a star
  try:
    results = FileSystems.match(sorted({whole, whole.replace('**/', '')}))
  except BeamIOError:  # what Beam raises where a directory is missing
    return []
  found = {file.path: file for result in results for file in result.metadata_list}
  named = [(os.path.relpath(path) if is_relative else path, found[path]) for path in sorted(found)]
  return [
    FileMetadata(path, file.size_in_bytes, file.last_updated_in_seconds)
    for path, file in named
    if not (is_local(path) and os.path.isdir(path))
  ]


def exists(uri: str) -> bool:
  return os.path.exists(uri) if is_local(uri) else FileSystems.exists(uri)


def open_bytes(uri: str) -> BinaryIO:
  """The file's own bytes: nothing is decompressed by its name."""
  if is_local(uri):
    return open(uri, 'rb')
  return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)


def read(uri: str, limit: int | None = None) -> bytes:
  """The file's content.

  Raises:
    ValueError: it has more than `limit` bytes.
  """
  with open_bytes(uri) as file:
    content = file.read() if limit is None else file.read(limit + 1)
  if limit is not None and len(content) > limit:
    raise ValueError(f'the file has more than {limit} bytes')
  return content


def write(uri: str, content: str | bytes) -> None:
  """Replaces the file at `uri` in one step. An object in a bucket only appears when its upload ends.

  There is no fsync: after a power failure a resumed run would find out, and one a chunk costs as much as decoding it.
  """
  data = content.encode() if isinstance(content, str) else content
  if not is_local(uri):
    with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
      file.write(data)
    return
  os.makedirs(os.path.dirname(uri) or '.', exist_ok=True)
  with _beside(uri) as path, open(path, 'wb') as file:
    file.write(data)


@contextlib.contextmanager
def _beside(uri: str) -> Iterator[str]:
  handle, path = tempfile.mkstemp(dir=os.path.dirname(uri) or '.', prefix='.' + os.path.basename(uri))
  os.close(handle)
  try:
    yield path
    os.chmod(path, 0o644)
    os.replace(path, uri)
  except BaseException:
    os.unlink(path)
    raise


def remove(uris: list[str]) -> None:
  """Deletes files and whole directories, those that are there. A bucket has no directories, only what is in them."""
  for uri in uris:
    inside = [] if is_local(uri) else [file.path for file in match(join(uri, '**'))]
    FileSystems.delete(inside or [uri] if inside or exists(uri) else [])
