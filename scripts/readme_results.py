"""Writes the README's table of results, one column per kind of processor.

usage: readme_results.py          after make figures or make figures-best

A figure that was not measured on a kind is a dash. One that is older than the newest of its
column is followed by its own date.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

README = pathlib.Path('README.md')
RESULTS = pathlib.Path('benchmarks/results')
BEGIN, END = '<!-- results -->\n', '<!-- end of results -->'
DASH = '-'
KINDS = ('avx2', 'avx512', 'avx512-bf16', 'amx')  # the order of the columns; others follow by name


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table: its title, its file, its cell, and the command that measures it."""

  what: str
  name: str
  cell: Callable[[dict], str]
  command: str


@dataclasses.dataclass(frozen=True)
class Column:
  """What was measured on one kind of processor, by file name."""

  kind: str
  files: dict[str, dict]

  def day(self, name: str) -> str:
    """Returns the date of a file; the scorer's summary has the date of its machine."""
    found = self.files[name]
    date = found.get('finished') or found.get('machine', {}).get('date') or found.get('date')
    return (date or self.files['machine']['date'])[:10]

  def days(self) -> list[str]:
    """Returns the dates of all its files in the table."""
    return sorted({self.day(row.name) for row in ROWS if row.name in self.files})

  def header(self) -> str:
    """Returns the kind, the processor and the dates."""
    machine = self.files['machine']
    parts = [self.kind.upper(), machine['cpu'], f'{machine["cores"]} cores', *machine['gpus']]
    return ', '.join([*parts, *self.days()])

  def cell(self, row: Row) -> str:
    """Returns the cell of a row."""
    if row.name not in self.files:
      return DASH
    figure, day = row.cell(self.files[row.name]), self.day(row.name)
    return figure if day == self.days()[-1] or figure == DASH else f'{figure} ({day})'


def columns() -> list[Column]:
  """Returns the column of each folder that has results.

  Raises:
    SystemExit: a folder has no machine.json, or a file of another kind.
  """
  found = []
  for folder in sorted(RESULTS.iterdir(), key=_order):
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))}
    if not files:
      continue
    if 'machine' not in files:
      sys.exit(f'{folder}: has no machine.json; write it with python -m benchmarks.machine')
    for name, content in files.items():
      kind = content.get('machine', {}).get('kind', folder.name)
      if kind != folder.name:
        sys.exit(f'{folder}/{name}.json: is of kind {kind}; move it to {RESULTS / kind}')
    found.append(Column(folder.name, files))
  return found


def _order(folder: pathlib.Path) -> tuple[int, str]:
  known = folder.name in KINDS
  return KINDS.index(folder.name) if known else len(KINDS), folder.name


def one_run(run: dict) -> str:
  """Returns the accuracies of a run."""
  return f'**{run["test_accuracy"]:.2%}** ({run["val_accuracy"]:.2%})'


def over_seeds(seeds: dict) -> str:
  """Returns mean and deviation of the accuracies."""

  def spread(name: str) -> str:
    mean, deviation = seeds[name]['mean'], seeds[name]['deviation']
    return f'{mean:.2%}' if deviation is None else f'{mean:.2%} ± {deviation:.2%}'

  count = len(seeds['regime']['seeds'])
  return f'**{spread("test_accuracy")}** ({spread("val_accuracy")}), {count} seeds'


def training_rate(train: dict) -> str:
  """Returns our rate and the notebook's."""
  return (
    f'**{train["images_per_second"]:,}** in {train["precision"]}; '
    f'the notebook {train["notebook_images_per_second"]:,}: {train["speedup"]:.2f} times'
  )


def training_race(train: dict) -> str:
  """Returns our seconds and the notebook's, or a dash if the races were left out."""
  if train['regime'].get('max_epochs') == 0:
    return DASH

  def seconds(name: str) -> str:
    return 'not reached' if train[name] is None else f'{train[name]:.0f} s'

  ours, notebook = seconds('seconds_to_seed_accuracy'), seconds('notebook_seconds_to_seed_accuracy')
  return f'**{ours}**; the notebook {notebook}'


