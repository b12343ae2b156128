"""Finds modules that import each other, directly or through others."""

import ast
from collections.abc import Iterator, Mapping, Set


def import_cycles(trees: Mapping[str, ast.Module]) -> list[str]:
  """Returns the groups of modules that import each other, as text.

  Args:
    trees: the parsed modules by dotted name.
  """
  direct = {name: imports_of(tree, trees.keys()) - {name} for name, tree in trees.items()}
  reached = {name: _reachable(name, direct) for name in trees}
  groups = {
    tuple(sorted(other for other in reached[name] if name in reached[other]))
    for name in trees
    if name in reached[name]
  }
  return [' <-> '.join(group) for group in sorted(groups)]


def imports_of(tree: ast.Module, names: Set[str]) -> set[str]:
  """Returns the modules of `names` that a module imports, including in its functions.

  Imports for type checkers alone do not count.
  """
  found: set[str] = set()
  for node in _without_type_checking(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      submodules = {f'{node.module}.{alias.name}' for alias in node.names}
      found |= submodules
      if not submodules <= names:
        found.add(node.module)
  return found & names


def _without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith('TYPE_CHECKING'):
      continue
    yield node
    yield from _without_type_checking(node)


def _reachable(start: str, direct: Mapping[str, set[str]]) -> set[str]:
  found: set[str] = set()
  left = set(direct[start])
  while left:
    name = left.pop()
    if name not in found:
      found.add(name)
      left |= direct[name]
  return found
