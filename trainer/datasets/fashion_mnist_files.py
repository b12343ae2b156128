"""The published files of Fashion-MNIST: their contents' checksums, and the way to them."""

import gzip
import hashlib
import os
import pathlib
import threading
import urllib.request
import zlib
from collections.abc import Mapping

from absl import app

from storage import files

ROUTE_SECONDS = 15  # to wait for the download host before treating it as unreachable

# sha256 of the uncompressed IDX files of github.com/zalandoresearch/fashion-mnist. The sums of the
# compressed files differ between distributors: the gzip header contains a name and a time.
IDX_SHA256 = {
  'train-images-idx3-ubyte.gz': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
  'train-labels-idx1-ubyte.gz': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
  't10k-images-idx3-ubyte.gz': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
  't10k-labels-idx1-ubyte.gz': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
}


def unpack_idx(idx_dir: str, scratch: pathlib.Path, urls: Mapping[str, str]) -> dict[str, str]:
  """Writes the uncompressed IDX files of some URLs to `scratch`; returns their paths by key."""
  contents = {key: read_idx(idx_dir, url.rsplit('/', 1)[-1]) for key, url in urls.items()}
  for key, content in contents.items():
    (scratch / key).write_bytes(content)
  return {key: str(scratch / key) for key in contents}


def read_idx(idx_dir: str, name: str) -> bytes:
  """Returns the uncompressed content of one published IDX file.

  Raises:
    app.UsageError: the file is missing, damaged, or its content is not the published one.
  """
  path = os.path.join(idx_dir, name)
  remedy = f'--idx_dir needs the four published files {", ".join(IDX_SHA256)}'
  try:
    content = gzip.decompress(files.read(path))
  except (OSError, EOFError, zlib.error) as error:
    raise app.UsageError(
      f'--idx_dir: {path} cannot be read ({_first_line(error)}); {remedy}'
    ) from error
  digest = hashlib.sha256(content).hexdigest()
  if digest != IDX_SHA256[name]:
    raise app.UsageError(
      f'--idx_dir: the content of {path} has sha256 {digest}, the published one '
      f'{IDX_SHA256[name]}; {remedy}'
    )
  return content


def check_route(url: str, remedy: str) -> None:
  """Asks for a download with a deadline: TFDS waits minutes for a host that does not answer.

  Raises:
    app.UsageError: it cannot be reached.
  """
  request = urllib.request.Request(url, method='HEAD')  # noqa: S310
  failure: list[str] = ['no answer']

  def probe() -> None:
    try:
      urllib.request.urlopen(request, timeout=ROUTE_SECONDS)  # noqa: S310 - TFDS's own http:// address
      failure.clear()
    except OSError as error:
      failure[0] = _first_line(error)

  thread = threading.Thread(target=probe, daemon=True)  # name look-up has no time-out of its own
  thread.start()
  thread.join(ROUTE_SECONDS)
  if failure:
    raise app.UsageError(
      f'no route to {url} ({failure[0]}): {remedy}--data_dir=DIR with the dataset already prepared'
    )


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
