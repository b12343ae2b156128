"""What precedes the first step: settings, workdir and data, checked to be the same on all hosts."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import pathlib
import secrets
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import app

from storage import files
from trainer import agreement, data, datasets, devices, hold, hosts, models, starting, workdir
from trainer.config import VALIDATION_EXAMPLES, Config, Recipe
from trainer.datasets import Dataset

MARK = '.hosts'  # in the workdir: a random text of the host that writes, which all must read
MARK_SECONDS = 5  # to wait for it, because a network file system may show it late
PACKAGES = ('tensorflow', 'keras', 'numpy')
OF_ONE_HOST = {'keep_checkpoints'}  # options of the loop that only the host that writes follows


@dataclasses.dataclass
class Ready:
  """What a run needs.

  Attributes:
    recipe: with the precision for these devices.
    dataset: what it trains on.
    images: a description of the training images that differs if one of them does.
    train: the images to train on.
    validation: the images to select the best epoch with.
    test: the images to test with, which nothing looks at before the best epoch is chosen.
    finished: the metrics, if the run is finished already.
  """

  recipe: Recipe
  dataset: Dataset
  images: str
  train: data.Examples
  validation: data.Examples
  test: data.Examples
  finished: dict[str, Any] | None

  def owned(self) -> dict[str, Any]:
    """Returns what the workdir belongs to."""
    return {**self.recipe.fixed(), workdir.DATA: self.images}


@contextlib.contextmanager
def prepared(
  config: Config, directory: str, strategy: tf.distribute.Strategy, agreed: agreement.Agreement
) -> Iterator[Ready]:
  """Yields what a run needs. In the block, no other process can write to the workdir.

  Raises:
    app.UsageError: bad input, or hosts that differ in what has to be the same.
    hold.Held: another process writes to the workdir.
    failures.Failure: one of these on another host.
  """
  is_chief = hosts.is_chief(strategy)
  with contextlib.ExitStack() as stack:

    def take_workdir() -> agreement.Facts:
      if is_chief:
        workdir.check_writable(directory)
        stack.enter_context(hold.hold(directory))
      return _settings(config)

    agreed.require_same(take_workdir)
    _check_shared(directory, is_chief, agreed)
    found: list[Ready] = []

    def read() -> agreement.Facts:
      found.append(_read(config, directory, strategy.num_replicas_in_sync))
      ready = found[0]
      return {
        '--precision': ready.recipe.precision,
        'data': ready.images,
        'finished': ready.finished is not None,
      }

    agreed.require_same(read)
    if is_chief and not found[0].finished:
      workdir.claim(directory, found[0].owned())
    yield found[0]


def _settings(config: Config) -> agreement.Facts:
  """Returns what has to be the same on all hosts and is known before any data is read."""
  options = {**config.recipe.settings(), **dataclasses.asdict(config.loop)}
  flags = {**options, 'all_reduce': config.all_reduce}
  return {
    **{f'--{name}': value for name, value in flags.items() if name not in OF_ONE_HOST},
    **{f'version of {name}': importlib.metadata.version(name) for name in PACKAGES},
    'version of trainer/ (sha256)': _code_sha256(),
  }


def _code_sha256() -> str:
  """Returns a short checksum of the trainer's own modules."""
  here, digest = pathlib.Path(__file__).parent, hashlib.sha256()
  for path in sorted(here.rglob('*.py')):
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]


def _check_shared(directory: str, is_chief: bool, agreed: agreement.Agreement) -> None:
  """Raises app.UsageError if a host does not see the workdir of the host that writes."""
  if agreed.is_alone:
    return
  path, mark = files.join(directory, MARK), secrets.token_hex(8)

  def write() -> agreement.Facts:
    if is_chief:
      workdir.write(path, mark)
    return {}

  agreed.together(write)
  try:
    found = agreed.together(lambda: {'directory': directory, 'mark': _read_mark(path)})
  finally:
    if is_chief:
      files.remove([path])
  for name, theirs in zip(hosts.names(), found):
    if theirs['mark'] != found[0]['mark']:
      agreed.fail(
        app.UsageError(
          f'--workdir={theirs["directory"]}: on {name} is not shared with {hosts.names()[0]}, '
          f'which writes to {found[0]["directory"]}; pass a gs:// directory or one on a shared disk'
        )
      )


