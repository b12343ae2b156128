"""Figures and one self-contained page from what a run found."""

import base64
import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer import data, workdir

INK, QUIET, TRAINING, VALIDATION = '#1b1f24', '#8b949e', '#c2571a', '#1f5fa8'


def write(
  directory: str,
  metrics: Mapping,
  history: Sequence[Mapping[str, float]],
  train: data.Examples,
  test: data.Examples,
  probabilities: np.ndarray,
) -> None:
  """Writes report/*.png and report/report.html into the workdir.

  Args:
    directory: the workdir, local or gs://.
    metrics: as in metrics.json.
    history: a row an epoch, as in history.csv.
    train: where the samples come from.
    test: what was tested on.
    probabilities: float32 (N, 10), the model's answer to `test`.
  """
  labels = list(metrics['per_class'])
  figures = {
    'samples': samples(train, labels),
    'curves': curves(history, metrics['best_epoch']),
    'confusion': confusion(np.array(metrics['confusion']), labels),
    'mistakes': mistakes(test, probabilities, labels),
  }
  images = {name: _png(figure) for name, figure in figures.items()}
  for name, image in images.items():
    workdir.write(os.path.join(directory, 'report', f'{name}.png'), image)
  workdir.write(os.path.join(directory, 'report', 'report.html'), page(metrics, images))


def page(metrics: Mapping, images: Mapping[str, bytes]) -> str:
  """The page, its pictures (PNG) inside it."""
  template = pathlib.Path(__file__).with_name('report.html').read_text()
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
  return environment.from_string(template).render(metrics=metrics, images=encoded)


def samples(train: data.Examples, labels: Sequence[str], columns: int = 12) -> Figure:
  """The first `columns` training images of each class, a row a class."""
  figure = Figure(figsize=(columns * 0.62 + 0.9, len(labels) * 0.62), layout='tight')
  axis = figure.subplots()
  for row, label in enumerate(labels):
    for column, pixels in enumerate(train.pixels[train.labels == row][:columns]):
      _picture(axis, pixels, left=31 * column, top=31 * row)
    axis.text(-4, 31 * row + 14, label, ha='right', va='center', color=INK, fontsize=9)
  return figure


def curves(history: Sequence[Mapping[str, float]], best_epoch: int) -> Figure:
  """Accuracy and loss an epoch, in training (as it trains: noise on, weights moving) and on validation."""
  figure = Figure(figsize=(9, 3.4), layout='tight')
  epochs = [row['epoch'] for row in history]
  for axis, name, unit in zip(
    figure.subplots(1, 2), ('accuracy', 'loss'), ('fraction correct', 'cross-entropy, nats')
  ):
    for kind, colour, label in (('train', TRAINING, 'training'), ('val', VALIDATION, 'validation')):
      axis.plot(
        epochs,
        [row[f'{kind}_{name}'] for row in history],
        color=colour,
        label=label,
        marker='o',
        markersize=2.5,
      )
    axis.axvline(best_epoch, color=QUIET, linewidth=0.8, linestyle=':')
    axis.set_title(name.capitalize(), loc='left', color=INK, fontsize=11)
    axis.set_xlabel('epoch')
    axis.set_ylabel(unit)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(color=QUIET, alpha=0.2)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False)
  return figure


def confusion(counts: np.ndarray, labels: Sequence[str]) -> Figure:
  """Test images by true class (rows) and predicted class (columns), coloured by the share of the row."""
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  figure = Figure(figsize=(6.4, 5.6), layout='tight')
  axis = figure.subplots()
  axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
  for (row, column), count in np.ndenumerate(counts):
    if count:
      axis.text(
        column,
        row,
        count,
        ha='center',
        va='center',
        fontsize=7.5,
        color='white' if share[row, column] > 0.5 else INK,
      )
  axis.set_xticks(range(len(labels)), labels, rotation=45, ha='right', fontsize=8)
  axis.set_yticks(range(len(labels)), labels, fontsize=8)
  axis.set_xlabel('predicted')
  axis.set_ylabel('true')
  axis.spines[:].set_visible(False)
  axis.tick_params(length=0)
  return figure


def mistakes(
  test: data.Examples,
  probabilities: np.ndarray,
  labels: Sequence[str],
  count: int = 24,
  columns: int = 6,
) -> Figure:
  """The wrong answers that the model was surest of, each with its true and its predicted class."""
  predicted = probabilities.argmax(axis=1)
  wrong = np.flatnonzero(predicted != test.labels)
  surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind='stable')][:count]
  figure = Figure(figsize=(9.6, 6.4), layout='tight')
  axis = figure.subplots()
  for place, i in enumerate(surest):
    row, column = divmod(place, columns)
    left, top = 44 * column, 41 * row
    _picture(axis, test.pixels[i], left, top)
    truth, answer, confidence = (
      labels[test.labels[i]],
      labels[predicted[i]],
      probabilities[i, predicted[i]],
    )
    said = f'is {truth}\nsaid {answer} {confidence:.1%}'
    axis.text(left + 14, top - 1, said, ha='center', va='bottom', fontsize=7.5, color=INK)
  return figure


def _picture(axis: Axes, pixels: np.ndarray, left: int, top: int) -> None:
  """Draws one image, uint8 (28, 28, 1), dark on white as the catalogue had it, a unit a pixel."""
  axis.imshow(
    pixels[..., 0], cmap='gray_r', vmin=0, vmax=255, extent=(left, left + 28, top + 28, top)
  )
  axis.axis('off')
  axis.autoscale()


def _png(figure: Figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=130)
  return buffer.getvalue()
