"""Patterns of names in a bucket, which has no directories, read as a shell reads them on a disk."""

import re

WILDCARDS = ('*', '?', '[')
TOKEN = re.compile(r'(\*\*/|\*\*|\*|\?|\[!?[^]/]+\])')
SHOWN = r'(?!\.)[^/]'  # how a name begins that a wildcard may match
MEANINGS = {
  '**/': f'(?:{SHOWN}[^/]*/)*',
  '**': f'(?:{SHOWN}[^/]*/)*{SHOWN}[^/]*',
  '*': '[^/]*',
  '?': '[^/]',
}


def literal_prefix(pattern: str) -> str:
  """What every name that matches begins with."""
  return re.split(r'[*?[]', pattern, maxsplit=1)[0]


def compiled(pattern: str) -> re.Pattern[str]:
  """What matches the names that the pattern does; `**` between or after slashes is any number of directories."""
  text, before = '', '/'
  for token in TOKEN.split(pattern):
    if before.endswith('/') and token[:1] in WILDCARDS and not token.startswith('**'):
      text += r'(?!\.)'
    text += _meaning(token)
    before = token or before
  return re.compile(text)


def _meaning(token: str) -> str:
  if token in MEANINGS:
    return MEANINGS[token]
  if TOKEN.fullmatch(token):
    return '[' + re.sub(r'^!', '^', token[1:-1].replace('\\', r'\\')) + ']'
  return re.escape(token)
