"""Decodes the images of a chunk to the pixels that the model takes."""

import numpy as np

from batch import chunk, flags, labels
from images import decode, model_card, png


def decode_chunk(
  read: chunk.Chunk,
  label_index: labels.LabelIndex,
  card: model_card.ModelCard,
  settings: flags.Settings,
) -> chunk.Decoded:
  """Returns a chunk's images as pixels; those that cannot be decoded join its rejects."""
  images = read.images
  decoded_files, encoded_bytes = _decode(images, card, settings)
  reasons = decoded_files.reasons
  rejects = [chunk.Reject(images.ids[i], 'decode', reason) for i, reason in sorted(reasons.items())]
  indices = label_index.to_indices(images.labels, len(read))
  decoded = chunk.Decoded(
    place=read.place,
    ids=images.ids,
    pixels=decoded_files.pixels,
    labels=indices,
    carried=images.carried,
    rejects=images.rejects + rejects,
    encoded_bytes=encoded_bytes,
    converted=decoded_files.converted,
    by_background=decoded_files.by_background,
    seconds=dict(read.seconds),
    passed_over=images.passed_over,
    foreign_labels=labels.count_foreign(images.labels, indices),
  )
  if not reasons:
    return decoded
  kept = np.ones(len(read), bool)
  kept[list(reasons)] = False
  return decoded.keep(kept)


def _decode(
  images: chunk.ReadImages, card: model_card.ModelCard, settings: flags.Settings
) -> tuple[decode.Decoded, int]:
  """Returns the images as pixels, and their size as read, in bytes."""
  pixels, encoded = images.pixels, images.encoded
  if pixels is not None:
    if pixels.shape[1:] == card.image_shape and settings.preprocess != 'photo':
      return decode.Decoded(pixels, {}, 0, {}), pixels.nbytes
    encoded = [png.encode(image) for image in pixels]
  decoded = decode.decode(
    encoded or [],
    settings.preprocess,
    settings.max_pixels,
    card.image_shape,
    card.background,
    card.preprocessing,
    settings.background,
  )
  return decoded, sum(map(len, encoded or []))
