"""Measures the style that CONTRIBUTING.md asks of the product's code. Prints one line per figure.

usage: style_report.py [--check] [--places]

With --check the exit status is 1 if a figure is out of bounds; what counts against it is listed.
Only functions with a body are counted; a method of a Protocol is a declaration.
"""

import argparse
import ast
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator

from import_cycles import import_cycles

PACKAGES = ('runtime', 'storage', 'images', 'pages', 'trainer', 'batch')
MAX_FILE_LINES, MAX_FUNCTION_LINES = 250, 40
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Third-person verbs that may open a docstring. The list is explicit because many words that end in
# -s are no verbs, such as "Its" and "Bytes", or more often nouns, such as "Samples" and "Names".
VERBS = frozenset(pathlib.Path(__file__).with_name('style_verbs.txt').read_text().split())


@dataclasses.dataclass(frozen=True)
class Module:
  """A source file, parsed."""

  path: pathlib.Path
  lines: int
  tree: ast.Module

  @property
  def name(self) -> str:
    """Its dotted name."""
    parts = self.path.with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)

  def functions(self) -> Iterator[tuple[Function, bool]]:
    """Yields every function that has a body, and whether it is public."""
    yield from _functions_in(self.tree, is_public=True)


def _functions_in(scope: ast.AST, is_public: bool) -> Iterator[tuple[Function, bool]]:
  for node in ast.iter_child_nodes(scope):
    if isinstance(node, Function):
      if _has_body(node):
        yield node, is_public and not node.name.startswith('_')
      yield from _functions_in(node, is_public=False)
    elif isinstance(node, ast.ClassDef):
      yield from _functions_in(node, is_public and not node.name.startswith('_'))
    else:
      yield from _functions_in(node, is_public)


def _has_body(function: Function) -> bool:
  body = function.body[1:] if ast.get_docstring(function) is not None else function.body
  return not all(
    isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
  )


def _is_noun_phrase_allowed(function: Function) -> bool:
  """Returns whether it is a property, or __init__, whose docstring describes its arguments."""
  decorators = {ast.unparse(decorator).split('(')[0] for decorator in function.decorator_list}
  is_property = any(name.endswith('property') for name in decorators)
  return is_property or function.name == '__init__'


def _opens_with_verb(docstring: str) -> bool:
  return docstring.split()[0].strip('.,:;') in VERBS


def read_modules() -> list[Module]:
  """Returns the product's modules; the current directory is the checkout."""
  paths = sorted(path for package in PACKAGES for path in pathlib.Path(package).rglob('*.py'))
  texts = [(path, path.read_text()) for path in paths]
  return [Module(path, len(text.splitlines()), ast.parse(text)) for path, text in texts]


@dataclasses.dataclass(frozen=True)
class Figure:
  """A measured figure, its bound if it has one, and the places that count against it."""

  what: str
  value: float
  unit: str = ''
  at_least: float | None = None
  at_most: float | None = None
  places: tuple[str, ...] = ()

  def is_met(self) -> bool:
    """Returns whether the figure is within its bound."""
    above = self.at_least is None or self.value >= self.at_least
    return above and (self.at_most is None or self.value <= self.at_most)

  def __str__(self) -> str:
    bound = ''
    if self.at_least is not None:
      bound = f' (at least {self.at_least:g})'
    elif self.at_most is not None:
      bound = f' (at most {self.at_most:g})'
    return f'{self.what}: {self.value:g}{self.unit}{bound}'


def _percent(part: int, whole: int) -> float:
  return round(100 * part / whole, 1) if whole else 100.0


def _length(function: Function) -> int:
  return (function.end_lineno or function.lineno) - function.lineno + 1


