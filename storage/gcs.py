"""Objects in Cloud Storage: the backend for gs://.

Every call is repeated while the answer asks to try again, for RETRY_SECONDS at most.
"""

import collections
import concurrent.futures
import contextlib
import functools
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import requests.adapters
from google.api_core import exceptions
from google.cloud import storage as cloud_storage
from google.cloud.storage import retry

from storage import gcs_patterns, gcs_reader, gcs_writer, spool
from storage.base import File
from storage.gcs_errors import translate_errors

MAX_CONNECTIONS = 64  # kept by a process; a thread that finds all in use opens another
PAGE_NAMES = 1000  # of a listing; the API's most
FOLDER_THREADS = 16  # that delete or copy a folder
FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, RETRY_SECONDS = 0.2, 30.0, 120.0
RESPONSE_SECONDS = 60.0
READ = 'storage.objects.get'  # a permission

CALL: dict[str, Any] = {
  'retry': retry.DEFAULT_RETRY.with_delay(FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS).with_timeout(
    RETRY_SECONDS
  ),
  'timeout': RESPONSE_SECONDS,
}
_lock = threading.Lock()
_last_read: dict[str, str] = {}  # by bucket
# The client's OpenTelemetry tracing would read bucket metadata, which needs a further permission.
os.environ.setdefault('DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA', 'true')


@functools.lru_cache(maxsize=1)
def _client_of(process: int, emulator: str | None) -> cloud_storage.Client:
  """Returns the client of a process: a forked one must not share its parent's connections."""
  client = cloud_storage.Client(project=None)  # objects need none
  # Do not block on the pool: after an error response the library leaks the connection, so a full
  # pool would deadlock.
  adapter = requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS, pool_block=False)
  for scheme in ('https://', 'http://'):  # an emulator has the latter
    client._http.mount(scheme, adapter)
  return client


def _bucket(uri: str) -> tuple[cloud_storage.Bucket, str]:
  """Returns the bucket and the name in it."""
  with _lock, translate_errors(uri):
    client = _client_of(os.getpid(), os.environ.get('STORAGE_EMULATOR_HOST'))
  bucket, _, name = uri.removeprefix('gs://').partition('/')
  try:
    return client.bucket(bucket), name
  except (ValueError, IndexError) as error:  # of a bad name, and of an empty one
    raise OSError(f'{uri}: names no bucket ({error}); write gs://BUCKET/NAME') from error


def _blob(uri: str) -> cloud_storage.Blob:
  bucket, name = _bucket(uri)
  if not name:
    raise OSError(f'{uri}: names a bucket and nothing in it; write gs://BUCKET/NAME')
  return bucket.blob(name)


def match(pattern: str, passed_over: collections.Counter[str]) -> Iterator[File]:
  """Yields the objects that a pattern names."""
  bucket, name = _bucket(pattern)
  start = len(f'gs://{bucket.name}/')
  readings = list(gcs_patterns.readings(name))
  fitting = spool.Spool[File]()
  for file in _listed(pattern, bucket, gcs_patterns.literal_prefix(name)):
    place = _first_that_fits(readings, file.uri[start:])
    if 0 < place < len(readings):  # a more literal one: what fits another was not meant
      readings, fitting = readings[:place], spool.Spool[File]()
    if place:
      fitting.append(file)
  yield from fitting


def _first_that_fits(readings: Sequence[gcs_patterns.Reading], name: str) -> int:
  """Returns the number of the first reading that fits a name, from 1; 0 if none does."""
  return next((place for place, fits in enumerate(readings, 1) if fits(name)), 0)


def list_files(directory: str, passed_over: collections.Counter[str]) -> Iterator[File]:
  """Yields all objects in a folder and its subfolders, except hidden ones."""
  is_visible = gcs_patterns.compiled('**').fullmatch
  prefix = directory.rstrip('/') + '/'
  for file in _inside(directory):
    if is_visible(file.uri.removeprefix(prefix)):
      yield file
    elif not file.uri.endswith('/'):  # what some tools write for an empty folder
      passed_over['hidden file'] += 1


def _inside(directory: str) -> Iterator[File]:
  bucket, name = _bucket(directory)
  return _listed(directory, bucket, name.rstrip('/') + '/' if name.rstrip('/') else '')


