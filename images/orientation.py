"""Which way up a picture is, by its EXIF or XMP. What cannot be read there costs no picture."""

import re
import struct

from PIL import Image, TiffImagePlugin

TAG = 0x0112
VALUE_FORMATS = {1: 'B', 3: 'H', 4: 'I'}  # by EXIF type
XMP = re.compile(r'tiff:Orientation(?:="|>)([1-8])')
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image) -> Image.Image:
  """Returns the picture turned as its metadata says, whatever its mode."""
  turn = TURNS.get(_of(image))
  return image if turn is None else image.transpose(turn)


def _of(image: Image.Image) -> int:
  """Returns the orientation, 1 to 8, or 0 if none is given."""
  if isinstance(image, TiffImagePlugin.TiffImageFile) and isinstance(image.tag_v2.get(TAG), int):
    return image.tag_v2[TAG]
  return _from_exif(_exif(image)) or _from_xmp(image)


def _exif(image: Image.Image) -> bytes:
  exif = image.info.get('exif')
  if isinstance(exif, bytes):
    return exif
  # Older ImageMagick writes it into PNG as text: two lines of header, then hexadecimal digits.
  profile = image.info.get('Raw profile type exif')
  try:
    return bytes.fromhex(''.join(str(profile).split('\n')[3:])) if profile else b''
  except ValueError:
    return b''


def _from_exif(exif: bytes) -> int:
  """Returns the tag of the first directory. Pillow would read all directories, which may be bad."""
  exif = exif.removeprefix(b'Exif\0\0')
  order = {b'II': '<', b'MM': '>'}.get(exif[:2], '')
  if not order:
    return 0
  try:
    (start,) = struct.unpack_from(f'{order}I', exif, 4)
    (entries,) = struct.unpack_from(f'{order}H', exif, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
      tag, kind = struct.unpack_from(f'{order}HH', exif, at)
      if tag == TAG:
        return struct.unpack_from(order + VALUE_FORMATS.get(kind, 'H'), exif, at + 8)[0]
  except struct.error:
    pass
  return 0


def _from_xmp(image: Image.Image) -> int:
  text = image.info.get('XML:com.adobe.xmp') or image.info.get('xmp')
  if not text:
    return 0
  found = XMP.search(text.decode('latin-1') if isinstance(text, bytes) else str(text))
  return int(found[1]) if found else 0
