"""The report of a run: figures, and one self-contained page."""

import base64
import io
import math
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pages
from trainer import data, quality, report_pictures, workdir
from trainer.config import Recipe
from trainer.datasets import Dataset

TEMPLATE = pathlib.Path(__file__).with_name('report.html')
INK, QUIET, TRAINING, VALIDATION = '#1b1f24', '#8b949e', '#c2571a', '#1f5fa8'
SIDE = 28  # of a picture's longer side, in the axes' units
CAPTION: dict[str, Any] = {
  'ha': 'center',
  'va': 'bottom',
  'fontsize': 7.5,
  'color': INK,
  'parse_math': False,
}
MAX_CAPTION = 13  # characters of a label below a picture
EXTRAS = {  # settings of which the command to reproduce a run names only the unusual
  name: getattr(Recipe, name)
  for name in ('image_size', 'channels', 'flip', 'class_weights', 'init_from', 'calibrate')
}
MAX_ROWS = 30  # of a table of classes, confusions or samples


def write(
  directory: str,
  metrics: Mapping,
  dataset: Dataset,
  history: Sequence[Mapping[str, float]],
  train: data.Examples,
  test: data.Examples,
  probabilities: np.ndarray,
) -> None:
  """Writes report/*.png and report/report.html into the workdir.

  Args:
    directory: the workdir, local or gs://.
    metrics: as in metrics.json.
    dataset: what it was trained on.
    history: one row per epoch, as in history.csv.
    train: the training images, some of which are shown.
    test: the test images.
    probabilities: float32 (N, classes), the model's predictions for `test`.
  """
  figures = {
    'samples': samples(train, dataset.labels[:MAX_ROWS]),
    'curves': curves(history, metrics['best_epoch']),
    'reliability': reliability(metrics['reliability']),
    'mistakes': mistakes(test, probabilities, dataset.labels),
  }
  images = {name: _png(figure) for name, figure in figures.items()}
  for name, image in images.items():
    workdir.write(os.path.join(directory, 'report', f'{name}.png'), image)
  shown = page(
    metrics,
    dataset,
    images={name: base64.b64encode(images[name]).decode() for name in ('curves', 'reliability')},
    mistakes=report_pictures.mistakes(test, probabilities, dataset.labels),
    samples=report_pictures.samples(train, dataset.labels[:MAX_ROWS]),
  )
  workdir.write(os.path.join(directory, 'report', 'report.html'), shown)


def page(metrics: Mapping, dataset: Dataset, **pictures: Any) -> str:
  """Returns the page with its pictures, PNG in base64, embedded."""
  return pages.render(
    TEMPLATE,
    metrics=metrics,
    dataset=dataset,
    extras={name: metrics[name] for name, usual in EXTRAS.items() if metrics[name] != usual},
    classes=_classes(metrics['per_class']),
    confusions=quality.top_confusions(dict(metrics), dataset.labels, MAX_ROWS),
    test_images=sum(figures['test_images'] for figures in metrics['per_class'].values()),
    **pictures,
  )


def _classes(per_class: Mapping[str, Mapping]) -> dict[str, Mapping]:
  """Returns the figures of each class or, of many, of those that are recognised least."""
  if len(per_class) <= MAX_ROWS:
    return dict(per_class)
  tested = [item for item in per_class.items() if item[1]['test_images']]
  order = sorted(tested, key=lambda item: (item[1]['recall'], -item[1]['test_images']))
  return dict(order[:MAX_ROWS])


def samples(train: data.Examples, labels: Sequence[str], columns: int = 12) -> Figure:
  """Draws the first `columns` training images of each class, one row per class."""
  figure = Figure(figsize=(columns * 0.62 + 0.9, len(labels) * 0.62), layout='tight')
  axis, pitch = figure.subplots(), SIDE + 3
  for row, label in enumerate(labels):
    for column, pixels in enumerate(train.pixels[np.flatnonzero(train.labels == row)[:columns]]):
      shown = report_pictures.shrunk(pixels)  # or the figure would hold hundreds of whole pictures
      _picture(axis, shown, left=pitch * column, top=pitch * row)
    caption = {**CAPTION, 'ha': 'right', 'va': 'center'}
    axis.text(-4, pitch * row + SIDE / 2, _short(label), **caption)
  return figure


