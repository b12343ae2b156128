"""Weights to start a training with, from an exported model."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import app, logging

from images import model_card
from storage import files
from trainer.models import Spec

LAST_LAYER = 2  # arrays of weights: its kernel and bias


def check(export: str, model: str, spec: Spec) -> None:
  """Checks that a network can start with an exported model's weights.

  Args:
    export: the directory of the SavedModel, local or gs://.
    model: the network's name in config.NETWORKS.
    spec: what it has to fit.

  Raises:
    app.UsageError: it is no model of the trainer's, or one of another network or other images.
  """
  card = _card(export)
  network = card.version.partition('-')[0]
  kind, own = (network, card.image_shape), (model, spec.image_shape)
  if kind != own:
    shapes = ['x'.join(map(str, shape)) for _, shape in (kind, own)]
    raise app.UsageError(
      f'--init_from={export}: is the network {network} for images of {shapes[0]}, and this is '
      f'{model} for {shapes[1]}; pass that --model, --image_size and --channels'
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
