"""An object written in one step: repeated safely, checked, and never mixed with another's."""

import io
import mimetypes
from typing import BinaryIO

import google_crc32c
from google.api_core import exceptions
from google.cloud import storage as cloud_storage

from storage import gcs_reader
from storage.gcs_errors import translate_errors

PART_BYTES = 8 << 20  # larger content is uploaded in parts, each of which can be repeated
MAX_WRITE_ATTEMPTS = 3  # for an object that others write too


def upload(blob: cloud_storage.Blob, uri: str, file: BinaryIO, **call) -> None:
  """Creates the object, or replaces the current generation, with the content of a file.

  The precondition makes repeating a call safe. If it fails although the content is ours, an earlier
  attempt arrived and its answer did not, or another worker wrote the same bytes: both are success.

  Raises:
    OSError: another process keeps writing something else there.
  """
  checksum, generation = _checksum(file), 0
  blob.chunk_size = PART_BYTES
  kind = mimetypes.guess_type(uri)[0] or 'application/octet-stream'  # browsers show a report
  with translate_errors(uri, only_the_bucket=True):
    for _ in range(MAX_WRITE_ATTEMPTS):
      try:
        blob.upload_from_file(
          file,
          rewind=True,
          size=_size(file),
          content_type=kind,
          checksum='crc32c',
          if_generation_match=generation,
          **call,
        )
        return
      except (exceptions.PreconditionFailed, exceptions.NotFound) as error:
        found = blob.bucket.get_blob(blob.name, **call)
        if found and found.crc32c == checksum:
          return
        if not found and isinstance(error, exceptions.NotFound):
          raise
        generation = found.generation if found else 0
  raise OSError(
    f'{uri}: another process writes something else there too; let one of them write elsewhere'
  )


def _size(file: BinaryIO) -> int:
  size = file.seek(0, io.SEEK_END)
  file.seek(0)
  return size


def _checksum(file: BinaryIO) -> str:
  """Returns the crc32c of a file's content, as Cloud Storage writes it."""
  checksum = google_crc32c.Checksum()
  file.seek(0)
  while part := file.read(PART_BYTES):
    checksum.update(part)
  return gcs_reader.as_text(checksum)
