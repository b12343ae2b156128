"""Prepares Fashion-MNIST in DATA_DIR through TFDS.

It is downloaded or, if there is no route to the download, made from Debian's package.

usage: prepare_data.py DATA_DIR
"""

import os
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from absl import app

from trainer.datasets import fashion_mnist

DEBIAN = '.cache/debian'
PACKAGE = 'dataset-fashion-mnist'
IDX_DIR = f'{DEBIAN}/root/usr/share/datasets/fashion-mnist'


def main(argv: list[str]) -> None:
  """Prepares the dataset in the directory that `argv` names."""
  (_, data_dir) = argv
  try:
    fashion_mnist.prepare(data_dir)
  except app.UsageError as error:
    print(f"{error}\nprepare_data.py: using Debian's package {PACKAGE}", file=sys.stderr)
    subprocess.run(['scripts/debian_packages.sh', DEBIAN, PACKAGE], check=True)
    fashion_mnist.prepare(data_dir, IDX_DIR)


if __name__ == '__main__':
  app.run(main)
