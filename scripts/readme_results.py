"""Writes the README's table of results, a column a kind of processor, from benchmarks/results/KIND.

usage: readme_results.py          after make figures; make figures-best for that network's line

A figure that nobody has measured on a kind is a dash. One that is older than the newest of its
column has its own date beside it.
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
  """A line of the table: what it says, of which file, and the command that measures it."""

  what: str
  name: str
  cell: Callable[[dict], str]
  command: str


@dataclasses.dataclass(frozen=True)
class Column:
  """What was measured on one kind of processor, by the files' names."""

  kind: str
  files: dict[str, dict]

  def day(self, name: str) -> str:
    """Returns when a file was measured; the scorer's summary has no date of its own."""
    found = self.files[name]
    date = found.get('finished') or found.get('machine', {}).get('date') or found.get('date')
    return (date or self.files['machine']['date'])[:10]

  def days(self) -> list[str]:
    return sorted({self.day(row.name) for row in ROWS if row.name in self.files})

  def header(self) -> str:
    machine = self.files['machine']
    parts = [self.kind.upper(), machine['cpu'], f'{machine["cores"]} cores', *machine['gpus']]
    return ', '.join([*parts, *self.days()])

  def cell(self, row: Row) -> str:
    if row.name not in self.files:
      return DASH
    figure, day = row.cell(self.files[row.name]), self.day(row.name)
    return figure if day == self.days()[-1] else f'{figure} ({day})'


def columns() -> list[Column]:
  """Returns one for each folder of results that has any.

  Raises:
    SystemExit: a folder lacks its machine, or has a file of another kind.
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
  return f'**{run["test_accuracy"]:.2%}** ({run["val_accuracy"]:.2%})'


def over_seeds(seeds: dict) -> str:
  def spread(name: str) -> str:
    mean, deviation = seeds[name]['mean'], seeds[name]['deviation']
    return f'{mean:.2%}' if deviation is None else f'{mean:.2%} ± {deviation:.2%}'

  count = len(seeds['regime']['seeds'])
  return f'**{spread("test_accuracy")}** ({spread("val_accuracy")}), {count} seeds'


def training_rate(train: dict) -> str:
  return (
    f'**{train["images_per_second"]:,}** in {train["precision"]}; '
    f'the notebook {train["notebook_images_per_second"]:,}: {train["speedup"]:.2f} times'
  )


def training_race(train: dict) -> str:
  def seconds(name: str) -> str:
    return 'not reached' if train[name] is None else f'{train[name]:.0f} s'

  ours, notebook = seconds('seconds_to_seed_accuracy'), seconds('notebook_seconds_to_seed_accuracy')
  return f'**{ours}**; the notebook {notebook}'


def training_memory(train: dict) -> str:
  return f'{train["peak_rss_bytes"] / 2**30:.2f} GiB'


def scoring_rate(score: dict) -> str:
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


def spark_rate(spark: dict) -> str:
  names = ('images_per_second', 'spark_warm_images_per_second', 'spark_cold_images_per_second')
  ours, warm, cold = (_rate(spark[name]) for name in names)
  times = spark['speedup_over_spark_warm']
  compared = f' ({times:.2f} times)' if times else ''
  images = f'{spark["regime"]["images"]:,} images'
  return f'**{ours}**; predict_batch_udf of Spark {warm} warm{compared}, {cold} cold ({images})'


def scoring_memory(score: dict) -> str:
  peaks = score['peak_rss_bytes'].get('ours', {})
  return ', '.join(f'{size / 2**30:.2f} GiB at {int(n):,}' for n, size in peaks.items()) or DASH


def scored_files(scored: dict) -> str:
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
  Row('Scoring PNGs in Parquet, images/s', 'spark', spark_rate, '`python -m benchmarks.spark`'),
  Row('Peak memory of scoring, all processes', 'score', scoring_memory, SCORE),
  Row('The 10,000 test images as PNG files, scored', 'scored', scored_files, '`make run`'),
)


def table() -> str:
  measured = columns()
  lines = [['what', *(column.header() for column in measured), 'command']]
  lines.append(['---'] * len(lines[0]))
  lines += [[row.what, *(column.cell(row) for column in measured), row.command] for row in ROWS]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def main() -> None:
  before, rest = README.read_text().split(BEGIN)
  README.write_text(before + BEGIN + table() + END + rest.split(END)[1])


if __name__ == '__main__':
  main()
