"""Weights to start a training with, from an exported model."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import app, logging

from images import ImageShape, model_card
from storage import files
from trainer.config import NETWORKS

LAST_LAYER = 2  # arrays of weights: its kernel and bias


def check(export: str, model: str, image_shape: ImageShape | None = None) -> None:
  """Checks that a network can start with an exported model's weights.

  Args:
    export: the directory of the SavedModel, local or gs://.
    model: the network's name in config.NETWORKS.
    image_shape: (height, width, channels) of the images that it has to fit, if that is known yet.

  Raises:
    app.UsageError: it is no model of the trainer's, or one of another network or other images.
  """
  card = _card(export)
  network = card.version.partition('-')[0]
  if network not in NETWORKS:
    raise app.UsageError(
      f'--init_from={export}: is the network {network}, which is none of this trainer; pass an '
      'export that it made'
    )
  if network != model:
    raise app.UsageError(
      f'--init_from={export}: is the network {network}, and this is {model}; pass --model={network}'
    )
  if image_shape and image_shape != card.image_shape:
    theirs, these = ('x'.join(map(str, shape)) for shape in (card.image_shape, image_shape))
    raise app.UsageError(
      f'--init_from={export}: is for images of {theirs}, and these are {these}; pass its '
      '--image_size and --channels'
    )


def _card(export: str) -> model_card.ModelCard:
  try:
    return model_card.read(export)
  except app.UsageError as error:
    raise app.UsageError(str(error).replace('--model=', '--init_from=')) from error


def weights(
  export: str, labels: Sequence[str], initial: Sequence[np.ndarray]
) -> Sequence[np.ndarray]:
  """Returns an exported model's weights; those of the last layer only if its labels are these.

  Args:
    export: the directory of the SavedModel.
    labels: the classes' names.
    initial: the network's own initial weights.
  """
  with files.as_usage_error(f'--init_from={export}'), files.local_copy(export) as directory:
    found = [variable.numpy() for variable in tf.saved_model.load(directory).weights]
  if _card(export).labels == tuple(labels):
    logging.info('%s: all %d arrays of weights are taken', export, len(found))
    return found
  logging.info(
    '%s: has other classes: its first %d arrays of weights are taken, and the last layer starts '
    'anew',
    export,
    len(found) - LAST_LAYER,
  )
  return [*found[:-LAST_LAYER], *initial[-LAST_LAYER:]]
