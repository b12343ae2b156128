"""The training step, the loop around it, and evaluation, under a tf.distribute strategy.

The loop is our own because Keras's `fit` averages weights in place at the end of every call, cannot run several steps
a call on logical devices, and times its epochs by tf.data's autotune thread.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer import data, models, noise

FLIP_STREAM = 255  # the networks' dropout layers count up from 0
WARMUP_FRACTION = 0.2
WEIGHT_DECAY = 1e-2
EMA_DECAY = 0.999
EVALUATION_ROWS = 500  # images a replica evaluates at a time


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What decides the weights that a run ends with."""

  model: str
  validation_examples: int
  epochs: int
  global_batch_size: int
  learning_rate: float
  seed: int
  precision: str

  def settings(self) -> dict:
    """By the names of the flags that set them."""
    return dataclasses.asdict(self)

  def steps_per_epoch(self, train_examples: int) -> int:
    """Full batches only: the permutation is new every epoch, so what one leaves out the next takes in."""
    return train_examples // self.global_batch_size


@dataclasses.dataclass(frozen=True)
class Epoch:
  """What one epoch did. Losses are mean cross-entropies in nats, accuracies fractions, times wall-clock seconds."""

  epoch: int
  step: int
  learning_rate: float
  train_loss: float
  train_accuracy: float
  val_loss: float
  val_accuracy: float
  images_per_second: float
  train_seconds: float
  step_losses: np.ndarray  # float32 (steps_per_epoch,)
  weights: list[np.ndarray]  # of the averaged model, the one that was validated


