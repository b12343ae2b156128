"""Prepares Fashion-MNIST in DATA_DIR through TFDS: by its download, or from Debian's package where that has no route.

usage: prepare_data.py DATA_DIR
"""

import os
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from absl import app

from trainer import data

DEBIAN = '.cache/debian'
IDX_DIR = f'{DEBIAN}/root/usr/share/datasets/fashion-mnist'


def main(argv: list[str]) -> None:
  (_, data_dir) = argv
  try:
    data.prepare(data_dir)
  except app.UsageError as error:
    print(
      f"{error}\nprepare_data.py: taking Debian's package dataset-fashion-mnist", file=sys.stderr
    )
    subprocess.run(['scripts/debian_packages.sh', DEBIAN, 'dataset-fashion-mnist'], check=True)
    data.prepare(data_dir, IDX_DIR)


if __name__ == '__main__':
  app.run(main)
