"""What the command prints last."""

import re
from collections.abc import Mapping
from typing import Any

from batch import names


def lines(summary: dict[str, Any], output: str) -> str:
  """Returns the summary in a few lines."""
  scored, now = summary['images_scored'], summary['images_scored_by_this_run']
  by_this_run = '' if now == scored else f'{now:,} of them by this run, '
  rate = f' ({summary["images_per_second"]:,.0f} images/s, including start-up)' if now else ''
  found = [
    f'{scored:,} images scored, {summary["images_rejected"]:,} rejected, {by_this_run}in '
    f'{summary["wall_seconds"]:.1f} s{rate}'
  ]
  if summary['accuracy'] is not None:
    found.append(
      f'accuracy on {summary["images_labelled"]:,} labelled images: {summary["accuracy"]:.4f}'
    )
  if summary['repeated_ids']:
    found.append(f'images whose id an earlier one has: {summary["repeated_ids"]:,}')
  if summary['passed_over']:
    found.append(f'passed over: {format_counts(summary["passed_over"])}')
  found.append(f'report: {names.exact(output.rstrip("/"))}/report.html')
  foreign = summary['images_with_foreign_label']
  if foreign > summary['images_labelled']:
    found.append(
      f'{foreign:,} images have a label that is not one of the model, such as '
      f'{", ".join(map(repr, list(summary["foreign_labels"])[:3]))}; pass --label_map or '
      '--label_offset'
    )
  return '\n'.join(found)


def submitted(output: str) -> str:
  """Returns what happens next to a job that this command does not wait for."""
  return (
    'submitted; the job has not run yet. Its last step writes summary.json, report.html and, '
    f'unless too many images were rejected, _SUCCESS to {names.exact(output)}'
  )


def format_counts(counts: Mapping[str, int]) -> str:
  """Returns such text as '2 hidden files, 1 link to a directory'."""
  return ', '.join(f'{count:,} {_inflected(kind, count)}' for kind, count in counts.items())


def _inflected(kind: str, count: int) -> str:
  """Returns a singular noun, or its plural unless `count` is 1."""
  noun, *rest = re.split(r'(?= (?:to|of|in|with|without|that)\b| \()', kind, maxsplit=1)
  if count == 1 or noun.startswith('not '):
    return kind
  plural = f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}s'
  return ''.join([plural, *rest])
