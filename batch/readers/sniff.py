"""Which files hold an image, by their names or, where these do not tell, by their first bytes."""

import re

# Of images that are decoded, and of those that are not: these become rejects that name the format.
EXTENSIONS = (
  'png|apng|jpg|jpeg|jpe|jfif|jif|pjpeg|pjp|gif|bmp|dib|webp|tif|tiff|avif|avifs|heic|heif|hif|jxl|'
  'jp2|j2k|j2c|jpc|jpf|jpx|jxr|wdp|ico|cur|icns|pbm|pgm|ppm|pnm|pam|tga|dds|exr|hdr|qoi|psd|psb|xcf|'
  'pcx|sgi|ras|svg|svgz|dcm|dng|cr2|cr3|nef|arw|orf|rw2|raf|pef|srw'
)
FILE_NAME = rf'\.({EXTENSIONS})$'
HEAD_BYTES = 512  # that `is_image` needs
# The first bytes of an image.
SIGNATURES = re.compile(
  rb'\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]|8BPS|DDS |qoif|BPG\xfb|v/1\x01|'
  rb'\xff\x0a|\xff\x4f\xff\x51|\0\0\0\x0c(JXL |jP  )|#\?RADIANCE|P[1-6]\s+(#[^\n]*\s+)*\d|P7\n|'
  rb'BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|\0\0[\x01\x02]\0[^\0]\0|.{128}DICM|'
  rb'....ftyp(avif|avis|heic|heix|heim|heis|hevc|hevx|mif1|msf1|crx )|'
  rb'(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]',
  re.DOTALL,
)
# Of files that never hold an image alone: these are not opened to see.
OTHERS = re.compile(
  r'\.(txt|csv|tsv|jsonl?|xml|md|rst|html?|css|js|py|ipynb|ya?ml|toml|ini|cfg|conf|log|pkl|np[yz]|mat|'
  r'pth?|onnx|pb|h5|hdf5|zip|7z|rar|gz|bz2|xz|zst|tar|pdf|mp[34]|avi|mov|mkv|webm|wav|crc|lock|db|'
  r'sqlite|exe|dll|so|sh|bat|docx?|xlsx?|pptx?|parquet|arrow|feather)$'
)
EXTENSION = re.compile(r'\.[a-z][a-z0-9_]{0,11}$')


def is_image(head: bytes) -> bool:
  """Returns whether a file that begins with `head`, HEAD_BYTES or all of it, is an image."""
  return bool(SIGNATURES.match(head))


def may_be_image(uri: str) -> bool:
  """Returns whether a file's name leaves open what the file is."""
  return not OTHERS.search(uri.lower())


def kind_of(uri: str) -> str:
  """Returns what to count a file that is no image under: its extension, or that it has none."""
  name = uri.rpartition('/')[2].lower()
  extension = EXTENSION.search(name)
  if extension and extension.start():
    return f'{extension[0]} file'
  return 'file of another kind' if '.' in name else 'file without an extension'
