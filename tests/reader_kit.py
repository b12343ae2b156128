"""The settings that readers take, for tests that call them without a command line."""

from typing import Any

from batch import flags

DEFAULTS: dict[str, Any] = {
  'model': '',
  'output': '',
  'output_format': 'parquet',
  'preprocess': 'auto',
  'precision': 'auto',
  'max_pixels': 10**6,
  'chunk_images': 4096,
  'batch_images': 0,
  'read_threads': 0,
  'top_k': 0,
  'label_from': 'none',
  'image_column': '',
  'id_column': '',
  'label_column': '',
  'label_map': '',
  'label_offset': 0,
  'carry': (),
}


def settings(**changes: Any) -> flags.Settings:
  """Returns the default settings with some changed."""
  return flags.Settings(**{**DEFAULTS, **changes})