def _listed(uri: str, bucket: cloud_storage.Bucket, prefix: str) -> Iterator[File]:
  with translate_errors(uri, only_the_bucket=True):
    for blob in bucket.list_blobs(
      prefix=prefix, page_size=PAGE_NAMES, fields='items(name,size),nextPageToken', **CALL
    ):
      yield File(f'gs://{bucket.name}/{blob.name}', blob.size)


def exists(uri: str) -> bool:
  """Returns whether there is such an object."""
  with translate_errors(uri):
    return _blob(uri).exists(**CALL)


def may_read(uri: str) -> bool:
  """Returns whether the account may still read the object of the bucket that it has read last.

  If it has read none, whether it may read all of the bucket's.
  """
  bucket, _ = _bucket(uri)
  if last := _last_read.get(bucket.name):
    try:
      exists(last)
    except PermissionError:
      return False
    return True
  with translate_errors(uri):
    return bool(bucket.test_iam_permissions([READ], **CALL))


def open_bytes(uri: str) -> BinaryIO:
  """Opens an object for reading, in any order."""
  blob = _blob(uri)
  with translate_errors(uri):
    blob.reload(**CALL)
  return gcs_reader.open_blob(blob, uri, **CALL)


def read(uri: str, limit: int | None) -> bytes:
  """Returns the content, in one request; raises ValueError if it has more than `limit` bytes.

  The library skips the checksum if a broken download was continued; this does not.
  """
  blob, held = _blob(uri), gcs_reader.Limited()
  held.limit = limit
  with translate_errors(uri):
    blob.download_to_file(held, raw_download=True, checksum=None, **CALL)
  content = held.getvalue()
  gcs_reader.verify(uri, gcs_reader.crc32c(content), blob.crc32c)
  _last_read[blob.bucket.name] = uri
  return content


def write(uri: str, content: bytes, durable: bool = True) -> None:
  """Creates the object, or replaces the current generation."""
  gcs_writer.upload(_blob(uri), uri, io.BytesIO(content), **CALL)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[BinaryIO]:
  """Yields a temporary local file, which is uploaded at the end of the block."""
  blob = _blob(uri)
  with tempfile.TemporaryFile() as file:
    yield file
    gcs_writer.upload(blob, uri, file, **CALL)


def remove(uris: Iterable[str]) -> None:
  """Deletes those objects that exist."""
  _for_each(_remove, uris)


def _remove(uri: str) -> None:
  """Deletes an object. If it is gone, an earlier attempt may have deleted it."""
  with translate_errors(uri), contextlib.suppress(exceptions.NotFound):
    _blob(uri).delete(**CALL)


def _for_each(do: Callable[[str], object], names: Iterable[str]) -> None:
  """Calls `do` for each in threads; a batch request would not report which parts failed."""
  with concurrent.futures.ThreadPoolExecutor(FOLDER_THREADS) as pool:
    list(pool.map(do, names))


def remove_folder(directory: str) -> None:
  """Deletes everything in a folder."""
  remove([file.uri for file in _inside(directory)])


def publish(source: str, directory: str, last: str) -> None:
  """Replaces `directory` by a copy of the local folder `source`, removing `last` first."""
  remove([f'{directory.rstrip("/")}/{last}'])
  remove_folder(directory)
  copy(source, directory, last)


def copy(source: str, directory: str, last: str) -> None:
  """Uploads the local folder `source` into `directory`, the file called `last` last."""
  target = f'{directory.rstrip("/")}/'

  def upload(name: str) -> None:
    """Writes one file of the folder."""
    with open(os.path.join(source, name), 'rb') as file:
      gcs_writer.upload(_blob(target + name), target + name, file, **CALL)

  names = [
    os.path.relpath(os.path.join(root, name), source)
    for root, _, names in os.walk(source)
    for name in names
  ]
  _for_each(upload, [name for name in names if name != last])
  upload(last)


@contextlib.contextmanager
def local_copy(directory: str) -> Iterator[str]:
  """Yields a temporary directory with everything in a folder."""
  prefix = f'{directory.rstrip("/")}/'
  with tempfile.TemporaryDirectory() as scratch:

    def download(uri: str) -> None:
      """Copies one object to the directory."""
      if uri.endswith('/'):  # what other programs create in place of a folder
        return
      path = os.path.join(scratch, uri.removeprefix(prefix))
      os.makedirs(os.path.dirname(path), exist_ok=True)
      with open_bytes(uri) as stored, open(path, 'wb') as file:
        shutil.copyfileobj(stored, file, gcs_reader.MAX_RANGE_BYTES)

    _for_each(download, [file.uri for file in _inside(directory)])
    yield scratch
