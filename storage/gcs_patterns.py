"""Patterns of names in a bucket, which has no directories, with the meaning a shell gives them."""

import re
from collections.abc import Callable, Iterator

WILDCARDS = ('*', '?', '[')
TOKEN = re.compile(r'(\*\*/|\*\*|\*|\?|\[!?[^]/]+\])')
VISIBLE = r'(?!\.)[^/]'  # how a name begins that a wildcard may match
MEANINGS = {
  '**/': f'(?:{VISIBLE}[^/]*/)*',
  '**': f'(?:{VISIBLE}[^/]*/)*{VISIBLE}[^/]*',
  '*': '[^/]*',
  '?': '[^/]',
}

Reading = Callable[[str], re.Match[str] | None]  # of a pattern: matches a name


def literal_prefix(pattern: str) -> str:
  """Returns the literal prefix of all matches."""
  return re.split(r'[*?[]', pattern, maxsplit=1)[0]


def compiled(pattern: str) -> re.Pattern[str]:
  """Returns the regular expression of a pattern.

  `**` between or after slashes is any number of directories.
  """
  text, before = '', '/'
  for token in TOKEN.split(pattern):
    if before.endswith('/') and token[:1] in WILDCARDS and not token.startswith('**'):
      text += r'(?!\.)'
    text += _meaning(token)
    before = token or before
  return re.compile(text)


def readings(pattern: str) -> Iterator[Reading]:
  """Yields what a pattern may mean, as functions that match a name, the most literal one first.

  A folder or an object whose name has wildcards in it is meant as it stands, if it exists.
  """
  parts = pattern.split('/')
  wild = [index for index, part in enumerate(parts) if set(part) & set(WILDCARDS)]
  for first in [len(parts), *reversed(wild)]:
    head, tail = '/'.join(parts[:first]), '/'.join(parts[first:])
    slash = '/' if head and tail else ''
    yield re.compile(re.escape(head + slash) + compiled(tail).pattern).fullmatch


def _meaning(token: str) -> str:
  if token in MEANINGS:
    return MEANINGS[token]
  if TOKEN.fullmatch(token):
    return '[' + re.sub(r'^!', '^', token[1:-1].replace('\\', r'\\')) + ']'
  return re.escape(token)
