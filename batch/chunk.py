"""The data that travels through the pipeline: chunks of some thousands of images."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

NO_LABEL = -1  # of an image that came without a label
UNKNOWN_LABEL = -2  # of an image whose label is not one of the model's
# Of the predictions; no column that is carried can have such a name.
PREDICTION_COLUMNS = (
  'id',
  'label',
  'label_index',
  'confidence',
  'probabilities',
  'model_version',
  'top_labels',
  'top_probabilities',
)


@dataclasses.dataclass(frozen=True)
class Reject:
  """Something that could not be scored: its id, the stage that rejected it, and the reason."""

  id: str
  stage: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Shard:
  """A part of the input that one worker reads from beginning to end.

  `number` is its position among all shards. Its extent depends on the format: records `start` to
  `stop` (IDX), row groups (Parquet), bytes (a manifest, a TFRecord file, a tar archive; all if it
  is compressed), or the files in `uris`.

  Attributes:
    first_row: number of records in the file before `start`.
    is_range: whether `start` and `stop` are any bytes, which `ranges.place` replaces by those where
      something begins.
    taken: (tar) names in this part that an earlier part has too.
    broken: why nothing of the file can be read; its one reject. `uris` may name one that can be.
    path_is_id: (Parquet) whether the path beside a picture is its id.
  """

  number: int
  format: str
  uri: str
  start: int = 0
  stop: int = -1
  first_row: int = 0
  is_range: bool = False
  taken: Sequence[str] = ()
  uris: Sequence[str] = ()
  broken: str = ''
  path_is_id: bool = False


class Place(NamedTuple):
  """Where a chunk is in the input: the numbers of its shard and of the chunk in it, from 0.

  Attributes:
    is_last: whether the shard ends with it.
  """

  shard: int
  sequence: int
  is_last: bool


@dataclasses.dataclass
class ReadImages:
  """N images as read: their ids, and either their encoded files or their pixels.

  Attributes:
    pixels: uint8 (N, height, width, channels).
    labels: numbers or names, None for an image without one.
    carried: a table of N rows, whose columns are written beside the predictions.
    rejects: records that could not be read; not among the N.
    passed_over: what is no image and was left out, by kind. A kind is a noun in the singular, such
      as 'hidden file'.
  """

  ids: list[str] = dataclasses.field(default_factory=list)
  encoded: Sequence[bytes] | None = None
  pixels: np.ndarray | None = None
  labels: Sequence[int | float | str | bytes | None] | None = None
  carried: pa.Table | None = None
  rejects: list[Reject] = dataclasses.field(default_factory=list)
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Images and their place in the input, which depends on nothing else.

  Attributes:
    seconds: time spent so far, by stage.
  """

  place: Place
  images: ReadImages
  seconds: dict[str, float]

  def __len__(self) -> int:
    return len(self.images.ids)

  @property
  def num_seen(self) -> int:
    """Returns the number of images and rejects."""
    return len(self) + len(self.images.rejects)


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A chunk with pixels. Its length is the number that RunInference counts.

  Attributes:
    pixels: uint8 (N, height, width, channels), of the model's image shape.
    labels: int32 (N,), NO_LABEL and UNKNOWN_LABEL included.
    encoded_bytes: size of the images as read.
    converted: number of images that were converted as photos.
    by_background: number of those by their ground, `light` or `dark`.
    seconds: time spent so far, by stage.
    passed_over: what was left out while reading, by kind.
    foreign_labels: images by those labels that are not the model's; the most frequent.
  """

  place: Place
  ids: list[str]
  pixels: np.ndarray
  labels: np.ndarray
  carried: pa.Table | None
  rejects: list[Reject]
  encoded_bytes: int
  converted: int
  by_background: dict[str, int]
  seconds: dict[str, float]
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
  foreign_labels: dict[str, int] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.ids)

  def keep(self, kept: np.ndarray) -> 'Decoded':
    """Returns the chunk with only the images selected by `kept`, bool (N,)."""
    return dataclasses.replace(
      self,
      ids=[name for name, keep in zip(self.ids, kept) if keep],
      pixels=self.pixels[kept],
      labels=self.labels[kept],
      carried=None if self.carried is None else self.carried.filter(pa.array(kept)),
    )


@dataclasses.dataclass(frozen=True)
class Scored:
  """A decoded chunk with its predictions.

  Attributes:
    probabilities: float32 (N, classes).
    precision: float32 or bfloat16.
    rescored: how many of the N were close calls in bfloat16 and were rescored in float32.
    seconds: time spent so far, by stage.
  """

  chunk: Decoded
  probabilities: np.ndarray
  precision: str
  rescored: int
  seconds: dict[str, float]
