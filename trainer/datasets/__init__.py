"""The datasets that can be trained on. A dataset is one module here and one entry in DATASETS.

    dataset = datasets.load('fashion_mnist', data_dir='data', idx_dir=None, source=None)
    train = dataset.read('train')

Nothing here imports TensorFlow, which `load` does if the dataset needs it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from images import ImageShape

if TYPE_CHECKING:
  from trainer.data import Examples

DATASETS = {
  'fashion_mnist': 'trainer.datasets.fashion_mnist',
  'image_folder': 'trainer.datasets.image_folder',
}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What the rest of the trainer knows about a dataset.

  Attributes:
    name: with its version, for the model card.
    title: what the report calls it.
    image_shape: (height, width, channels) of its images, which are uint8.
    labels: the names of its classes in index order.
    num_examples: number of examples by split, `train` and `test`; what is read may be fewer, if
      someone prepared a part of it for a trial.
    read: returns every example of a split, in an order that is always the same. Raises
      app.UsageError for files that are missing or wrong.
    flip: whether the mirror image of an example is an example of the same class.
    preprocessing: how the scorer makes such an image of any picture: one of images.photo's
      conversions.
    background: brightness of the images' background.
    license: the license's name, if known.
    homepage: where it comes from, if known.
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


def load(name: str, *, data_dir: str | None, idx_dir: str | None, source: str | None) -> Dataset:
  """Returns the dataset of this name in DATASETS; the paths are the flags of these names.

  No images are read yet.

  Raises:
    app.UsageError: a path is not one of those that the dataset takes, or is missing.
  """
  load_dataset = importlib.import_module(DATASETS[name]).load
  return load_dataset(data_dir=data_dir, idx_dir=idx_dir, source=source)
