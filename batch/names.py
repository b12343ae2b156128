"""Ids as valid UTF-8, whatever bytes the name of a file consists of."""

import dataclasses
import os
import urllib.parse
from collections.abc import Sequence

from batch import chunk

SCHEME = 'file:'
SAFE = (
  '/!$&\'()*+,;=:@ #?[]|{}^`<>"\\'  # characters that need no escape where no browser reads them
)


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
  if character == '%' or '\udc80' <= character <= '\udcff':
    return f'%{os.fsencode(character)[0]:02X}'
  return character if character.isprintable() else urllib.parse.quote(character, errors='replace')


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


def with_exact_ids(images: chunk.ReadImages) -> chunk.ReadImages:
  """Returns the images with all ids, and the rejects' reasons, as valid UTF-8."""
  if _is_utf8(images.ids) and all(_is_utf8(dataclasses.astuple(each)) for each in images.rejects):
    return images
  return dataclasses.replace(
    images,
    ids=[exact(name) for name in images.ids],
    rejects=[
      chunk.Reject(exact(each.id), each.stage, each.reason.encode('utf-8', 'replace').decode())
      for each in images.rejects
    ],
  )


def _is_utf8(names: Sequence[str]) -> bool:
  try:
    ''.join(names).encode()
  except UnicodeEncodeError:
    return False
  return True
