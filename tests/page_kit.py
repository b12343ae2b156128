"""Helpers of the tests that open the reports in a browser."""

import pathlib

NAME = '<b>$x$ 日本語 فستان' + ' überlang' * 8  # of a class, for which there must be room

# The texts of elements that reach over the edges of their card, but for ids, in <small>.
OUTSIDE = """[...document.querySelectorAll('section')].flatMap(card => {
  const [left, right] = [card.getBoundingClientRect().left, card.getBoundingClientRect().right];
  return [...card.querySelectorAll('*')].filter(each => {
    const box = each.getBoundingClientRect();
    return !each.closest('small') && box.width && (box.left < left || box.right > right);
  }).map(each => each.textContent);
})"""


def opened(browser, path: pathlib.Path):
  """Returns a page of the browser with this file."""
  page = browser.new_page(viewport={'width': 1200, 'height': 900})
  page.goto(path.as_uri())
  return page
