"""A proxy before the bucket server: failures, and TLS for clients that know only Google's names.

  python tests/bucket_proxy.py --upstream=127.0.0.1:4443 --port=8080 --every=20 \
    --certificate=certificate.pem

One port takes plain HTTP (STORAGE_EMULATOR_HOST) and CONNECT (HTTPS_PROXY), behind which it is
www.googleapis.com and storage.googleapis.com; --tls_port is these two directly, for a network that
gives its address their names. Needs only Python, so any container can run it.

One request in --every is answered 503, reads and writes counted separately. Writes fail alternately
after they took effect, as if the answer was lost, and before. /proxy returns the counts;
/proxy?every=N changes N, 0 for never; /proxy?delay=N lets each answer take N ms more;
/proxy?reads=N lets N more reads pass and then answers
everything with 503, until /proxy?reads=-1.
"""

import argparse
import asyncio
import collections
import json
import re
import ssl

import bucket_repairs  # lies beside this file

HOSTS = {b'www.googleapis.com:443', b'storage.googleapis.com:443'}
# fake-gcs-server answers 501 to Transfer-Encoding: identity, which TensorFlow sends; a body is
# passed on whole.
FRAMING = re.compile(rb'(?i)(transfer-encoding|content-length|expect|connection|proxy-connection):')
LIMIT = 1 << 20
UNAVAILABLE = (
  b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\nContent-Type: text/plain\r\n\r\n'
  b'try again'
)
PRECONDITION_FAILED = (
  b'HTTP/1.1 412 Precondition Failed\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n'
  b'{}'
)


class Failures:
  """Decides which requests fail, and counts."""

  def __init__(self, every: int):
    self.every, self.counts = every, collections.Counter[str]()
    self.reads_left = -1  # until an outage; -1: there is none
    self.delay_seconds = 0.0

  def of(self, head: bytes) -> str:
    """Returns 'before' or 'after' if the request fails before or after it takes effect, else ''."""
    kind = 'reads' if head.startswith((b'GET', b'HEAD')) else 'writes'
    self.counts[kind] += 1
    if self.reads_left == 0:
      return 'before'
    if kind == 'reads' and self.reads_left > 0:
      self.reads_left -= 1
    if not self.every or self.counts[kind] % self.every:
      return ''
    self.counts[f'failed_{kind}'] += 1
    when = 'after' if kind == 'writes' and self.counts['failed_writes'] % 2 else 'before'
    self.counts[when] += 1
    return when

  def answer(self, head: bytes) -> bytes:
    """Obeys a request to /proxy and answers it with the counts."""
    if asked := re.match(rb'\S+ /proxy\?every=(\d+)', head):
      self.every = int(asked[1])
    if asked := re.match(rb'\S+ /proxy\?delay=(\d+)', head):
      self.delay_seconds = int(asked[1]) / 1000
    if asked := re.match(rb'\S+ /proxy\?reads=(-?\d+)', head):
      self.reads_left = int(asked[1])
    body = json.dumps({'every': self.every, **self.counts}).encode()
    return b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)


async def read_head(reader: asyncio.StreamReader) -> bytes:
  try:
    return await reader.readuntil(b'\r\n\r\n')
  except asyncio.IncompleteReadError:
    return b''


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
  lower = head.lower()
  if b'\r\ntransfer-encoding: chunked' not in lower:
    length = re.search(rb'\r\ncontent-length: *(\d+)', lower)
    return await reader.readexactly(int(length[1])) if length else b''
  body = b''
  while size := int((await reader.readline()).split(b';')[0], 16):
    body += (await reader.readexactly(size + 2))[:-2]
  await reader.readline()
  return body


