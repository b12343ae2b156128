"""Repairs of fake-gcs-server where it differs from Cloud Storage and our tests would notice.

It appends a part of a resumable upload that is sent again, forgets an upload that is complete, does
not report how far one is, and starts one whatever its ifGenerationMatch. It does not know that a
bucket has a layout, for which TensorFlow asks before it renames.
"""

import json
import re
import urllib.parse

PART = re.compile(rb'(?i)\r\ncontent-range: *bytes (?:\*|\d+-(\d+))/')

FLAT_LAYOUT = (
  b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\r\n'
  b'{"hierarchicalNamespace":{"enabled":false}}'
)


def asks_for_layout(head: bytes) -> bool:
  """Returns whether a request is TensorFlow's question about the layout."""
  return target(head)[0].endswith('/storageLayout')


def target(head: bytes) -> tuple[str, dict[str, str]]:
  """Returns path and query of a request."""
  url = urllib.parse.urlsplit(head.split(b' ', 2)[1].decode())
  return url.path, dict(urllib.parse.parse_qsl(url.query))


class Uploads:
  """The resumable uploads so far."""

  def __init__(self) -> None:
    self.finished: dict[str, bytes] = {}  # the answer by upload id
    self.persisted: dict[str, int] = {}  # bytes

  def known(self, head: bytes) -> bytes | None:
    """Returns the answer to a part that has arrived, or to the question how much has.

    Returns None for any other request.
    """
    upload, part = target(head)[1].get('upload_id', ''), PART.search(head)
    if not upload or not part:
      return None
    if upload in self.finished:
      return self.finished[upload]
    persisted = self.persisted.get(upload, 0)
    if part[1] and int(part[1]) >= persisted:
      return None
    held = b'Range: bytes=0-%d\r\n' % (persisted - 1) if persisted else b''
    return b'HTTP/1.1 308 Resume Incomplete\r\n' + held + b'Content-Length: 0\r\n\r\n'

  def remember(self, head: bytes, answer: bytes) -> None:
    """Records the server's answer to a part."""
    upload, part = target(head)[1].get('upload_id', ''), PART.search(head)
    status = answer.split(b' ', 2)[1]
    if upload and status == b'200':
      self.finished[upload] = answer
    elif upload and part and part[1] and status == b'308':
      self.persisted[upload] = int(part[1]) + 1


def condition(head: bytes, body: bytes) -> tuple[str, str] | None:
  """Returns the object's path and the generation it must have ('0': none), or None.

  They are known at the start of a resumable upload.
  """
  path, query = target(head)
  if (
    query.get('uploadType') != 'resumable'
    or 'ifGenerationMatch' not in query
    or not head.startswith(b'POST')
  ):
    return None
  name = query.get('name') or json.loads(body)['name']
  return f'{path.removeprefix("/upload")}/{urllib.parse.quote(name, safe="")}', query[
    'ifGenerationMatch'
  ]
