"""The labels that images come with, as indices into the model's labels."""

from collections.abc import Sequence

import numpy as np

from batch import chunk

Label = int | str | bytes | None


class LabelIndex:
  """Finds labels, given as names or as integers, among the model's."""

  def __init__(self, labels: Sequence[str]):
    self._num_classes = len(labels)
    # The name of a directory cannot contain a slash.
    self._indices = {
      name.replace('/', slash): index for slash in '_-/' for index, name in enumerate(labels)
    }

  def to_indices(self, values: Sequence[Label] | None, count: int) -> np.ndarray:
    """Returns int32 (count,), with NO_LABEL and UNKNOWN_LABEL for those that are not the model's.

    Args:
      values: `count` labels; None if no image came with one.
      count: number of images.
    """
    if values is None:
      return np.full(count, chunk.NO_LABEL, np.int32)
    indices = {value: self._to_index(value) for value in set(values)}
    return np.array([indices[value] for value in values], np.int32).reshape(count)

  def _to_index(self, value: Label) -> int:
    if value is None or value == chunk.NO_LABEL or value in (b'', ''):
      return chunk.NO_LABEL
    text = value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)
    text = text.strip()
    if text in self._indices:
      return self._indices[text]
    is_index = text.isdecimal() and int(text) < self._num_classes
    return int(text) if is_index else chunk.UNKNOWN_LABEL