def training_memory(train: dict) -> str:
  """Returns the peak of a training."""
  return f'{train["peak_rss_bytes"] / 2**30:.2f} GiB'


def scoring_rate(score: dict) -> str:
  """Returns our rate and the rivals'."""
  parts = [f'**{_rate(score["images_per_second"])}**']
  for what, rate, speedup in (
    ('stock RunInference', 'stock_runinference_images_per_second', 'speedup_over_stock'),
    ('bare tf.data loop', 'bare_loop_images_per_second', 'speedup_over_bare'),
  ):
    times = f': {score[speedup]:.2f} times' if score[speedup] else ''
    parts.append(f'{what} {_rate(score[rate])}{times}')
  images = max(score['regime']['images'])
  return '; '.join(parts) + f' ({images:,} images)'


def _rate(value: float | None) -> str:
  return DASH if value is None else f'{value:,.0f}'


def peers_rate(peers: dict) -> str:
  """Returns our rate and those of Spark, Ray and Beam."""
  found, images = peers['images_per_second'], peers['regime']['images']
  parts = [f'**{_rate(found["ours"])}**']
  for way, name in (
    ('spark', "Spark's predict_batch_udf"),
    ('ray', 'Ray Data'),
    ('stock', 'stock RunInference'),
  ):
    if way not in found:
      continue
    times = peers['speedup'][way]
    parts.append(f'{name} {_rate(found[way])}' + (f': {times:.2f} times' if times else ''))
  return '; '.join(parts) + f' ({images:,} images)'


def scoring_memory(score: dict) -> str:
  """Returns the scorer's peaks by size of the collection."""
  peaks = score['peak_rss_bytes'].get('ours', {})
  return ', '.join(f'{size / 2**30:.2f} GiB at {int(n):,}' for n, size in peaks.items()) or DASH


def scored_files(scored: dict) -> str:
  """Returns the accuracy of a scored collection."""
  return f'accuracy {scored["accuracy"]:.2%}, {scored["images_rejected"]} rejected'


NOTEBOOK = "the notebook's: 91.33% (90.62%)"
BEST = '`python -m trainer.main --model=best --workdir=runs/best`'
TRAIN, SCORE = '`python -m benchmarks.train`', '`python -m benchmarks.score`'
ROWS = (
  Row(f'Seed CNN, test accuracy (validation); {NOTEBOOK}', 'run', one_run, '`make run`'),
  Row('The same, mean ± standard deviation', 'seeds', over_seeds, '`python -m benchmarks.seeds`'),
  Row('The `best` network, test accuracy (validation)', 'best', one_run, BEST),
  Row('Training, images/s', 'train', training_rate, TRAIN),
  Row('Training until 91.33% on test', 'train', training_race, TRAIN),
  Row('Peak memory of a training', 'train', training_memory, TRAIN),
  Row('Scoring PNGs, images/s', 'score', scoring_rate, SCORE),
  Row('Scoring PNGs in Parquet, images/s', 'peers', peers_rate, '`python -m benchmarks.peers`'),
  Row('Peak memory of scoring, all processes', 'score', scoring_memory, SCORE),
  Row('The 10,000 test images as PNG files, scored', 'scored', scored_files, '`make run`'),
)


def table() -> str:
  """Returns the table in Markdown."""
  measured = columns()
  lines = [['what', *(column.header() for column in measured), 'command']]
  lines.append(['---'] * len(lines[0]))
  lines += [[row.what, *(column.cell(row) for column in measured), row.command] for row in ROWS]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def main() -> None:
  """Replaces the table in the README."""
  before, rest = README.read_text().split(BEGIN)
  README.write_text(before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == '__main__':
  main()
