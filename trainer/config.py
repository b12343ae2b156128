"""The configuration of a run: every setting with its default, help text and limits.

The command line's flags are made from it (main.py), without TensorFlow.
"""

import dataclasses
from typing import Any

PRECISIONS = ('auto', 'float32', 'mixed_bfloat16', 'mixed_float16')
ALL_REDUCE = {  # to classes of tf.distribute
  'auto': None,  # NCCL if available, otherwise reduction to one device
  'nccl': 'NcclAllReduce',
  'hierarchical': 'HierarchicalCopyAllReduce',
  'reduction_to_one': 'ReductionToOneDevice',
}
VALIDATION_EXAMPLES = 6000  # of Fashion-MNIST
MIN_SIDE, MAX_SIDE = 16, 1024  # of an image, in pixels
CHANNELS = ('grey', 'rgb')
FLIP = ('auto', 'yes', 'no')
CLASS_WEIGHTS = ('equal', 'balanced')
MAX_EPOCHS = 1_000_000  # so that 64 bits are enough for every count of steps and images
ON_NONFINITE = ('stop', 'rollback')


@dataclasses.dataclass(frozen=True)
class Network:
  """How a network is best trained.

  Attributes:
    epochs: default number of epochs; more do not help.
    min_side: smallest height and width of the images that it takes, in pixels.
    shift: maximum shift of a training image along each axis, in pixels.
    erase: probability that a rectangle of a training image is erased.
    label_smoothing: default fraction of a label's probability that is spread over all classes.
  """

  epochs: int
  min_side: int
  shift: int = 0
  erase: float = 0.0
  label_smoothing: float = 0.0


NETWORKS = {
  'seed': Network(epochs=42, min_side=16, label_smoothing=0.05),
  'best': Network(epochs=70, min_side=4, shift=2, erase=0.5, label_smoothing=0.05),
}


def setting(
  default: Any,
  help_text: str,
  *,
  choices: Any = None,
  lower_bound: float | None = None,
  upper_bound: float | None = None,
  is_path: bool = False,
) -> Any:
  """Returns a dataclass field from which main.py makes a flag of the field's name and type."""
  limits = {'lower_bound': lower_bound, 'upper_bound': upper_bound}
  metadata = {'help': help_text, 'choices': choices, 'limits': limits, 'is_path': is_path}
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Settings that determine the final weights."""

  dataset: str = setting(
    'fashion_mnist',
    'The dataset: fashion_mnist; the pictures of --source, by folder or by manifest; or the name '
    'of any TensorFlow Datasets dataset for image classification, such as kmnist.',
  )
  model: str = setting(
    'seed', "The network: the notebook's, or a more accurate one.", choices=NETWORKS
  )
  image_size: int | None = setting(
    None,
    "Height and width of the images in pixels. By default the dataset's own; 64 for photos.",
    lower_bound=MIN_SIDE,
    upper_bound=MAX_SIDE,
  )
  channels: str | None = setting(
    None, "Colour of the images. By default the dataset's own.", choices=CHANNELS
  )
  flip: str = setting(
    'auto',
    'Whether a mirrored image is one of the same class, to train on, too; auto: of Fashion-MNIST.',
    choices=FLIP,
  )
  validation_examples: int | None = setting(
    None,
    f'Training images held out to select the best epoch. By default {VALIDATION_EXAMPLES} of '
    'Fashion-MNIST; of others their own validation split, or a tenth of each class.',
    lower_bound=1,
  )
  epochs: int | None = setting(
    None,
    "Passes over the training images. By default the network's own: "
    + ', '.join(f'{network.epochs} for {name}' for name, network in NETWORKS.items())
    + '.',
    lower_bound=1,
    upper_bound=MAX_EPOCHS,
  )
  global_batch_size: int = setting(256, 'Images per step, summed over replicas.', lower_bound=1)
  learning_rate: float = setting(
    3e-3, 'Peak learning rate of AdamW, reached after a fifth of the steps.', lower_bound=0
  )
  label_smoothing: float | None = setting(
    None,
    "Fraction of a label's probability that is spread over all classes (Szegedy et al., arXiv "
    "1512.00567). By default the network's own: "
    + ', '.join(f'{network.label_smoothing} for {name}' for name, network in NETWORKS.items())
    + '.',
    lower_bound=0,
    upper_bound=0.9,
  )
  seed: int = setting(
    0,
    'Seed of the split, the initial weights, the order of images, augmentation and dropout.',
    lower_bound=0,
    upper_bound=2**31 - 1,
  )
  class_weights: str = setting(
    'equal',
    'What an image counts for in the loss: one like the other, or balanced, which makes up for '
    'classes with fewer images.',
    choices=CLASS_WEIGHTS,
  )
  init_from: str | None = setting(
    None,
    'Exported model to start with, as runs/x/export/1, local or gs://. If it has other classes, '
    'all but its last layer is taken.',
    is_path=True,
  )
  calibrate: bool = setting(
    False,
    'Whether to divide the logits of the exported model by the temperature that makes its '
    'confidence most right on the validation images.',
  )
  precision: str = setting(
    'auto',
    'Arithmetic of the training step; auto is the fastest here that costs no accuracy. '
    'The export is always float32.',
    choices=PRECISIONS,
  )

  @property
  def network(self) -> Network:
    """Returns how the model is trained."""
    return NETWORKS[self.model]

  @property
  def num_epochs(self) -> int:
    """Returns the length of the training, in epochs."""
    return self.epochs or self.network.epochs

  @property
  def smoothing(self) -> float:
    """Returns the label smoothing."""
    own = self.network.label_smoothing
    return own if self.label_smoothing is None else self.label_smoothing

  def settings(self) -> dict[str, Any]:
    """Returns the values of the flags that determine the weights, by the flags' names."""
    chosen = {'epochs': self.num_epochs, 'label_smoothing': self.smoothing}
    return {**dataclasses.asdict(self), **chosen}

  def fixed(self) -> dict[str, Any]:
    """Returns the settings that may not change on resume (all but `epochs`)."""
    return {name: value for name, value in self.settings().items() if name != 'epochs'}

  def steps_per_epoch(self, train_examples: int) -> int:
    """Returns the number of full batches.

    Every epoch has a new permutation, so the remaining images are different ones each time.
    """
    return train_examples // self.global_batch_size