def _read_mark(path: str) -> str | None:
  """Returns the mark in the workdir as this host sees it; None if it sees none."""
  deadline = time.monotonic() + MARK_SECONDS
  while not files.exists(path):
    if time.monotonic() > deadline:
      return None
    time.sleep(MARK_SECONDS / 10)
  return files.read(path).decode()


def _read(config: Config, directory: str, replicas: int) -> Ready:
  """Reads the images of all splits, unless something is wrong that is known without them.

  Those of the test, too: that they are damaged must be known before hours of training, and by all
  hosts.
  """
  known = dataclasses.replace(
    config.recipe, precision=devices.dtype_policy(config.recipe.precision)
  )
  _check_flags(known, directory, replicas)
  dataset = _load(config)
  held_out = known.validation_examples or VALIDATION_EXAMPLES
  validation_examples = dataset.num_examples.get('validation', held_out)
  recipe = dataclasses.replace(known, validation_examples=validation_examples)
  models.check_image_shape(recipe.model, dataset.image_shape)
  if recipe.init_from:
    starting.check(recipe.init_from, recipe.model, dataset.image_shape)
  _check_batch(recipe, dataset, dataset.num_examples['train'])
  workdir.check(directory, recipe.fixed())
  everything = dataset.read('train')
  _check_batch(recipe, dataset, len(everything))
  if 'validation' in dataset.num_examples:
    split = everything, dataset.read('validation')
  else:
    split = data.split_validation(everything, validation_examples, recipe.seed)
  images, test = _describe(dataset, everything, *split), dataset.read('test')
  ready = Ready(recipe, dataset, images, *split, test, finished=None)
  workdir.check(directory, ready.owned())
  found = workdir.finished(directory)
  if found and found['epochs'] == recipe.num_epochs:
    ready.finished = found
  return ready


def _load(config: Config) -> Dataset:
  """Returns the dataset that the flags describe."""
  names = {field.name for field in dataclasses.fields(datasets.Options)}
  values = {**dataclasses.asdict(config.recipe), **vars(config)}
  dataset = datasets.load(
    config.recipe.dataset, **{name: values[name] for name in names & set(values)}
  )
  if config.recipe.flip == 'auto':
    return dataset
  return dataclasses.replace(dataset, flip=config.recipe.flip == 'yes')


def _describe(
  dataset: Dataset, everything: data.Examples, train: data.Examples, validation: data.Examples
) -> str:
  """Returns the name of the images, their number, and a checksum of them and their labels."""
  digest = hashlib.sha256(repr((dataset.labels, everything.pixels.shape)).encode())
  for images in [everything] if train is not everything else [train, validation]:
    digest.update(images.labels.tobytes())
    for pixels in images.blocks():
      digest.update(pixels.tobytes())
  return f'{dataset.name} of {len(everything)} training images, sha256 {digest.hexdigest()[:16]}'


def _check_flags(recipe: Recipe, directory: str, replicas: int) -> None:
  """Checks what is known before any picture is decoded, which may take hours.

  Raises:
    app.UsageError: the devices cannot share a batch, there is no such model to start with, or the
      workdir contains another run.
  """
  batch = recipe.global_batch_size
  if batch % replicas:
    below = batch // replicas * replicas
    raise app.UsageError(
      f'--global_batch_size={batch}: not divisible by {replicas} replicas; pass {below or replicas}'
    )
  if recipe.init_from:
    starting.check(recipe.init_from, recipe.model)
  fixed = recipe.fixed()
  del fixed['validation_examples']  # how many it becomes depends on the pictures
  workdir.check(directory, fixed)


def _check_batch(recipe: Recipe, dataset: Dataset, examples: int) -> None:
  """Raises app.UsageError if no batch can be made of so many training images."""
  held_out = 0 if 'validation' in dataset.num_examples else recipe.validation_examples or 0
  train_examples = examples - held_out
  if train_examples <= 0:
    raise app.UsageError(
      f'--validation_examples={held_out}: none of {examples} images left to train on; pass fewer'
    )
  if recipe.global_batch_size > train_examples:
    raise app.UsageError(
      f'--global_batch_size={recipe.global_batch_size}: more than the {train_examples} training '
      'images; pass fewer'
    )
