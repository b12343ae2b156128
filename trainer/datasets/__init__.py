"""The datasets that can be trained on. A dataset is one module here and one entry in DATASETS.

    dataset = datasets.load('fashion_mnist', data_dir='data')
    train = dataset.read('train')

Any other name is one of TensorFlow Datasets'. Nothing here imports TensorFlow, which `load` does if
the dataset needs it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from images import ImageShape

if TYPE_CHECKING:
  from trainer.data import Examples

DATASETS = {
  'fashion_mnist': 'trainer.datasets.fashion_mnist',
  'folder': 'trainer.datasets.folder',
  'image_folder': 'trainer.datasets.folder',  # its name before there were others
  'manifest': 'trainer.datasets.manifest',
}
OF_TFDS = 'trainer.datasets.tfds_set'
SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Options:
  """Where a dataset is and what is made of it: the values of the flags of these names."""

  data_dir: str | None = None
  idx_dir: str | None = None
  source: str | None = None
  image_column: str = ''
  label_column: str = ''
  split_column: str = ''
  image_size: int | None = None
  channels: str | None = None
  validation_examples: int | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What the rest of the trainer knows about a dataset.

  Attributes:
    name: with its version, for the model card.
    title: what the report calls it.
    image_shape: (height, width, channels) of its images, which are uint8.
    labels: the names of its classes in index order.
    num_examples: number of examples by split, `train`, `test` and, if it has its own, `validation`;
      what is read may be fewer, if someone prepared a part of it for a trial.
    read: returns every example of a split, in an order that is always the same. Raises
      app.UsageError for files that are missing or wrong.
    flip: whether the mirror image of an example is an example of the same class.
    preprocessing: how the scorer makes such an image of any picture: one of images.photo's
      conversions.
    background: brightness of the images' background.
    license: the license's name, if known.
    homepage: where it comes from, if known.
    rejects: (id, stage, reason) of each picture that was left out.
  """

  name: str
  title: str
  image_shape: ImageShape
  labels: tuple[str, ...]
  num_examples: Mapping[str, int]
  read: Callable[[str], 'Examples']
  flip: bool
  preprocessing: str
  background: int = 0
  license: str = ''
  homepage: str = ''
  rejects: Sequence[tuple[str, str, str]] = ()


def load(name: str, **options: Any) -> Dataset:
  """Returns the dataset of this name; `options` are fields of Options.

  Raises:
    app.UsageError: there is no such dataset, an option is not one of those that it takes, or what
      it is made of is missing or makes no classifier.
  """
  return importlib.import_module(DATASETS.get(name, OF_TFDS)).load(name, Options(**options))
