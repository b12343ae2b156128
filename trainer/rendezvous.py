"""The wait for the other hosts, in Python: TensorFlow would wait where no signal is heard.

Each host listens on its own port until it has reached all others on theirs, where they listen in
the same way, or TensorFlow already does.
"""

import socket
import time
from collections.abc import Iterable, Sequence

from absl import app, logging

from trainer import exit_codes, failures

TRY_SECONDS = 0.5  # between two tries to reach the others
CONNECT_SECONDS = 5.0
WAIT_SECONDS = 3600.0  # as long as TensorFlow itself would wait


def split(address: str) -> tuple[str, int]:
  """Returns the host and the port of an address; an IPv6 host may be in brackets."""
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def wait(addresses: Sequence[str], own: int, lookup_seconds: float) -> None:
  """Returns once every host has been reached, and this one's name, at position `own`, is known.

  Raises:
    app.UsageError: this host's port is taken, or a name still has no address after so many seconds.
    failures.Failure: a host did not come within an hour.
  """
  others = [address for i, address in enumerate(addresses) if i != own]
  started, warned = time.monotonic(), ''
  with _listening(addresses[own]):
    while True:
      others = _unreached(others)
      # TensorFlow uses this host's own name, too.
      unknown = '; '.join(filter(None, map(_unknown_name, [*others, addresses[own]])))
      if not others and not unknown:
        return
      waited = time.monotonic() - started
      if unknown and waited >= lookup_seconds:
        raise app.UsageError(
          f'TF_CONFIG: {unknown}; correct it, or pass a larger --lookup_seconds '
          f'(now {lookup_seconds})'
        )
      if waited >= WAIT_SECONDS:
        raise failures.Failure(f'{", ".join(others)} did not come', exit_codes.LOST_HOST)
      if unknown != warned:
        logging.warning('TF_CONFIG: %s', unknown or 'every host has an address now')
        warned = unknown
      time.sleep(TRY_SECONDS)


def _listening(address: str) -> socket.socket:
  """Returns a socket on this host's port, to be closed before TensorFlow takes it.

  Connections stay in its queue: the others only want to know that this host is there.
  """
  port = split(address)[1]
  try:
    if socket.has_dualstack_ipv6():
      return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(('', port))
  except OSError as error:
    raise app.UsageError(
      f'TF_CONFIG: port {port} of this host, {address}, cannot be used ({error.strerror}); end the '
      'process that has it, or pass another port on every host'
    ) from error


def _unreached(addresses: Iterable[str]) -> list[str]:
  return [address for address in addresses if not _is_reached(address)]


def _is_reached(address: str) -> bool:
  try:
    with socket.create_connection(split(address), CONNECT_SECONDS) as connection:
      # On one machine a connection to a free port can, by chance, come from that port itself.
      return connection.getsockname() != connection.getpeername()
  except (OSError, UnicodeError):
    return False


def _unknown_name(address: str) -> str:
  """Returns why the name in an address has no address; empty if it has one."""
  host, port = split(address)
  try:
    socket.getaddrinfo(host, port)
  except (OSError, UnicodeError) as error:
    return f'{host} has no address ({getattr(error, "strerror", None) or error})'
  return ''
