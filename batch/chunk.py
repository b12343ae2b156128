"""What travels through the pipeline: some thousands of images at a time, and what became of each."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

NO_LABEL = -1  # an image that came without a label
UNKNOWN_LABEL = -2  # an image whose label is none of the model's


@dataclasses.dataclass(frozen=True)
class Reject:
  """One thing that could not be scored: its id, the stage that gave it up, and why."""

  id: str
  stage: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Shard:
  """A part of the input that one worker reads from its beginning to its end.

  `number` is its place among all shards, and with a chunk's sequence in the shard names the chunk. Which part it is
  depends on the format: records `start` to `stop` (IDX), row groups (Parquet), bytes (a manifest, a TFRecord file),
  all of it (tar, anything compressed), or the files in `uris`.
  """

  number: int
  format: str
  uri: str
  start: int = 0
  stop: int = -1
  first_row: int = 0  # how many records of the file come before `start`
  uris: Sequence[str] = ()

  def chunk_name(self, sequence: int) -> str:
    return f'part-{self.number:05d}-{sequence:06d}'


@dataclasses.dataclass
class ReadImages:
  """Images as a reader found them: N ids, and either N encoded files or pixels uint8 (N, 28, 28, 1).

  labels: N integers or names, None where an image came without one.
  carried: a table of N rows, its columns to be written beside the predictions.
  rejects: what the reader came across and could not read; not among the N.
  """

  ids: list[str] = dataclasses.field(default_factory=list)
  encoded: Sequence[bytes] | None = None
  pixels: np.ndarray | None = None
  labels: Sequence[int | str | bytes | None] | None = None
  carried: pa.Table | None = None
  rejects: list[Reject] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Images with a name that is the same on every run: what it writes, it writes under that name."""

  name: str
  columns: ReadImages
  seconds: dict[str, float]  # by stage, so far

  def __len__(self) -> int:
    return len(self.columns.ids)

  def seen(self) -> int:
    return len(self) + len(self.columns.rejects)


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A chunk whose images are pixels uint8 (N, 28, 28, 1). Its length is what RunInference counts.

  labels: int8 (N,), NO_LABEL and UNKNOWN_LABEL where they apply.
  """

  name: str
  ids: list[str]
  pixels: np.ndarray
  labels: np.ndarray
  carried: pa.Table | None
  rejects: list[Reject]
  encoded_bytes: int
  converted: int  # how many took the photo conversion
  seconds: dict[str, float]

  def __len__(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Scored:
  """A decoded chunk and its probabilities, float32 (N, 10).

  rescored: how many of the N a reduced precision had left too close to call, and float32 decided.
  """

  chunk: Decoded
  probabilities: np.ndarray
  precision: str
  rescored: int
  seconds: dict[str, float]
