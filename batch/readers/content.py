"""What bytes without a name are, by how they begin.

Only signatures that other data hardly begins with: see `sniff` for files, whose names tell too.
"""

PICTURE_BRANDS = (b'avif', b'avis', b'heic', b'heix', b'heim', b'heis', b'mif1', b'msf1')
PICTURE_SIGNATURES = (
  b'\x89PNG\r\n\x1a\n',
  b'\xff\xd8\xff',
  b'GIF87a',
  b'GIF89a',
  b'II*\0',
  b'MM\0*',
  b'\0\0\0\x0cjP  \r\n\x87\n',
  b'\0\0\0\x0cJXL \r\n\x87\n',
  b'8BPS\0\x01',
)
BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
BEGINNING_BYTES = 32  # what `is_picture` needs
ARCHIVES = {
  b'PK\x03\x04': 'a ZIP archive',
  b'PK\x05\x06': 'an empty ZIP archive',
  b'7z\xbc\xaf\x27\x1c': 'a 7-Zip archive',
  b'Rar!\x1a\x07': 'a RAR archive',
  b'!<arch>\n': 'an ar archive',
  b'070701': 'a cpio archive',
  b'070707': 'a cpio archive',
}


def is_picture(beginning: bytes) -> bool:
  """Returns whether a file's first BEGINNING_BYTES are those of a picture in a usual format."""
  if beginning.startswith(PICTURE_SIGNATURES):
    return True
  if beginning[:4] == b'RIFF':
    return beginning[8:12] == b'WEBP'
  if beginning[:2] == b'BM':  # which text may begin with
    return int.from_bytes(beginning[14:18], 'little') in BMP_HEADER_BYTES
  return beginning[4:8] == b'ftyp' and beginning[8:12] in PICTURE_BRANDS


def archive_kind(beginning: bytes) -> str:
  """Returns what kind of archive, other than tar, begins like this, or ''."""
  return next((kind for magic, kind in ARCHIVES.items() if beginning.startswith(magic)), '')
