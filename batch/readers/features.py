"""Which features of a tf.train.Example are its pictures, its id and its label."""

import dataclasses

from absl import app

from batch import flags
from batch.readers import content, protobuf

IMAGE_KEYS = ('image/encoded', 'image')
# Those of TFDS and tables, of slim, and of the object detection API. A name says more than a number
# does: slim numbers its classes from 1.
ID_KEYS = ('id', 'image/filename', 'image/source_id')
LABEL_KEYS = (
  'label',
  'image/class/text',
  'image/class/label',
  'image/object/class/text',
  'image/object/class/label',
)


@dataclasses.dataclass(frozen=True)
class Features:
  """The features that are read: the first of each kind that a record has."""

  images: tuple[str, ...]
  ids: tuple[str, ...]
  labels: tuple[str, ...]
  is_image_named: bool = False  # by the user: other pictures are passed over


def wanted_features(settings: flags.Settings) -> Features:
  """Returns the features that the settings name, the usual ones for those they do not."""
  return Features(
    (settings.image_column,) if settings.image_column else IMAGE_KEYS,
    (settings.id_column,) if settings.id_column else ID_KEYS,
    (settings.label_column,) if settings.label_column else LABEL_KEYS,
    bool(settings.image_column),
  )


def pictures_of(features: dict[str, protobuf.Values], wanted: Features) -> list[tuple[str, bytes]]:
  """Returns (feature, picture) of a record: what the wanted features hold, then other pictures."""
  found = [(key, value) for key in wanted.images for value in _bytes_of(features, key)]
  return found if wanted.is_image_named else found + _pictures_elsewhere(features, wanted)


def other_pictures(
  features: dict[str, protobuf.Values], wanted: Features
) -> list[tuple[str, bytes]]:
  """Returns the pictures that are passed over since the user named another feature."""
  return _pictures_elsewhere(features, wanted) if wanted.is_image_named else []


def _pictures_elsewhere(
  features: dict[str, protobuf.Values], wanted: Features
) -> list[tuple[str, bytes]]:
  return [
    (key, value)
    for key in sorted(features.keys() - set(wanted.images))
    for value in _bytes_of(features, key)
    if content.is_picture(value)
  ]


def _bytes_of(features: dict[str, protobuf.Values], key: str) -> list[bytes]:
  return [value for value in features.get(key, ()) if isinstance(value, bytes)]


def no_picture(features: dict[str, protobuf.Values], wanted: Features) -> str:
  """Returns why a record has no picture."""
  for key in wanted.images:
    if key in features:
      return (
        f'the feature {key} contains {type(features[key][0]).__name__} values, not an image file'
      )
  return f'the record has no image among its features {", ".join(sorted(features)) or "(none)"}'


class Sample:
  """The features of a collection's first records, to refuse one without any picture at once.

  Attributes:
    has_records: whether there are any.
  """

  def __init__(self, settings: flags.Settings):
    self._wanted = wanted_features(settings)
    flags_given = ('image_column', 'id_column', 'label_column')
    self._missing = {flag: name for flag in flags_given if (name := getattr(settings, flag))}
    self._has_picture = self._has_example = self.has_records = False
    self._seen: set[str] = set()

  def add(self, record: bytes) -> bool:
    """Adds a record; returns whether the sample has all that is needed."""
    self.has_records = True
    try:
      features = protobuf.parse(record)
    except ValueError:
      return False
    self._has_example = True
    self._seen |= features.keys()
    self._missing = {flag: name for flag, name in self._missing.items() if name not in features}
    self._has_picture = self._has_picture or bool(pictures_of(features, self._wanted))
    return self._has_picture and not self._missing

  def check(self, uri: str) -> None:
    """Raises UsageError, about the file `uri`, if the sample lacks something."""
    names = ', '.join(sorted(self._seen)) or 'none'
    if not self._has_example:
      raise app.UsageError(f'{uri}: its records are not tf.train.Example protos')
    for flag, name in self._missing.items():
      raise app.UsageError(
        f'--{flag}={name}: the first records of {uri} have no such feature, only {names}; pass one '
        'of these'
      )
    if not self._has_picture:
      raise app.UsageError(
        f'{uri}: has no feature {" or ".join(self._wanted.images)} with an image, only {names}; '
        'name the one with the image with --image_column'
      )
