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

from storage.base import OUTAGES, File
from storage.spool import Spool

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
  for directory, inside in _walk(prefix, passed_over):
    if names:
      counts = Counts()
      yield from _expand(directory, names, counts)
      walked = counts.keys() - {DIRECTORY, HIDDEN_DIRECTORY}  # which are counted already
      passed_over.update({kind: counts[kind] for kind in walked})
      continue
    for name in inside:
      if not _is_hidden(name, HIDDEN_FILE, passed_over):
        yield from _sized(f'{directory}{name}', passed_over)


def _expand_wildcard(
  prefix: str, name: str, rest: Sequence[str], passed_over: Counts
) -> Iterator[File]:
  fits = re.compile(fnmatch.translate(name)).match
  directories = []
  for entry in _entries(prefix):
    if not fits(entry.name):
      continue
    is_directory = _is_directory(entry)
    kind = HIDDEN_DIRECTORY if is_directory else HIDDEN_FILE
    if name[0] != '.' and _is_hidden(entry.name, kind, passed_over):
      continue
    if is_directory:
      directories.append(f'{prefix}{entry.name}/')
    elif not rest:
      yield from _sized(f'{prefix}{entry.name}', passed_over)
  if not rest:
    passed_over.update(DIRECTORY for _ in directories)
    return
  for directory in directories:
    yield from _expand(directory, rest, passed_over)


def _walk(prefix: str, passed_over: Counts) -> Iterator[tuple[str, Spool[str]]]:
  """Yields a directory and all below it, each once: its prefix and its files' names.

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
    directories, to_links, inside = list[str](), list[str](), Spool[str]()
    for entry in _entries(directory):
      if not _is_directory(entry):
        inside.append(entry.name)
      elif not _is_hidden(entry.name, HIDDEN_DIRECTORY, passed_over):
        (to_links if entry.is_symlink() else directories).append(f'{directory}{entry.name}/')
    pending.extend(sorted(directories))
    links.extend(sorted(to_links))
    yield directory, inside


def _ancestors(prefix: str) -> set[tuple[int, int]]:
  """Returns device and inode of every directory that contains this one."""
  path, found = os.path.realpath(prefix or '.'), set()
  while path != (parent := os.path.dirname(path)):
    status = os.stat(parent)
    found.add((status.st_dev, status.st_ino))
    path = parent
  return found


def _entries(prefix: str) -> Iterator[os.DirEntry[str]]:
  """Yields the entries of a directory, in any order; none if there is no such directory."""
  try:
    with os.scandir(prefix or '.') as entries:
      yield from entries
  except NO_DIRECTORY:
    return
  except PermissionError as error:
    if prefix.endswith('lost+found/'):  # of every ext4 disk, and root's
      return
    raise PermissionError(
      f'{prefix}: the directory cannot be read (permission denied); permit it, or name others'
    ) from error


def _is_hidden(name: str, kind: str, passed_over: Counts) -> bool:
  """Returns whether a name is hidden, and counts it then."""
  if not name.startswith('.'):
    return False
  passed_over[kind] += 1
  return True


def _is_directory(entry: os.DirEntry[str]) -> bool:
  """Returns whether an entry is a directory; a link that leads nowhere is none.

  Raises:
    OSError: it is a link to what cannot be reached, which may be a directory.
  """
  try:
    return entry.is_dir()
  except PermissionError as error:
    raise PermissionError(
      f'{entry.path}: what this link leads to cannot be reached (permission denied); permit it, or '
      'name others'
    ) from error
  except OSError as error:
    if error.errno in OUTAGES:
      raise
    return False


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
