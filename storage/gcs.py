"""Objects in Cloud Storage. Every call is repeated while the answer says to try again, for two minutes at most."""

import concurrent.futures
import contextlib
import functools
import io
import mimetypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import requests.adapters
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage import retry

from storage import errors, patterns, reader

CONNECTIONS = 64  # that a process keeps; a thread that finds all in use opens another
THREADS = 16  # that delete or copy a folder
PART_BYTES = 8 << 20  # content larger than this goes up in parts, each of which can be repeated
WRITERS = 3  # attempts at an object that others write too
FIRST_DELAY, LONGEST_DELAY, DEADLINE, ANSWER_WITHIN = 0.2, 30.0, 120.0, 60.0  # seconds

RETRY = retry.DEFAULT_RETRY.with_delay(FIRST_DELAY, LONGEST_DELAY).with_timeout(DEADLINE)
CALL = {'retry': RETRY, 'timeout': ANSWER_WITHIN}
_lock = threading.Lock()
# For the sake of traces, the client would ask about the bucket itself, which takes another permission.
os.environ.setdefault('DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA', 'true')


@functools.lru_cache(maxsize=1)
def _client_of(process: int) -> storage.Client:
  client = storage.Client(project=None)  # objects need none
  # To wait for one would be to wait for ever: after an answer that is an error, the library does not give it back.
  adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS, pool_block=False)
  for scheme in ('https://', 'http://'):  # the latter is an emulator's
    client._http.mount(scheme, adapter)
  return client


def _bucket(uri: str) -> tuple[storage.Bucket, str]:
  """The bucket, and the name in it."""
  with _lock, errors.explained(uri):
    client = _client_of(
      os.getpid()
    )  # a process that was forked must not share its parent's connections
  bucket, _, name = uri.removeprefix('gs://').partition('/')
  try:
    return client.bucket(bucket), name
  except (ValueError, IndexError) as error:  # what the library says to a bad name, and to none
    raise OSError(f'{uri}: names no bucket ({error}); write gs://BUCKET/NAME') from error


def _blob(uri: str) -> storage.Blob:
  bucket, name = _bucket(uri)
  if not name:
    raise OSError(f'{uri}: names a bucket and nothing in it; write gs://BUCKET/NAME')
  return bucket.blob(name)


def match(pattern: str) -> list[tuple[str, int]]:
  """(uri, size in bytes) of the objects that a pattern names."""
  bucket, name = _bucket(pattern)
  found = list(_listed(pattern, bucket, patterns.literal_prefix(name)))
  fits = patterns.compiled(name).fullmatch
  return [each for each in found if each[0] == pattern] or [
    (uri, size) for uri, size in found if fits(uri[len(f'gs://{bucket.name}/') :])
  ]


def under(directory: str) -> list[tuple[str, int]]:
  shown = patterns.compiled('**').fullmatch
  inside = directory.rstrip('/') + '/'
  return [(uri, size) for uri, size in _inside(directory) if shown(uri.removeprefix(inside))]


def _inside(directory: str) -> Iterator[tuple[str, int]]:
  bucket, name = _bucket(directory)
  return _listed(directory, bucket, name.rstrip('/') + '/' if name.rstrip('/') else '')


def _listed(uri: str, bucket: storage.Bucket, prefix: str) -> Iterator[tuple[str, int]]:
  with errors.explained(uri, only_the_bucket=True):
    for blob in bucket.list_blobs(prefix=prefix, fields='items(name,size),nextPageToken', **CALL):
      yield f'gs://{bucket.name}/{blob.name}', blob.size


def exists(uri: str) -> bool:
  with errors.explained(uri):
    return _blob(uri).exists(**CALL)


def open_bytes(uri: str) -> BinaryIO:
  blob = _blob(uri)
  with errors.explained(uri):
    blob.reload(**CALL)
  return reader.opened(blob, uri, **CALL)


class _Limited(io.BytesIO):
  """Takes what comes until it is too much."""

  limit: int | None = None

  def write(self, content) -> int:
    if self.limit is not None and self.tell() + len(content) > self.limit:
      raise ValueError(f'the file has more than {self.limit} bytes')
    return super().write(content)


def read(uri: str, limit: int | None) -> bytes:
  """One request. The library leaves the checksum out where a broken download went on; this does not."""
  blob, held = _blob(uri), _Limited()
  held.limit = limit
  with errors.explained(uri):
    blob.download_to_file(held, raw_download=True, checksum=None, **CALL)
  content = held.getvalue()
  reader.verify(uri, reader.crc32c(content), blob.crc32c)
  return content


def write(uri: str, content: bytes, durable: bool = True) -> None:
  """Creates the object, or replaces the generation that is there.

  The precondition makes repeating a call safe. Where it fails although the content is ours, an earlier attempt arrived
  and its answer did not, or another worker wrote the same bytes: both are done.

  Raises:
    OSError: another process keeps writing something else there.
  """
  blob, checksum, generation = _blob(uri), reader.crc32c(content), 0
  blob.chunk_size = PART_BYTES
  kind = mimetypes.guess_type(uri)[0] or 'application/octet-stream'  # a report shows in the browser
  with errors.explained(uri, only_the_bucket=True):
    for _ in range(WRITERS):
      try:
        blob.upload_from_file(
          io.BytesIO(content), size=len(content), content_type=kind, checksum='crc32c', if_generation_match=generation,
          **CALL,
        )  # fmt: skip
        return
      except (exceptions.PreconditionFailed, exceptions.NotFound) as error:
        held = blob.bucket.get_blob(blob.name, **CALL)
        if held and held.crc32c == checksum:
          return
        if not held and isinstance(error, exceptions.NotFound):
          raise
        generation = held.generation if held else 0
  raise OSError(
    f'{uri}: another process writes it too, and something else; let one of them write elsewhere'
  )


def remove(uris: Iterable[str]) -> None:
  _each(_remove, uris)


def _remove(uri: str) -> None:
  """Deletes an object. One that is gone may be what an earlier attempt did."""
  with errors.explained(uri), contextlib.suppress(exceptions.NotFound):
    _blob(uri).delete(**CALL)


def _each(do: Callable[[str], object], uris: Iterable[str]) -> None:
  """Not in a batch request: where a part of one fails, the rest says nothing about it."""
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    list(pool.map(do, uris))


def remove_folder(directory: str) -> None:
  remove([uri for uri, _ in _inside(directory)])


def publish(source: str, directory: str, last: str) -> None:
  remove([f'{directory.rstrip("/")}/{last}'])
  remove_folder(directory)
  copy(source, directory, last)


def copy(source: str, directory: str, last: str) -> None:
  target = f'{directory.rstrip("/")}/'
  names = [
    os.path.relpath(os.path.join(root, name), source)
    for root, _, names in os.walk(source)
    for name in names
  ]
  _each(
    lambda name: _upload(os.path.join(source, name), target + name),
    [name for name in names if name != last],
  )
  _upload(os.path.join(source, last), target + last)


def _upload(path: str, uri: str) -> None:
  with open(path, 'rb') as file:
    write(uri, file.read())


def fetch(directory: str, to: str) -> None:
  """Copies every object in a folder into the local directory `to`."""
  target = f'{directory.rstrip("/")}/'
  _each(
    lambda uri: _download(uri, os.path.join(to, uri.removeprefix(target))),
    [uri for uri, _ in _inside(directory)],
  )


def _download(uri: str, path: str) -> None:
  if uri.endswith('/'):  # what other programs put where a folder should be
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, 'wb') as file:
    file.write(read(uri, None))
