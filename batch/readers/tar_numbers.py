"""Fields of tar headers: numbers, names, checksums and pax records."""

import zlib

BLOCK = 512
ADLER = 65521


def is_header(block: bytes) -> bool:
  """Returns whether a block is a header: whether it has a size and the right checksum.

  The checksum is the sum of all bytes. Adler-32 begins with it, modulo ADLER, and is 20 times as
  fast as Python's sum. Some old programs summed signed bytes.
  """
  if len(block) < BLOCK or number(block[124:136]) < 0:
    return False
  own = block[148:156]
  expected = number(own) + sum(own) - 8 * 32 + 1
  if ((zlib.adler32(block) & 0xFFFF) - expected) % ADLER == 0:
    return True
  total = sum(block[:148]) + 8 * 32 + sum(block[156:])
  return number(own) == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def number(field: bytes) -> int:
  """Returns a number, octal or GNU's binary, or -1 if it is neither."""
  digits = field.strip(b' \0')
  if digits.isdigit():
    try:
      return int(digits, 8)
    except ValueError:
      return -1
  if field[0] & 0x80:
    return int.from_bytes(field, 'big') & ((1 << (8 * len(field) - 1)) - 1)
  digits = field.partition(b'\0')[0].strip(b' ')  # old programs left something behind a NUL
  return number(digits) if digits.isdigit() else -1 if digits else 0


def text(field: bytes) -> str:
  """Returns a name up to its first NUL; each byte that is not UTF-8 becomes a backslash escape."""
  return field.partition(b'\0')[0].decode('utf-8', 'backslashreplace')


def name(header: bytes) -> str:
  """Returns the name in a header itself."""
  is_posix = header[257:263] == b'ustar\0'
  prefix = header[345 : 476 if header[508:512] == b'tar\0' else 500].partition(b'\0')[0]
  own = header[:100].partition(b'\0')[0]
  return text(prefix + b'/' + own if is_posix and prefix else own)


def pax_records(content: bytes) -> tuple[dict[bytes, list[bytes]], bool]:
  """Returns the values by key of a pax header, up to damage, and whether it is whole.

  Its records are `LENGTH KEY=VALUE\\n`.
  """
  found: dict[bytes, list[bytes]] = {}
  begin = 0
  while begin < len(content) and content[begin]:
    space = content.find(b' ', begin, begin + 20)
    digits = content[begin:space] if space > 0 else b''
    end = begin + int(digits) if digits.isdigit() else 0
    key, equals, value = content[space + 1 : end - 1].partition(b'=')
    if not space < end <= len(content) or content[end - 1 : end] != b'\n' or not (key and equals):
      return found, False
    found.setdefault(key, []).append(value)
    begin = end
  return found, True
