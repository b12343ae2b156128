"""What a file is, by how it begins: a format that is read, or one to name in a reject's reason."""

import re

from PIL import features

# The formats that are read, and what Pillow must be built with.
REQUIREMENTS = {
  'PNG': 'zlib',
  'JPEG': 'jpg',
  'GIF': '',
  'BMP': '',
  'WebP': 'webp',
  'TIFF': 'libtiff',
  'AVIF': 'avif',
  'JPEG 2000': 'jpg_2000',
  'PNM': '',
}
READ = tuple(name for name, needs in REQUIREMENTS.items() if not needs or features.check(needs))
CONVERT = 'convert it to PNG or JPEG'
FETCH = 'fetch the picture again'
UNPACK = 'unpack it'

SIGNATURES = (
  (b'\x89PNG\r\n\x1a\n', 'PNG'),
  (b'\xff\xd8\xff', 'JPEG'),
  (b'GIF87a', 'GIF'),
  (b'GIF89a', 'GIF'),
  (b'BM', 'BMP'),
  (b'II*\0', 'TIFF'),
  (b'MM\0*', 'TIFF'),
  (b'II+\0', 'TIFF'),
  (b'MM\0+', 'TIFF'),
  (b'\0\0\0\x0cjP  \r\n\x87\n', 'JPEG 2000'),
  (b'\xff\x4f\xff\x51', 'JPEG 2000'),
)
AVIF_BRANDS = (b'avif', b'avis')
# Formats that are not read: what they begin with, their name and the remedy.
OTHERS = (
  (b'\xff\x0a', 'a JPEG XL picture', CONVERT),
  (b'\0\0\0\x0cJXL ', 'a JPEG XL picture', CONVERT),
  (b'II\xbc\x01', 'a JPEG XR picture', CONVERT),
  (b'BPG\xfb', 'a BPG picture', CONVERT),
  (b'P7\n', 'a PAM picture', CONVERT),
  (b'8BPS', 'a Photoshop document', CONVERT),
  (b'\0\0\1\0', 'a Windows icon', CONVERT),
  (b'\0\0\2\0\1', 'a Windows cursor', CONVERT),
  (b'icns', 'a macOS icon', CONVERT),
  (b'DDS ', 'a DDS texture', CONVERT),
  (b'v/1\1', 'an OpenEXR picture', CONVERT),
  (b'#?RADIANCE', 'a Radiance HDR picture', CONVERT),
  (b'qoif', 'a QOI picture', CONVERT),
  (b'gimp xcf', 'a GIMP document', CONVERT),
  (b'FUJIFILMCCD-RAW', 'a camera raw file', CONVERT),
  (b'\xd7\xcd\xc6\x9a', 'a Windows metafile', CONVERT),
  (b'%PDF', 'a PDF document', CONVERT),
  (b'%!PS', 'a PostScript document', CONVERT),
  (b'\xc5\xd0\xd3\xc6', 'a PostScript document', CONVERT),
  (b'\x1aE\xdf\xa3', 'a Matroska or WebM video', 'extract its frames'),
  (b'\0\0\1\xba', 'an MPEG video', 'extract its frames'),
  (b'\x1f\x8b', 'gzip data', UNPACK),
  (b'PK\3\4', 'a ZIP archive', UNPACK),
  (b'BZh', 'bzip2 data', UNPACK),
  (b'\xfd7zXZ\0', 'xz data', UNPACK),
  (b'(\xb5/\xfd', 'Zstandard data', UNPACK),
  (b'7z\xbc\xaf\x27\x1c', 'a 7z archive', UNPACK),
  (b'Rar!', 'a RAR archive', UNPACK),
  (b'\x93NUMPY', 'a NumPy array', CONVERT),
  (b'\x89HDF', 'an HDF5 file', 'extract its pictures'),
  (b'PAR1', 'a Parquet file', 'score it with --input_format=parquet'),
  (b'SQLite format 3', 'an SQLite database', 'extract its pictures'),
  (b'\0\5\x16\7', 'a macOS resource fork (AppleDouble)', 'leave it out'),
  (b'\0\5\x16\0', 'a macOS resource fork (AppleSingle)', 'leave it out'),
  (b'\x7fELF', 'a program', 'leave it out'),
  (b'MZ', 'a Windows program', 'leave it out'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the picture', 'run git lfs pull'),
  (b'data:image/', 'a data URL', 'decode its base64'),
  (b'iVBORw0KGgo', 'a PNG in base64', 'decode it first'),
  (b'/9j/', 'a JPEG in base64', 'decode it first'),
  (b'R0lGOD', 'a GIF in base64', 'decode it first'),
  (b'UklGR', 'a WebP in base64', 'decode it first'),
)
HEIF_BRANDS = re.compile(rb'hei[cxms]|hev[cxms]|mif1|msf1|miaf')
# Markup and text: a pattern of its first characters in lower case.
MARKUP = (
  (rb'<!doctype html|<html|<head|<body', 'an HTML page', FETCH),
  (rb'(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype svg[^>]*>\s*)*<svg', 'an SVG drawing', CONVERT),
  (rb'<', 'an XML document', FETCH),
  (rb'[{\[]', 'JSON', FETCH),
)
HEAD_BYTES = 1024


def of(data: bytes) -> str:
  """Returns which of REQUIREMENTS a file is, or ''."""
  for begin, name in SIGNATURES:
    if data.startswith(begin):
      return name
  if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
    return 'WebP'
  if data[4:8] == b'ftyp' and any(brand in AVIF_BRANDS for brand in _brands(data)):
    return 'AVIF'
  return 'PNM' if re.match(rb'P[1-6][\s#]|P[fF]\n', data) else ''


def unread(data: bytes) -> str:
  """Returns why a file is not read, if `of` is not one of READ: what it is, and the remedy."""
  kind = of(data)
  if kind:
    return f'{kind} is not built into this Pillow: {CONVERT}'
  name, remedy = _describe(data)
  if name:
    begin = f': it begins with {data[:32]!r}' if remedy == FETCH else ''
    return f'{name}, which is not read: {remedy}{begin}'
  return f'not one of {", ".join(READ)}: it begins with {data[:8]!r}'


def _brands(data: bytes) -> list[bytes]:
  """Returns the brands of an ISO media file: the major one, then the compatible ones."""
  end = min(int.from_bytes(data[:4], 'big'), HEAD_BYTES)
  return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def _describe(data: bytes) -> tuple[str, str]:
  """Returns what a file is and what to do about it, or ('', '')."""
  if not data.strip(b'\0'):
    return 'nothing but zeros', FETCH
  for begin, name, remedy in OTHERS:
    if data.startswith(begin):
      return name, remedy
  if data[128:132] == b'DICM':
    return 'a DICOM picture', CONVERT
  if data[8:12] == b'crx ':
    return 'a camera raw file', CONVERT
  if data[4:8] == b'ftyp':
    if any(HEIF_BRANDS.fullmatch(brand) for brand in _brands(data)):
      return 'a HEIC picture', CONVERT
    return 'an MP4 or QuickTime video', 'extract its frames'
  if data[:4] == b'RIFF':
    return 'a RIFF file, such as AVI or WAV', CONVERT
  if data[-18:] == b'TRUEVISION-XFILE.\0':
    return 'a TGA picture', CONVERT
  return _describe_text(data[:HEAD_BYTES])


def _describe_text(head: bytes) -> tuple[str, str]:
  if head[:2] in (b'\xff\xfe', b'\xfe\xff'):
    return 'text in UTF-16', FETCH
  text = head.removeprefix(b'\xef\xbb\xbf').lstrip()
  for pattern, name, remedy in MARKUP:
    if re.match(pattern, text.lower(), re.DOTALL):
      return name, remedy
  is_text = not re.search(rb'[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]', text)
  try:
    text[:-3].decode()
  except UnicodeDecodeError:
    return '', ''
  return ('text', FETCH) if is_text and len(text) > 3 else ('', '')