def docstring_figures(modules: list[Module]) -> Iterator[Figure]:
  """Yields how docstrings open, and how many public functions have one."""
  silent, nouns, documented, public = [], [], 0, 0
  for module in modules:
    for function, is_public in module.functions():
      docstring, place = ast.get_docstring(function), _place(module, function)
      public += is_public
      if docstring is None and is_public:
        silent.append(place)
      if docstring is not None and not _is_noun_phrase_allowed(function):
        documented += 1
        if not _opens_with_verb(docstring):
          nouns.append(f'{place}: {docstring.splitlines()[0][:60]}')
  verbs = _percent(documented - len(nouns), documented)
  yield Figure('docstrings that open with a verb', verbs, ' %', at_least=97, places=tuple(nouns))
  covered = _percent(public - len(silent), public)
  yield Figure('public functions with one', covered, ' %', at_least=95, places=tuple(silent))


def _place(module: Module, function: Function) -> str:
  return f'{module.path}:{function.lineno}: {function.name}'


def length_figures(modules: list[Module]) -> Iterator[Figure]:
  """Yields the lengths of functions and files."""
  lengths = {
    _place(module, function): _length(function)
    for module in modules
    for function, _ in module.functions()
  }
  long = tuple(place for place, length in lengths.items() if length > MAX_FUNCTION_LINES)
  large = tuple(str(module.path) for module in modules if module.lines > MAX_FILE_LINES)
  tenths = statistics.quantiles(lengths.values(), n=10)
  yield Figure('function length, median', statistics.median(lengths.values()), at_most=8)
  yield Figure('function length, 90th percentile', round(tenths[-1], 1), at_most=22)
  yield Figure('function length, maximum', max(lengths.values()))
  yield Figure(f'functions over {MAX_FUNCTION_LINES} lines', len(long), at_most=0, places=long)
  yield Figure(f'files over {MAX_FILE_LINES} lines', len(large), at_most=0, places=large)


def expression_figures(modules: list[Module]) -> Iterator[Figure]:
  """Yields import cycles, lambdas, and how much of the code has types."""
  cycles = import_cycles({module.name: module.tree for module in modules})
  yield Figure('import cycles', len(cycles), at_most=0, places=tuple(cycles))
  lines = sum(module.lines for module in modules)
  lambdas = tuple(
    f'{module.path}:{node.lineno}'
    for module in modules
    for node in ast.walk(module.tree)
    if isinstance(node, ast.Lambda)
  )
  rate = round(1000 * len(lambdas) / lines, 1)
  yield Figure('lambdas per 1,000 lines', rate, at_most=3, places=lambdas)
  functions = [function for module in modules for function, _ in module.functions()]
  arguments = [argument for function in functions for argument in _arguments(function)]
  typed = sum(argument.annotation is not None for argument in arguments)
  returns = sum(f.returns is not None for f in functions if f.name != '__init__')
  inits = sum(function.name == '__init__' for function in functions)
  yield Figure('typed arguments', _percent(typed, len(arguments)), ' %')
  yield Figure('typed returns', _percent(returns, len(functions) - inits), ' %')
  yield Figure('functions', len(functions))
  yield Figure('lines', lines)


def _arguments(function: Function) -> list[ast.arg]:
  found = function.args
  every = [*found.posonlyargs, *found.args, *found.kwonlyargs, found.vararg, found.kwarg]
  return [argument for argument in every if argument and argument.arg not in ('self', 'cls')]


MEASURES: tuple[Callable[[list[Module]], Iterator[Figure]], ...] = (
  docstring_figures,
  length_figures,
  expression_figures,
)


def main() -> None:
  """Prints the figures; with --check exits with 1 if one is outside its bound."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
  parser.add_argument('--check', action='store_true', help='fail if a figure is out of bounds')
  parser.add_argument('--places', action='store_true', help='list what counts against each figure')
  args = parser.parse_args()
  modules = read_modules()
  figures = [figure for measure in MEASURES for figure in measure(modules)]
  for figure in figures:
    print(figure)
    if args.places or (args.check and not figure.is_met()):
      print(''.join(f'  {place}\n' for place in figure.places), end='')
  if args.check and not all(figure.is_met() for figure in figures):
    sys.exit('style_report.py: a figure is out of bounds; CONTRIBUTING.md has the rules')


if __name__ == '__main__':
  main()