def curves(history: Sequence[Mapping[str, float]], best_epoch: int) -> Figure:
  """Draws accuracy and loss per epoch, of validation and training.

  Training figures are measured during training, with dropout on.
  """
  figure = Figure(figsize=(9, 3.4), layout='tight')
  accuracy, loss = figure.subplots(1, 2)
  for axis, name, unit in (
    (accuracy, 'accuracy', 'fraction correct'),
    (loss, 'loss', 'cross-entropy, nats'),
  ):
    _plot(axis, history, f'train_{name}', 'training', TRAINING)
    _plot(axis, history, f'val_{name}', 'validation', VALIDATION)
    axis.axvline(best_epoch, color=QUIET, linewidth=0.8, linestyle=':')
    axis.set_title(name.capitalize(), loc='left', color=INK, fontsize=11)
    axis.set_xlabel('epoch')
    axis.set_ylabel(unit)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(color=QUIET, alpha=0.2)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False)
  return figure


def _plot(
  axis: Axes, history: Sequence[Mapping[str, float]], column: str, label: str, colour: str
) -> None:
  """Draws one column of the history."""
  epochs, values = [row['epoch'] for row in history], [row[column] for row in history]
  axis.plot(epochs, values, color=colour, label=label, marker='o', markersize=2.5)


def reliability(bins: Sequence[Mapping[str, float]]) -> Figure:
  """Draws the accuracy of the predictions of about one confidence, which it should equal."""
  figure = Figure(figsize=(5.2, 4.2), layout='tight')
  axis = figure.subplots()
  images = np.array([each['images'] for each in bins])
  confidence = [each['confidence'] for each in bins]
  axis.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=':')
  axis.scatter(
    confidence,
    [each['accuracy'] for each in bins],
    s=12 + 120 * images / images.max(),  # points squared
    color=VALIDATION,
    clip_on=False,
    zorder=3,
  )
  axis.set_xlabel('confidence')
  axis.set_ylabel('fraction correct')
  axis.set_xlim(0, 1.02)
  axis.set_ylim(0, 1.02)
  axis.grid(color=QUIET, alpha=0.2)
  axis.spines[['top', 'right']].set_visible(False)
  return figure


def mistakes(
  test: data.Examples,
  probabilities: np.ndarray,
  labels: Sequence[str],
  count: int = 24,
  columns: int = 6,
) -> Figure:
  """Draws the most confident wrong predictions, each with its true and its predicted class.

  A picture that occurs more often is drawn once, with the number of times.
  """
  surest = report_pictures.surest_mistakes(test, probabilities)[:count]
  rows = max(math.ceil(len(surest) / columns), 1)
  figure = Figure(figsize=(9.6, 1.6 * rows), layout='tight')
  axis = figure.subplots()
  for place, (i, number) in enumerate(surest):
    row, column = divmod(place, columns)
    left, top = (SIDE + 16) * column, (SIDE + 13) * row
    _picture(axis, test.pixels[i], left, top)
    answer, truth = (_short(labels[j]) for j in (probabilities[i].argmax(), test.labels[i]))
    times = f' ({number} times)' if number > 1 else ''
    caption = f'is {truth}{times}\nsaid {answer} {probabilities[i].max():.1%}'
    axis.text(left + SIDE / 2, top - 1, caption, **CAPTION)
  axis.axis('off')
  axis.set_xlim(-8, (SIDE + 16) * columns - 8)
  axis.set_ylim((SIDE + 13) * rows - 13, -13)
  return figure


def _short(label: str) -> str:
  return label if len(label) <= MAX_CAPTION else f'{label[: MAX_CAPTION - 1]}…'


def _picture(axis: Axes, pixels: np.ndarray, left: int, top: int) -> None:
  """Draws one image, uint8 (height, width, channels); a grey one is dark on white."""
  rows, columns, channels = pixels.shape
  height, width = SIDE * rows / max(rows, columns), SIDE * columns / max(rows, columns)
  image = pixels[..., 0] if channels == 1 else pixels
  extent = (left, left + width, top + height, top)
  axis.imshow(image, cmap='gray_r', vmin=0, vmax=255, extent=extent)
  axis.axis('off')
  axis.autoscale()


def _png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  with warnings.catch_warnings():  # of letters that its font lacks; the page has them as text
    warnings.filterwarnings('ignore', 'Glyph')
    figure.savefig(buffer, format='png', dpi=130)
  return buffer.getvalue()