class Trainer:
  """The model, its optimizer and the exponential moving average of its weights, mirrored over the replicas.

  Training computes in the recipe's dtype policy. The averaged model, which is validated and exported, is float32.
  """

  def __init__(self, strategy: tf.distribute.Strategy, recipe: Recipe, train: data.Examples):
    self.strategy, self.recipe, self.train = strategy, recipe, train
    self.steps_per_epoch = recipe.steps_per_epoch(len(train))
    keras.utils.set_random_seed(recipe.seed)  # the initial weights
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
      self.model = models.MODELS[recipe.model](recipe.precision)
      self.averaged = models.MODELS[recipe.model]('float32')
      self.averaged.set_weights(self.model.get_weights())
      self.optimizer = _optimizer(recipe, self.steps_per_epoch)
      self.optimizer.build(self.model.trainable_variables)

  def epochs(
    self, validation: data.Examples, report_every: int, on_steps: Callable[[int, float], None]
  ) -> Iterator[Epoch]:
    """Trains, yielding each epoch once it is validated.

    Args:
      validation: what each epoch is judged on.
      report_every: steps between calls of `on_steps`.
      on_steps: called with the number of images just trained on and their mean loss.
    """
    batches = data.batches(
      self.train, self.recipe.seed, self.recipe.global_batch_size, self.strategy.num_replicas_in_sync
    )
    iterator = iter(self.strategy.distribute_datasets_from_function(lambda _: batches))
    for epoch in range(1, self.recipe.epochs + 1):
      started, losses, correct = time.perf_counter(), [], 0
      for first in range(0, self.steps_per_epoch, report_every):
        steps = min(report_every, self.steps_per_epoch - first)
        step_losses, step_correct = self._train_steps(iterator, tf.constant(steps))
        losses.append(step_losses.numpy())
        correct += int(step_correct)
        on_steps(steps * self.recipe.global_batch_size, float(losses[-1].mean()))
      seconds = time.perf_counter() - started
      yield self._epoch(epoch, np.concatenate(losses), correct, seconds, validation)

  def _epoch(self, epoch: int, losses: np.ndarray, correct: int, seconds: float, validation: data.Examples) -> Epoch:
    images = self.steps_per_epoch * self.recipe.global_batch_size
    probabilities = predict(self.strategy, self.averaged, validation.pixels)
    return Epoch(
      epoch=epoch,
      step=epoch * self.steps_per_epoch,
      learning_rate=float(self.optimizer.learning_rate),
      train_loss=float(losses.mean()),
      train_accuracy=correct / images,
      val_loss=cross_entropy(probabilities, validation.labels),
      val_accuracy=accuracy(probabilities, validation.labels),
      images_per_second=images / seconds,
      train_seconds=seconds,
      step_losses=losses,
      weights=self.averaged.get_weights(),
    )

  @tf.function
  def _train_steps(self, iterator: tf.distribute.DistributedIterator, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`steps` steps without returning to Python: (losses float32 (steps,), correct predictions int64 ())."""
    losses = tf.TensorArray(tf.float32, steps)
    correct = tf.constant(0, tf.int64)
    for i in tf.range(steps):
      loss, right = self.strategy.run(self._replica_step, [next(iterator)])
      losses = losses.write(i, self.strategy.reduce('SUM', loss, axis=None))
      correct += self.strategy.reduce('SUM', right, axis=None)
      self._average_weights()
    return losses.stack(), correct

  def _replica_step(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """One replica's part of a step: its part of the global batch's mean loss, and how many it had right."""
    with noise.at(noise.Address(self.recipe.seed, batch['step'], batch['first_row'])):
      pixels = flip(batch['pixels'])  # uint8 (b, 28, 28, 1)
      with tf.GradientTape() as tape:
        probabilities = self.model(pixels, training=True)  # float32 (b, 10)
        losses = keras.losses.sparse_categorical_crossentropy(batch['labels'], probabilities)  # float32 (b,)
        loss = tf.reduce_sum(losses) / self.recipe.global_batch_size
        scaled = self.optimizer.scale_loss(loss)
    variables = self.model.trainable_variables
    self.optimizer.apply(tape.gradient(scaled, variables), variables)  # sums the gradients over the replicas
    right = tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == batch['labels'])
    return loss, right

  def _average_weights(self) -> None:
    """Moves the average towards the weights; faster at first, when there is little to average."""
    step = tf.cast(self.optimizer.iterations.value, tf.float32)
    rate = 1 - tf.minimum(EMA_DECAY, (1 + step) / (10 + step))
    for average, weight in zip(self.averaged.trainable_variables, self.model.trainable_variables):
      move = lambda variable, target: variable.assign_sub(rate * (variable - target))
      self.strategy.extended.update(average.value, move, args=(weight.value,), group=False)


def _optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101), the rate warmed up linearly and let down along a cosine."""
  steps = recipe.epochs * steps_per_epoch
  warmup = int(WARMUP_FRACTION * steps)
  schedule = keras.optimizers.schedules.CosineDecay(
    recipe.learning_rate / 20,
    max(steps - warmup, 1),
    alpha=0.001,
    warmup_target=recipe.learning_rate,
    warmup_steps=warmup,
  )
  optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
  optimizer.exclude_from_weight_decay(var_names=['bias'])
  return keras.optimizers.LossScaleOptimizer(optimizer) if recipe.precision == 'mixed_float16' else optimizer


def flip(pixels: tf.Tensor) -> tf.Tensor:
  """Mirrors each image left to right with probability a half: uint8 (b, 28, 28, 1) to the same."""
  heads = noise.bits(FLIP_STREAM, tf.shape(pixels)[0], 1)[:, 0] < 2**15
  columns = pixels.shape[2]
  mirrored = tf.reshape(tf.reverse(tf.reshape(pixels, [-1, columns]), [1]), tf.shape(pixels))
  return tf.compat.v1.where(heads, mirrored, pixels)  # picks whole images, where tf.where would broadcast to each pixel


def predict(strategy: tf.distribute.Strategy, model: keras.Model, pixels: np.ndarray) -> np.ndarray:
  """Probabilities, float32 (N, 10), of every one of the images, uint8 (N, 28, 28, 1), in their order."""
  replicas = strategy.num_replicas_in_sync
  forward = tf.function(lambda rows: strategy.gather(strategy.run(lambda x: model(x, training=False), [rows]), axis=0))
  parts = []
  for first in range(0, len(pixels), replicas * EVALUATION_ROWS):
    chunk = pixels[first : first + replicas * EVALUATION_ROWS]
    padded = np.zeros((replicas, EVALUATION_ROWS, *pixels.shape[1:]), pixels.dtype)
    padded.reshape(-1, *pixels.shape[1:])[: len(chunk)] = chunk
    rows = strategy.experimental_distribute_values_from_function(
      lambda context: tf.constant(padded[context.replica_id_in_sync_group])
    )
    parts.append(forward(rows).numpy()[: len(chunk)])
  return np.concatenate(parts)


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Mean cross-entropy in nats of probabilities (N, 10) against labels (N,)."""
  return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """The fraction of labels (N,) that the largest of the probabilities (N, 10) names."""
  return float((probabilities.argmax(axis=1) == labels).mean())
