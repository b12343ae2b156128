"""The pages that trainer and scorer write: one look, and each one file with everything in it."""

import pathlib
from typing import Any

import jinja2

STYLE = pathlib.Path(__file__).with_name('style.css')


def render(template: pathlib.Path, **values: Any) -> str:
  """Returns the HTML of a Jinja template, which may import parts.html.

  In it, `style` is the style sheet.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(STYLE.parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(count='{:,}'.format, percent=_percent)
  page = environment.from_string(template.read_text('utf-8'))
  return page.render(style=STYLE.read_text('utf-8'), **values)


def _percent(value: float) -> str:
  return f'{100 * value:.2f} %'