class Upstream:
  """One connection to the bucket server, opened again when necessary."""

  def __init__(self, host: str, port: int):
    self.address = host, port
    self.reader: asyncio.StreamReader | None = None
    self.writer: asyncio.StreamWriter | None = None

  async def ask(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Sends a request and returns the head and the body of the answer."""
    if self.writer is None or self.writer.is_closing():
      self.reader, self.writer = await asyncio.open_connection(*self.address, limit=LIMIT)
    assert self.reader
    lines = [line for line in head[:-4].split(b'\r\n') if not FRAMING.match(line)]
    self.writer.write(b'\r\n'.join(lines) + b'\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    await self.writer.drain()
    answer = await read_head(self.reader)
    without = head.startswith(b'HEAD') or answer.split(b' ', 2)[1:2] in ([b'204'], [b'304'])
    content = b'' if without else await read_body(self.reader, answer)
    if b'\r\nconnection: close' in answer.lower():
      self.close()
    return answer, content

  def close(self) -> None:
    if self.writer:
      self.writer.close()
    self.writer = None


class Proxy:
  """Serves connections of all three kinds."""

  def __init__(self, upstream: tuple[str, int], tls: ssl.SSLContext | None, failures: Failures):
    self.upstream, self.tls, self.failures = upstream, tls, failures
    self.uploads = bucket_repairs.Uploads()

  async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream = Upstream(*self.upstream)
    try:
      while head := await read_head(reader):
        if head.startswith(b'CONNECT '):
          if not await self.start_tls(head, writer):
            break
          continue
        writer.write(await self.answer(head, reader, writer, upstream))
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
      pass  # a client that went away, perhaps killed
    finally:
      upstream.close()
      writer.close()

  async def start_tls(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
    known = self.tls is not None and head.split()[1] in HOSTS
    writer.write(
      b'HTTP/1.1 200 OK\r\n\r\n'
      if known
      else b'HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n'
    )
    await writer.drain()
    if known:
      await writer.start_tls(self.tls)  # type: ignore[arg-type]
    return known

  async def answer(self, head: bytes, reader, writer, upstream: Upstream) -> bytes:
    if re.match(rb'\S+ /proxy\b', head):
      return self.failures.answer(head)
    if b'\r\nexpect: 100' in head.lower():
      writer.write(b'HTTP/1.1 100 Continue\r\n\r\n')
      await writer.drain()
    body = await read_body(reader, head)
    when = self.failures.of(head)
    await asyncio.sleep(self.failures.delay_seconds)
    if when == 'before':
      return UNAVAILABLE
    answer = self.uploads.known(head) or await self.ask(head, body, upstream)
    self.uploads.remember(head, answer)
    if when == 'after' and answer.split(b' ', 2)[1] < b'400':
      return UNAVAILABLE
    if writer.get_extra_info('sslcontext'):  # the server was asked without TLS
      answer = re.sub(rb'(?i)(\r\nlocation: )http://', rb'\1https://', answer, count=1)
    return answer

  async def ask(self, head: bytes, body: bytes, upstream: Upstream) -> bytes:
    """Returns the server's whole answer."""
    if bucket_repairs.asks_for_layout(head):
      return bucket_repairs.FLAT_LAYOUT
    if condition := bucket_repairs.condition(head, body):
      path, wanted = condition
      found, content = await upstream.ask(
        b'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n' % path.encode(), b''
      )
      generation = json.loads(content)['generation'] if found.split(b' ', 2)[1] == b'200' else '0'
      if generation != wanted:
        return PRECONDITION_FAILED
    answer, content = await upstream.ask(head, body)
    return (
      re.sub(
        rb'(?i)\r\ntransfer-encoding: chunked', b'\r\nContent-Length: %d' % len(content), answer
      )
      + content
    )


async def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--upstream', required=True, help='HOST:PORT of the bucket server')
  parser.add_argument('--bind', default='127.0.0.1')
  parser.add_argument(
    '--port', type=int, default=0, help='0 takes a free one; it is the first line printed'
  )
  parser.add_argument('--tls_port', type=int, help='also TLS directly')
  parser.add_argument('--certificate', help="PEM file with Google's names: key and chain")
  parser.add_argument('--every', type=int, default=0)
  flags = parser.parse_args()
  tls = None
  if flags.certificate:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(flags.certificate)
  host, _, port = flags.upstream.rpartition(':')
  proxy = Proxy((host, int(port)), tls, Failures(flags.every))
  servers = [await asyncio.start_server(proxy.serve, flags.bind, flags.port, limit=LIMIT)]
  if flags.tls_port is not None:
    servers.append(
      await asyncio.start_server(proxy.serve, flags.bind, flags.tls_port, ssl=tls, limit=LIMIT)
    )
  print(servers[0].sockets[0].getsockname()[1], flush=True)
  await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == '__main__':
  asyncio.run(main())
