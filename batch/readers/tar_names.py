"""The names that occurred in an archive, so that no two images have the same id."""

from collections.abc import Iterable

MAX_KNOWN_NAMES = 1 << 20  # in an archive, 70 MB; beyond, a name may repeat


class Names:
  """Names, of which only hashes are in memory."""

  def __init__(self, names: Iterable[str] = ()):
    self._known = {hash(name) for name in names}
    self._room = MAX_KNOWN_NAMES

  def has(self, name: str) -> bool:
    """Returns whether a name is known."""
    return hash(name) in self._known

  def add(self, name: str) -> bool:
    """Adds a name, unless there are too many; returns whether it was not known."""
    if self.has(name):
      return False
    if self._room:
      self._known.add(hash(name))
      self._room -= 1
    return True


class Recorded(Names):
  """Names that records which of them were asked for and are an earlier range's.

  Attributes:
    taken: those names, of the current range.
  """

  def __init__(self) -> None:
    super().__init__()
    self.taken: set[str] = set()
    self._before: set[int] = set()

  def has(self, name: str) -> bool:
    """Returns whether a name is known."""
    if hash(name) in self._before:
      self.taken.add(name)
      return True
    return super().has(name)

  def next_range(self) -> None:
    """Begins another range."""
    self.taken = set()
    self._before |= self._known
    self._known = set()