@dataclasses.dataclass(frozen=True)
class LoopOptions:
  """Logging, checkpointing and rollback; none of this changes the weights."""

  log_every_steps: int = setting(50, 'Steps between checks of the loss.', lower_bound=1)
  checkpoint_every_steps: int = setting(
    0,
    'Steps between checkpoints, besides the one after every epoch; 0: only that one.',
    lower_bound=0,
  )
  keep_checkpoints: int = setting(3, 'Number of newest checkpoints to keep.', lower_bound=1)
  on_nonfinite: str = setting(
    'stop',
    'If the loss becomes NaN or infinite: stop, or return to the last checkpoint with half the '
    'learning rate, at most three times.',
    choices=ON_NONFINITE,
  )


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that a run is told, except for its workdir."""

  data_dir: str | None = setting(
    None,
    'TFDS directory, local or gs://: read if it contains the dataset, otherwise prepared. '
    "By default TFDS's own. For --source, a local directory to prepare the pictures in; by default "
    'they are kept in memory.',
    is_path=True,
  )
  idx_dir: str | None = setting(
    None,
    'Directory with the four IDX .gz files, local or gs://, to prepare fashion_mnist from without '
    'a download.',
    is_path=True,
  )
  source: str | None = setting(
    None,
    'Your own pictures, local or gs://: a folder with LABEL/*.jpg, or with train/LABEL/*.jpg and '
    'so on, for --dataset=folder; a CSV or Parquet file for --dataset=manifest.',
    is_path=True,
  )
  image_column: str = setting(
    '', 'Column of --source that names or contains the pictures, if it has an unusual name.'
  )
  label_column: str = setting('', 'Column of --source with the labels, if it has an unusual name.')
  split_column: str = setting(
    '',
    "Column of --source with each picture's split: train, validation or test. Without it some of "
    'each class are held out, copies of one picture together.',
  )
  replicas: int = setting(
    0,
    'Devices that train: 0 is every GPU, or the CPU; without a GPU, 2 or more split the CPU.',
    lower_bound=0,
  )
  all_reduce: str = setting(
    'auto',
    'How devices add up their gradients; several hosts: auto or nccl.',
    choices=ALL_REDUCE,
  )
  lookup_seconds: int = setting(
    60,
    'How long to look for hosts in TF_CONFIG whose names have no address, as those of pods that '
    'are not scheduled yet.',
    lower_bound=0,
  )
  recipe: Recipe = Recipe()
  loop: LoopOptions = LoopOptions()
