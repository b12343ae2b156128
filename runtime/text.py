"""Text for a person's terminal."""


def one_line(text: str) -> str:
  """Returns a text with what no terminal shows as it is, such as line breaks in names, escaped."""
  if text.isprintable():
    return text
  return ''.join(
    each if each.isprintable() else each.encode('unicode_escape').decode() for each in text
  )
