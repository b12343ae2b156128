"""Files on this machine."""

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator


def match(pattern: str) -> Iterator[tuple[str, int]]:
  """(path, size in bytes) of the files that a pattern names."""
  if os.path.isfile(pattern):  # a name may hold [ or *
    yield pattern, os.path.getsize(pattern)
    return
  for path in glob.iglob(pattern, recursive=True):
    yield from _sized(path)


def under(directory: str) -> Iterator[tuple[str, int]]:
  return match(os.path.join(glob.escape(directory), '**'))


def _sized(path: str) -> Iterator[tuple[str, int]]:
  """Itself with its size, unless it is a directory. A link to nothing is left to whoever reads it."""
  try:
    status = os.stat(path)
  except OSError:
    if os.path.islink(path):
      yield path, 0
    return
  if not stat.S_ISDIR(status.st_mode):
    yield path, status.st_size


def read(path: str, limit: int | None) -> bytes:
  with open(path, 'rb') as file:
    content = file.read() if limit is None else file.read(limit + 1)
  if limit is not None and len(content) > limit:
    raise ValueError(f'the file has more than {limit} bytes')
  return content


def write(path: str, content: bytes, durable: bool) -> None:
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  with _beside(path) as incomplete, open(incomplete, 'wb') as file:
    file.write(content)
    if durable:
      file.flush()
      os.fsync(file.fileno())


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
  """A file in the same directory, which takes the place of `path` when nothing goes wrong."""
  handle, incomplete = tempfile.mkstemp(
    dir=os.path.dirname(path) or '.', prefix='.' + os.path.basename(path)
  )
  os.close(handle)
  try:
    yield incomplete
    os.chmod(incomplete, 0o644)
    os.replace(incomplete, path)
  except BaseException:
    os.unlink(incomplete)
    raise


def remove(paths: Iterable[str]) -> None:
  for path in paths:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)


def remove_folder(directory: str) -> None:
  if os.path.lexists(directory):
    shutil.rmtree(directory)


def publish(source: str, directory: str, last: str) -> None:
  incomplete = f'{directory.rstrip("/")}.incomplete-{os.getpid()}'
  shutil.copytree(source, incomplete)
  remove_folder(directory)
  os.rename(incomplete, directory)


def copy(source: str, directory: str, last: str) -> None:
  shutil.copytree(
    source,
    directory,
    dirs_exist_ok=True,
    ignore=lambda folder, _: [last] if folder == source else [],
  )
  shutil.copy(os.path.join(source, last), directory)
