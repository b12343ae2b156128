"""The training step under a tf.distribute strategy, and evaluation.

The step is our own because Keras's `fit` averages weights in place at the end of every call, cannot run several steps
a call on logical devices, and times its epochs by tf.data's autotune thread.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer import augment, data, models, noise

WARMUP_FRACTION = 0.2
WEIGHT_DECAY = 1e-2
EMA_DECAY = 0.999
SLICE_ROWS = 64  # of a CPU's work that one thread does by itself
EVALUATION_ROWS = 512  # images a replica evaluates at a time


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

  def fixed(self) -> dict:
    """The settings that a run keeps from its first step to its last; its length may change."""
    return {name: value for name, value in self.settings().items() if name != 'epochs'}

  def steps_per_epoch(self, train_examples: int) -> int:
    """Full batches only: the permutation is new every epoch, so what one leaves out the next takes in."""
    return train_examples // self.global_batch_size


class Trainer:
  """The model, its optimizer and the exponential moving average of its weights, mirrored over the replicas.

  Training computes in the recipe's dtype policy. The averaged model, which is validated and exported, is float32.
  """

  def __init__(self, strategy: tf.distribute.Strategy, recipe: Recipe, train: data.Examples):
    self.strategy, self.recipe, self.train = strategy, recipe, train
    self.network = models.MODELS[recipe.model]
    self.steps_per_epoch = recipe.steps_per_epoch(len(train))
    keras.utils.set_random_seed(recipe.seed)  # the initial weights
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
      self.model = self.network.build(recipe.precision)
      self.averaged = self.network.build('float32')
      self.averaged.set_weights(self.model.get_weights())
      self.rate_scale = tf.Variable(1.0, trainable=False)  # lower only after a blow-up
      self.optimizer = _optimizer(recipe, self.steps_per_epoch, self.rate_scale)
      self.optimizer.build(self.model.trainable_variables)

    self.step = 0
    self._iterator = self._batches()

  def _batches(self) -> tf.distribute.DistributedIterator:
    """The global batches from the present step on, each host's slice of them."""
    replicas = self.strategy.num_replicas_in_sync

    def slice_of(host: tf.distribute.InputContext) -> tf.data.Dataset:
      local = replicas // host.num_input_pipelines
      mine = range(host.input_pipeline_id * local, (host.input_pipeline_id + 1) * local)
      return data.batches(
        self.train, self.recipe.seed, self.recipe.global_batch_size, replicas, mine, self.step
      )

    return iter(self.strategy.distribute_datasets_from_function(slice_of))

  @property
  def learning_rate(self) -> float:
    """Of the next step."""
    return float(self.optimizer.learning_rate)

  def advance(self, steps: int) -> tuple[np.ndarray, int]:
    """Trains: (the loss of each step, float32 (steps,), in nats; how many images were predicted right)."""
    losses, correct = self._train_steps(self._iterator, tf.constant(steps))
    self.step += steps
    return losses.numpy(), int(correct)

  def state(self) -> dict[str, np.ndarray]:
    """All that decides the steps to come. Batches, masks and mirrors follow from the step."""
    arrays = {
      f'variable/{i:03}': np.asarray(variable.numpy())
      for i, variable in enumerate(self._variables())
    }
    return {'step': np.array(self.step), **arrays}

  def restore(self, state: Mapping[str, np.ndarray]) -> None:
    """Goes on from where `state()` was taken, on these or on other devices."""
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
    parts = [self._slice(batch, rows) for rows in _slices(range(batch['labels'].shape[0]))]
    loss, right, *gradients = (_sum_pairwise(values) for values in zip(*parts))
    self.optimizer.apply(
      gradients, self.model.trainable_variables
    )  # sums the gradients over the replicas
    return loss, right

  def _slice(self, batch: dict[str, tf.Tensor], rows: range) -> tuple[tf.Tensor, ...]:
    """Returns what some rows of a batch add: to its mean loss, to the right predictions, to each gradient."""
    pixels, labels = (
      batch['pixels'][rows.start : rows.stop],
      batch['labels'][rows.start : rows.stop],
    )
    with noise.at(noise.Address(self.recipe.seed, batch['step'], batch['first_row'] + rows.start)):
      pixels = self._augment(pixels)  # uint8 (b, 28, 28, 1)
      with tf.GradientTape() as tape:
        probabilities = self.model(pixels, training=True)  # float32 (b, 10)
        loss = tf.reduce_sum(self._losses(labels, probabilities)) / self.recipe.global_batch_size
        scaled = self.optimizer.scale_loss(loss)
    right = tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == labels)
    return loss, right, *tape.gradient(scaled, self.model.trainable_variables)

  def _augment(self, pixels: tf.Tensor) -> tf.Tensor:
    pixels = augment.flip(pixels)
    if self.network.shift:
      pixels = augment.shift(pixels, self.network.shift)
    return augment.erase(pixels, self.network.erase) if self.network.erase else pixels

  def _losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Cross-entropy in nats, float32 (b,), against labels (b,) that are smoothed as the network wants it."""
    smoothing = self.network.label_smoothing
    if not smoothing:
      return keras.losses.sparse_categorical_crossentropy(labels, probabilities)
    targets = tf.one_hot(labels, models.CLASSES) * (1 - smoothing) + smoothing / models.CLASSES
    return keras.losses.categorical_crossentropy(targets, probabilities)

  def _average_weights(self) -> None:
    """Moves the average towards the weights; faster at first, when there is little to average."""
    step = tf.cast(self.optimizer.iterations.value, tf.float32)
    rate = 1 - tf.minimum(EMA_DECAY, (1 + step) / (10 + step))
    for average, weight in zip(self.averaged.trainable_variables, self.model.trainable_variables):
      move = lambda variable, target: variable.assign_sub(rate * (variable - target))
      self.strategy.extended.update(average.value, move, args=(weight.value,), group=False)


def _slices(rows: range) -> list[range]:
  """Halves a batch until one thread of a CPU can take each part by itself; a GPU takes the batch whole.

  Kernels that share one operation among threads wait for each other, and work on more memory than a core's caches hold:
  slices take a fifth less time. Their results do not depend on the number of threads; and as two replicas, or four, cut
  their parts of a batch where one replica cuts the whole, not on the number of replicas either.
  """
  if len(rows) <= SLICE_ROWS or tf.config.list_physical_devices('GPU'):
    return [rows]
  middle = rows.start + len(rows) // 2
  return [*_slices(range(rows.start, middle)), *_slices(range(middle, rows.stop))]


def _sum_pairwise(values: Sequence[tf.Tensor]) -> tf.Tensor:
  """Sums halves first, in the order in which replicas that have the halves would sum them."""
  if len(values) == 1:
    return values[0]
  middle = len(values) // 2
  # reduce_sum, because a grappler pass regroups chains of Add and AddN.
  return tf.reduce_sum(
    tf.stack([_sum_pairwise(values[:middle]), _sum_pairwise(values[middle:])]), axis=0
  )


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
  """Linear warm-up to `peak` over the first fifth of `steps`, then a half cosine down to a thousandth of it.

  The shape is SGDR's single cycle (Loshchilov and Hutter, arXiv 1608.03983) with a warm-up; `scale` multiplies it.
  """

  def __init__(self, peak: float, steps: int, scale: tf.Variable):
    self.warmup = max(int(WARMUP_FRACTION * steps), 1)
    self.shape = keras.optimizers.schedules.CosineDecay(
      peak / 20,
      max(steps - self.warmup, 1),
      alpha=0.001,
      warmup_target=peak,
      warmup_steps=self.warmup,
    )
    self.scale = scale

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    return self.scale * self.shape(step)


def _optimizer(
  recipe: Recipe, steps_per_epoch: int, rate_scale: tf.Variable
) -> keras.optimizers.Optimizer:
  """AdamW (Loshchilov and Hutter, arXiv 1711.05101); biases and gains do not decay."""
  schedule = OneCycle(recipe.learning_rate, recipe.epochs * steps_per_epoch, rate_scale)
  optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY)
  optimizer.exclude_from_weight_decay(var_names=['bias', 'gain'])
  return (
    keras.optimizers.LossScaleOptimizer(optimizer)
    if recipe.precision == 'mixed_float16'
    else optimizer
  )


def predict(strategy: tf.distribute.Strategy, model: keras.Model, pixels: np.ndarray) -> np.ndarray:
  """Probabilities, float32 (N, 10), of every one of the images, uint8 (N, 28, 28, 1), in their order."""
  replicas = strategy.num_replicas_in_sync

  def score(rows: tf.Tensor) -> tf.Tensor:
    slices = [rows[part.start : part.stop] for part in _slices(range(EVALUATION_ROWS))]
    return tf.concat([model(part, training=False) for part in slices], axis=0)

  forward = tf.function(lambda rows: strategy.gather(strategy.run(score, [rows]), axis=0))
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
