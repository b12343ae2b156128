"""What a pattern or a directory names on this machine's file system.

A name that exists is meant as it stands, whatever characters it has. Wildcards match as in a shell,
no name that begins with a dot among them. Each directory is read once, whatever links lead to it.
"""

import collections
import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence

from storage.base import File

WILDCARDS = frozenset('*?[')
HIDDEN_FILE, HIDDEN_DIRECTORY = 'hidden file', 'hidden directory'
DIRECTORY, LINK = 'directory', 'link to a directory'
SPECIAL = 'special file'  # a pipe, socket or device
NO_DIRECTORY = (FileNotFoundError, NotADirectoryError)

Counts = collections.Counter[str]


def match(pattern: str, passed_over: Counts) -> Iterator[File]:
  """Yields the files that a pattern names, in any order, and counts what it passes over by kind.

  A pattern with several `**` may yield a file more than once.

  Raises:
    OSError: the pattern is the name of a pipe, socket or device; a directory cannot be read.
  """
  if not os.path.lexists(pattern):
    names = pattern.split('/')
    yield from _expand('', names, passed_over)
  elif not os.path.isdir(pattern):
    found = list(_sized(pattern, passed_over))
    if not found:
      raise OSError(f'{pattern}: is a pipe, a socket or a device; copy its content into a file')
    yield from found


def list_files(directory: str, passed_over: Counts) -> Iterator[File]:
  """Yields all files in a directory and its subdirectories, as `match` does; none if it is none."""
  if os.path.isdir(directory):
    yield from _below(directory.rstrip('/') + '/', [], passed_over)


def _expand(prefix: str, names: Sequence[str], passed_over: Counts) -> Iterator[File]:
  """Yields the files that the names, from a directory down, stand for.

  Args:
    prefix: the directory's path, '' or with a slash at its end.
    names: of the directories below it and, last, of the file; each a name or a pattern.
    passed_over: where to count.
  """
  name, *rest = names
  path = prefix + name
  if not WILDCARDS & set(name) or (name and os.path.lexists(path)):
    if rest:
      yield from _expand(f'{path}/' if name or not prefix else prefix, rest, passed_over)
    elif name and os.path.lexists(path) and not os.path.isdir(path):
      yield from _sized(path, passed_over)
  elif name != '**':
    yield from _expand_wildcard(prefix, name, rest, passed_over)
  elif os.path.isdir(prefix or '.'):
    yield from _below(prefix, rest, passed_over)


def _below(prefix: str, names: Sequence[str], passed_over: Counts) -> Iterator[File]:
  """Yields the files that the names stand for in a directory and in all below it; all if none."""
  for directory, entries in _walk(prefix, passed_over):
    if names:
      counts = Counts()
      yield from _expand(directory, names, counts)
      walked = counts.keys() - {DIRECTORY, HIDDEN_DIRECTORY}  # which are counted already
      passed_over.update({kind: counts[kind] for kind in walked})
    else:
      yield from _files(directory, _visible(entries, passed_over), passed_over)


def _expand_wildcard(
  prefix: str, name: str, rest: Sequence[str], passed_over: Counts
) -> Iterator[File]:
  fits = re.compile(fnmatch.translate(name)).match
  entries = [entry for entry in _entries(prefix) if fits(entry.name)]
  if not name.startswith('.'):
    entries = _visible(entries, passed_over)
  if not rest:
    passed_over.update(DIRECTORY for entry in entries if _is_directory(entry))
    yield from _files(prefix, entries, passed_over)
    return
  for entry in entries:
    if _is_directory(entry):
      yield from _expand(f'{prefix}{entry.name}/', rest, passed_over)


def _walk(prefix: str, passed_over: Counts) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
  """Yields a directory and all below it, each once: its prefix and its entries.

  Links to directories come last, so that a directory is known by its own name if it has one here.
  A link upwards is passed over: what is beside the directory was not named.
  """
  seen = _ancestors(prefix)
  pending, links = collections.deque([prefix]), collections.deque[str]()
  while pending or links:
    directory = (pending or links).popleft()
    status = os.stat(directory or '.')
    if (status.st_dev, status.st_ino) in seen:
      passed_over[LINK] += 1
      continue
    seen.add((status.st_dev, status.st_ino))
    entries = _entries(directory)
    directories = [entry for entry in entries if _is_directory(entry)]
    for entry in _visible(directories, passed_over):
      (links if entry.is_symlink() else pending).append(f'{directory}{entry.name}/')
    yield directory, [entry for entry in entries if not _is_directory(entry)]


def _ancestors(prefix: str) -> set[tuple[int, int]]:
  """Returns device and inode of every directory that contains this one."""
  path, found = os.path.realpath(prefix or '.'), set()
  while path != (parent := os.path.dirname(path)):
    status = os.stat(parent)
    found.add((status.st_dev, status.st_ino))
    path = parent
  return found


def _entries(prefix: str) -> list[os.DirEntry[str]]:
  """Returns the entries of a directory, sorted; none if there is no such directory."""
  try:
    with os.scandir(prefix or '.') as entries:
      return sorted(entries, key=_name)
  except NO_DIRECTORY:
    return []
  except PermissionError as error:
    if prefix.endswith('lost+found/'):  # of every ext4 disk, and root's
      return []
    raise PermissionError(
      f'{prefix}: the directory cannot be read (permission denied); permit it, or name others'
    ) from error


def _name(entry: os.DirEntry[str]) -> str:
  return entry.name


def _visible(entries: Sequence[os.DirEntry[str]], passed_over: Counts) -> list[os.DirEntry[str]]:
  hidden = [entry for entry in entries if entry.name.startswith('.')]
  for entry in hidden:
    passed_over[HIDDEN_DIRECTORY if _is_directory(entry) else HIDDEN_FILE] += 1
  return [entry for entry in entries if not entry.name.startswith('.')] if hidden else [*entries]


def _is_directory(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # a link that leads nowhere; its reader will report it
    return False


def _files(prefix: str, entries: Sequence[os.DirEntry[str]], passed_over: Counts) -> Iterator[File]:
  for entry in entries:
    if not _is_directory(entry):
      yield from _sized(f'{prefix}{entry.name}', passed_over)


def _sized(path: str, passed_over: Counts) -> Iterator[File]:
  """Yields a file unless it is none or is gone.

  A link that leads nowhere has size 0; its reader will report it.
  """
  try:
    status = os.stat(path)
  except OSError as error:
    if os.path.islink(path):
      yield File(path, 0)
    elif error.errno != errno.ENOENT:
      raise
    return
  if stat.S_ISREG(status.st_mode):
    yield File(path, status.st_size)
  else:
    passed_over[SPECIAL] += 1
