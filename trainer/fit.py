"""The training step under a tf.distribute strategy.

The step is our own because Keras's `fit` averages weights in place at the end of every call, cannot
run several steps per call on logical devices, and times its epochs by tf.data's autotune thread.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from trainer import augment, data, models, noise, starting
from trainer.config import Recipe
from trainer.datasets import Dataset
from trainer.slices import slices, sum_pairwise

WARMUP_FRACTION = 0.2
WARMUP_DIVISOR = 20  # the learning rate starts at the peak divided by this
FINAL_RATE = 0.001  # as a fraction of the peak
WEIGHT_DECAY = 1e-2
EMA_DECAY = 0.999


class Trainer:
  """The model, its optimizer and the moving average of its weights, mirrored over the replicas.

  Training computes in the recipe's dtype policy. The averaged model, which is validated and
  exported, is float32.
  """

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    recipe: Recipe,
    dataset: Dataset,
    train: data.Examples,
  ):
    """Creates the initial weights and the optimizer.

    Args:
      strategy: which devices train.
      recipe: its precision must be a Keras dtype policy, not `auto`.
      dataset: where `train` is from.
      train: the images to train on.

    Raises:
      ValueError: the network has weights that are not trained, such as batch statistics.
    """
    self.strategy, self.recipe, self.dataset, self.train = strategy, recipe, dataset, train
    self.spec = models.Spec(dataset.image_shape, len(dataset.labels))
    self.steps_per_epoch = recipe.steps_per_epoch(len(train))
    keras.utils.set_random_seed(recipe.seed)  # the initial weights
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
      self.model = models.build(recipe.model, self.spec, recipe.precision)
      self.averaged = models.build(recipe.model, self.spec, 'float32')
      self.averaged.set_weights(self.model.get_weights())
      self.rate_scale = tf.Variable(1.0, trainable=False)  # below 1 only after a rollback
      self.optimizer = _optimizer(recipe, self.steps_per_epoch, self.rate_scale)
      self.optimizer.build(self.model.trainable_variables)
    if untrained := self.model.non_trainable_weights:
      raise ValueError(
        f'{recipe.model}: {untrained[0].path} is not trained, and so it would not be averaged; '
        'a network must have no batch statistics'
      )
    self.class_weights = _class_weights(recipe, train, self.spec.num_classes)
    self.step = 0
    self._iterator = self._batches()

  def _batches(self) -> tf.distribute.DistributedIterator:
    """Returns the global batches from the current step on, each host's part of them."""
    replicas = self.strategy.num_replicas_in_sync

    def part_of(host: tf.distribute.InputContext) -> tf.data.Dataset:
      local = replicas // host.num_input_pipelines
      mine = range(host.input_pipeline_id * local, (host.input_pipeline_id + 1) * local)
      return data.batches(
        self.train, self.recipe.seed, self.recipe.global_batch_size, replicas, mine, self.step
      )

    return iter(self.strategy.distribute_datasets_from_function(part_of))

  @property
  def learning_rate(self) -> float:
    """Returns the learning rate of the next step."""
    return float(self.optimizer.learning_rate)

  def train_steps(self, steps: int) -> tuple[np.ndarray, int]:
    """Trains; returns each step's loss in nats, float32 (steps,), and the correct predictions."""
    losses, correct = self._train_steps(self._iterator, tf.constant(steps))
    self.step += steps
    return losses.numpy(), int(correct)

  def start(self) -> None:
    """Takes the initial weights from the recipe's exported model, if it names one."""
    if not self.recipe.init_from:
      return
    taken = starting.weights(
      self.recipe.init_from, self.dataset.labels, self.averaged.get_weights()
    )
    for model in (self.model, self.averaged):
      model.set_weights(taken)

  def state(self) -> dict[str, np.ndarray]:
    """Returns everything needed to resume.

    Batches, dropout masks and augmentation are functions of the step.
    """
    arrays = {
      f'variable/{i:03}': np.asarray(variable.numpy())
      for i, variable in enumerate(self._variables())
    }
    return {'step': np.array(self.step), **arrays}

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Restores what `state()` returned; the devices may differ."""
    for i, variable in enumerate(self._variables()):
      variable.assign(state[f'variable/{i:03}'])
    self.step = int(state['step'])
    self._iterator = self._batches()

  def _variables(self) -> list:
    return [*self.model.weights, *self.averaged.weights, *self.optimizer.variables, self.rate_scale]

  @tf.function
  def _train_steps(
    self, iterator: tf.distribute.DistributedIterator, steps: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Trains without returning to Python between steps.

    Returns:
      losses float32 (steps,); the number of correct predictions int64 ().
    """
    losses = tf.TensorArray(tf.float32, steps)
    correct = tf.constant(0, tf.int64)
    for i in tf.range(steps):
      loss, right = self.strategy.run(self._replica_step, [next(iterator)])
      losses = losses.write(i, self.strategy.reduce('SUM', loss, axis=None))
      correct += self.strategy.reduce('SUM', right, axis=None)
      self._average_weights()
    return losses.stack(), correct

  def _replica_step(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes one replica's part of a step.

    Returns:
      its part of the global batch's mean loss; its number of correct predictions.
    """
    rows = range(batch['labels'].shape[0])
    parts = [self._slice(batch, part) for part in slices(rows, self.recipe.global_batch_size)]
    loss, right, *gradients = (sum_pairwise(values) for values in zip(*parts))
    # Sums the gradients over the replicas.
    self.optimizer.apply(gradients, self.model.trainable_variables)
    return loss, right

  def _slice(self, batch: dict[str, tf.Tensor], rows: range) -> tuple[tf.Tensor, ...]:
    """Returns what some rows of a batch add.

    To its mean loss, to the number of correct predictions, and to each gradient.
    """
    part = slice(rows.start, rows.stop)
    pixels, labels = batch['pixels'][part], batch['labels'][part]
    with noise.at(noise.Address(self.recipe.seed, batch['step'], batch['first_row'] + rows.start)):
      pixels = self._augment(pixels)  # uint8 (b, height, width, channels)
      with tf.GradientTape() as tape:
        probabilities = self.model(pixels, training=True)  # float32 (b, classes)
        loss = tf.reduce_sum(self._losses(labels, probabilities)) / self.recipe.global_batch_size
        scaled = self.optimizer.scale_loss(loss)
    right = tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == labels)
    return loss, right, *tape.gradient(scaled, self.model.trainable_variables)

  def _augment(self, pixels: tf.Tensor) -> tf.Tensor:
    network = self.recipe.network
    if self.dataset.flip:
      pixels = augment.flip(pixels)
    if network.shift:
      pixels = augment.shift(pixels, network.shift)
    return augment.erase(pixels, network.erase) if network.erase else pixels

  def _losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropies in nats, float32 (b,), each times its class's weight."""
    losses = self._cross_entropies(labels, probabilities)
    return losses if self.class_weights is None else losses * tf.gather(self.class_weights, labels)

  def _cross_entropies(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Returns float32 (b,), with the recipe's label smoothing."""
    smoothing, classes = self.recipe.smoothing, self.spec.num_classes
    if not smoothing:
      return keras.losses.sparse_categorical_crossentropy(labels, probabilities)
    targets = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return keras.losses.categorical_crossentropy(targets, probabilities)

  def _average_weights(self) -> None:
    """Moves the average towards the weights; faster at first, when there is little to average."""
    step = tf.cast(self.optimizer.iterations.value, tf.float32)
    rate = 1 - tf.minimum(EMA_DECAY, (1 + step) / (10 + step))

    def move(variable: tf.Variable, target: tf.Tensor) -> tf.Tensor:
      return variable.assign_sub(rate * (variable - target))

    for average, weight in zip(self.averaged.trainable_variables, self.model.trainable_variables):
      self.strategy.extended.update(average.value, move, args=(weight.value,), group=False)


def _class_weights(recipe: Recipe, train: data.Examples, classes: int) -> np.ndarray | None:
  """Returns what an image of each class counts for, on average 1, or None if all count the same."""
  if recipe.class_weights == 'equal':
    return None
  counts = np.maximum(np.bincount(train.labels, minlength=classes), 1)
  return (len(train) / (classes * counts)).astype(np.float32)


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
  """Linear warm-up to `peak` over the first fifth of `steps`, then a half cosine to a thousandth.

  The shape is SGDR's single cycle (Loshchilov and Hutter, arXiv 1608.03983) with a warm-up; `scale`
  multiplies it.
  """

  def __init__(self, peak: float, steps: int, scale: tf.Variable):
    self.warmup = max(int(WARMUP_FRACTION * steps), 1)
    self.shape = keras.optimizers.schedules.CosineDecay(
      peak / WARMUP_DIVISOR,
      max(steps - self.warmup, 1),
      alpha=FINAL_RATE,
      warmup_target=peak,
      warmup_steps=self.warmup,
    )
    self.scale = scale

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    return self.scale * self.shape(step)


def _optimizer(
  recipe: Recipe, steps_per_epoch: int, rate_scale: tf.Variable
) -> keras.optimizers.Optimizer:
  """Returns AdamW (Loshchilov and Hutter, arXiv 1711.05101); biases and gains do not decay."""
  schedule = OneCycle(recipe.learning_rate, recipe.num_epochs * steps_per_epoch, rate_scale)
  optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
  optimizer.exclude_from_weight_decay(var_names=['bias', 'gain'])
  if recipe.precision == 'mixed_float16':
    return keras.optimizers.LossScaleOptimizer(optimizer)
  return optimizer
