"""Ids as valid UTF-8, whatever bytes the name of a file consists of."""

import os
import urllib.parse

SCHEME = 'file:'


def exact(name: str) -> str:
  """Returns a name as valid UTF-8 that tells all of its bytes.

  Python has a surrogate for a byte that is not UTF-8. A name that contains one becomes a file: URI,
  in which such bytes, and only these and the percent sign, are escaped: `file:in/caf%E9.png`.
  """
  try:
    name.encode()
  except UnicodeEncodeError:
    return SCHEME + ''.join(_escaped(character) for character in name)
  return name


def _escaped(character: str) -> str:
  if '\udc80' <= character <= '\udcff':
    return f'%{ord(character) - 0xDC00:02X}'
  return '%25' if character == '%' else character.encode('utf-8', 'replace').decode()


def from_uri(uri: str) -> str:
  """Returns the path that a file: URI names, `file:///a`, `file://localhost/a`, or `file:a`.

  Raises:
    ValueError: it names another machine.
  """
  path = uri.removeprefix(SCHEME)
  if path.startswith('//'):
    host, slash, path = path[2:].partition('/')
    if host not in ('', 'localhost'):
      raise ValueError(f'{SCHEME}//{host} is another machine; mount its disk and name a path there')
    path = slash + path
  return os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(path)))
