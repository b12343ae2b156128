"""Writes the README's table of results from what the commands in it left behind.

usage: readme_results.py          after make run, and make figures for the benchmarks' lines
"""

import json
import pathlib

README = pathlib.Path('README.md')
RESULTS = pathlib.Path('benchmarks/results')
BEGIN, END = '<!-- results -->\n', '<!-- end of results -->'


def rows() -> list[tuple[str, str, str]]:
  """(what, figure, command) of each line."""
  run, scored, seeds, best, train, score = (
    json.loads((RESULTS / f'{name}.json').read_text()) for name in ('run', 'scored', 'seeds', 'best', 'train', 'score')
  )
  over_seeds = lambda name: f'{seeds[name]["mean"]:.2%} ± {seeds[name]["deviation"]:.2%}'
  bench, scoring = '`python -m benchmarks.train`', '`python -m benchmarks.score`'
  regime = f'{train["regime"]["cores"]} cores, {train["precision"]}'
  race = lambda name: 'not reached' if train[name] is None else f'{train[name]:.0f} s'
  ours, stock, bare = (
    score[name] for name in ('images_per_second', 'stock_runinference_images_per_second', 'bare_loop_images_per_second')
  )
  memory = score['peak_rss_bytes']['ours']
  million = max(memory, key=int)
  return [
    (
      'Seed CNN, test accuracy (validation), one seed',
      f'**{run["test_accuracy"]:.2%}** ({run["val_accuracy"]:.2%}); the notebook 91.33 % (90.62 %)',
      '`make run`',
    ),
    (
      f'The same over {len(seeds["regime"]["seeds"])} seeds, mean ± standard deviation',
      f'**{over_seeds("test_accuracy")}** ({over_seeds("val_accuracy")})',
      '`python -m benchmarks.seeds`',
    ),
    (
      f'The `best` network, {best["parameters"]:,} parameters, one seed',
      f'**{best["test_accuracy"]:.2%}** ({best["val_accuracy"]:.2%})',
      '`python -m trainer.main --model=best --workdir=runs/best`',
    ),
    (
      f'Training, images/s ({regime})',
      f'**{train["images_per_second"]:,}**; the notebook {train["notebook_images_per_second"]:,}: '
      f'{train["speedup"]:.2f} times',
      bench,
    ),
    (
      'Training until 91.33 % on test',
      f'**{race("seconds_to_seed_accuracy")}**; the notebook {race("notebook_seconds_to_seed_accuracy")}',
      bench,
    ),
    ('Peak memory of a training', f'{train["peak_rss_bytes"] / 2**30:.2f} GiB', bench),
    (
      f'Scoring {int(million):,} PNGs, images/s ({score["regime"]["cores"]} cores)',
      f'**{ours:,.0f}**; stock RunInference {stock:,.0f}: {score["speedup_over_stock"]:.2f} times; '
      f'bare tf.data loop {bare:,.0f}: {score["speedup_over_bare"]:.2f} times',
      scoring,
    ),
    (
      'Peak memory of scoring, all processes',
      ', '.join(f'{size / 2**30:.2f} GiB at {int(images):,}' for images, size in memory.items()),
      scoring,
    ),
    (
      'The 10,000 test images as PNG files, scored',
      f'accuracy {scored["accuracy"]:.2%}, {scored["images_rejected"]} rejected',
      '`make run`',
    ),
  ]


def main() -> None:
  table = ''.join(f'| {" | ".join(row)} |\n' for row in [('what', 'figure', 'command'), ('---',) * 3, *rows()])
  before, rest = README.read_text().split(BEGIN)
  README.write_text(before + BEGIN + table + END + rest.split(END)[1])


if __name__ == '__main__':
  main()
