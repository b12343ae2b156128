"""Images in a file of records of one size, which are read when they are indexed."""

import math
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from images import ImageShape


class Images:
  """Some images of a file, in some order, that are indexed like an array (N, *shape) of uint8.

  They are read by position and not mapped, so they are never part of the process's memory. The file
  stays open, so it can be deleted.
  """

  dtype = np.dtype(np.uint8)

  def __init__(self, file: BinaryIO, image_shape: ImageShape, rows: np.ndarray):
    """
    Args:
      file: a local file, open for reading.
      image_shape: (height, width, channels).
      rows: which of its images, int64 (N,).
    """
    self._file, self._image_shape, self._rows = file, image_shape, rows

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns (N, height, width, channels)."""
    return len(self._rows), *self._image_shape

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
    rows = np.atleast_1d(self._rows[key])
    found = np.empty((len(rows), *self._image_shape), np.uint8)
    size = math.prod(self._image_shape)
    for image, row in zip(found, rows.tolist()):
      if os.preadv(self._file.fileno(), [image.data], row * size) != size:
        raise OSError(f'{self._file.name}: is cut short; delete its directory to prepare it again')
    return found[0] if np.ndim(self._rows[key]) == 0 else found

  def __iter__(self) -> Iterator[np.ndarray]:
    return (self[i] for i in range(len(self)))

  def only(self, rows: np.ndarray) -> 'Images':
    """Returns the images with these indices, in their order, without reading them."""
    return Images(self._file, self._image_shape, self._rows[rows])
