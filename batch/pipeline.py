"""The pipeline: from shards to files, one chunk after the other, in one fused stage."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import RunInference

from batch import chunk, flags, infer, report, sink, source, summary
from images import decode, model_card
from storage import files

NAMESPACE = 'lookbook'
DONE: Literal['done'] = 'done'


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything about a run that its workers need."""

  settings: flags.Settings
  card: model_card.ModelCard
  facts: dict[str, Any]  # for the summary: what was asked for
  started: float  # seconds since 1970
  threads: int  # on which one process scores
  max_reject_fraction: float


def build(pipeline: beam.Pipeline, shards: Sequence[chunk.Shard], job: Job) -> None:
  """Shards are read in chunks, decoded, scored and written; what they count adds up to the summary and the report.

  No image goes through a shuffle, so memory does not grow with the collection.
  """
  settings = job.settings
  chunks = (
    pipeline
    | 'Shards' >> beam.Create(shards)
    | 'Read' >> beam.ParDo(Read(settings)).with_outputs(main='chunks')
  )
  written = (
    chunks.chunks
    | 'Decode' >> beam.ParDo(Decode(settings, job.card))
    | 'Score'
    >> RunInference(
      infer.Handler(settings.model, settings.precision, settings.batch_images, job.threads)
    )
    | 'Write' >> beam.ParDo(Write(settings, job.card))
  )
  _ = (
    (written, chunks[DONE])
    | 'Together' >> beam.Flatten()
    | 'Count' >> beam.CombineGlobally(summary.Add())
    | 'Publish' >> beam.Map(publish, job)
  )


class Read(beam.DoFn):
  """Shards to chunks, after those that an earlier run of the same job has written; these go to the output `done`."""

  def __init__(self, settings: flags.Settings):
    self._settings = settings
    self._msec = Metrics.counter(NAMESPACE, 'read_msec')
    self._seen = Metrics.counter(NAMESPACE, 'images_seen')

  def process(
    self, shard: chunk.Shard
  ) -> Iterator[chunk.Chunk | beam.pvalue.TaggedOutput[Literal['done'], dict]]:
    settings, sequence, skip = self._settings, 0, 0
    while done := sink.committed(
      settings.output, shard.chunk_name(sequence), settings.output_format
    ):
      yield beam.pvalue.TaggedOutput(DONE, done)
      sequence, skip = sequence + 1, skip + done['images_seen']
    found = source.read(shard, skip, settings)
    while True:
      began = time.perf_counter()
      columns = next(found, None)
      seconds = time.perf_counter() - began
      if columns is None:
        return
      read = chunk.Chunk(shard.chunk_name(sequence), columns, {'read': seconds})
      self._msec.inc(round(seconds * 1000))
      self._seen.inc(read.seen())
      yield read
      sequence += 1


class Decode(beam.DoFn):
  """Chunks to decoded chunks, without the images that cannot be."""

  def __init__(self, settings: flags.Settings, card: model_card.ModelCard):
    self._settings, self._card = settings, card
    spellings = lambda name: {
      name,
      name.replace('/', '-'),
      name.replace('/', '_'),
    }  # a directory's name has no slash
    self._labels = {
      spelling: index for index, name in enumerate(card.labels) for spelling in spellings(name)
    }
    self._msec = Metrics.counter(NAMESPACE, 'decode_msec')
    self._bytes = Metrics.counter(NAMESPACE, 'encoded_bytes')

  def process(self, read: chunk.Chunk) -> Iterator[chunk.Decoded]:
    began = time.perf_counter()
    decoded = decode_chunk(
      read, self._labels, self._settings.preprocess, self._settings.max_pixels, self._card
    )
    decoded.seconds['decode'] = time.perf_counter() - began
    self._msec.inc(round(decoded.seconds['decode'] * 1000))
    self._bytes.inc(decoded.encoded_bytes)
    yield decoded


def decode_chunk(
  read: chunk.Chunk,
  labels: dict[str, int],
  preprocess: str,
  max_pixels: int,
  card: model_card.ModelCard,
) -> chunk.Decoded:
  """The images of a chunk as pixels; those that cannot be decoded join its rejects.

  Args:
    labels: the model's names to their indices.
    preprocess, max_pixels: as `decode.decode` takes them.
    card: the images that the model takes.
  """
  columns = read.columns
  is_ready = columns.pixels is not None and columns.pixels.shape[1:] == card.image_shape
  if is_ready and preprocess != 'photo':
    assert columns.pixels is not None  # noqa: S101
    reasons: dict[int, str] = {}
    pixels, converted, size = columns.pixels, 0, columns.pixels.nbytes
  else:
    encoded = columns.encoded if columns.pixels is None else _as_png(columns.pixels)
    assert encoded is not None  # noqa: S101 - a reader gives one or the other
    pixels, reasons, converted = decode.decode(
      encoded, preprocess, max_pixels, card.image_shape, card.background, card.preprocessing
    )
    size = sum(map(len, encoded))
  kept = np.ones(len(read), bool)
  kept[list(reasons)] = False
  rejects = [
    chunk.Reject(columns.ids[i], 'decode', reason) for i, reason in sorted(reasons.items())
  ]
  numbers = _label_indices(columns.labels, len(read), labels)
  everything = not reasons
  return chunk.Decoded(
    name=read.name,
    ids=columns.ids if everything else [name for name, keep in zip(columns.ids, kept) if keep],
    pixels=pixels if everything else pixels[kept],
    labels=numbers if everything else numbers[kept],
    carried=columns.carried
    if everything or columns.carried is None
    else columns.carried.filter(pa.array(kept)),
    rejects=columns.rejects + rejects,
    encoded_bytes=size,
    converted=converted,
    seconds=dict(read.seconds),
  )


def _as_png(pixels: np.ndarray) -> list[bytes]:
  import cv2

  return [cv2.imencode('.png', image)[1].tobytes() for image in pixels]


def _label_indices(values: Sequence | None, count: int, names: dict[str, int]) -> np.ndarray:
  """Labels as they came, integers or names, to int8 (N,)."""
  if values is None:
    return np.full(count, chunk.NO_LABEL, np.int8)
  indices = {value: _label_index(value, names) for value in set(values)}
  return np.array([indices[value] for value in values], np.int8).reshape(count)


def _label_index(value: Any, names: dict[str, int]) -> int:
  if value is None or value == chunk.NO_LABEL or value in (b'', ''):
    return chunk.NO_LABEL
  text = (
    value.decode('utf-8', 'replace').strip() if isinstance(value, bytes) else str(value).strip()
  )
  if text in names:
    return names[text]
  return int(text) if text.isdecimal() and int(text) < len(names) else chunk.UNKNOWN_LABEL


class Write(beam.DoFn):
  """Scored chunks to files, and on to what they counted."""

  def __init__(self, settings: flags.Settings, card: model_card.ModelCard):
    self._settings, self._card = settings, card
    count = lambda name: Metrics.counter(NAMESPACE, name)
    self._scored, self._rejected = count('images_scored'), count('images_rejected')
    self._infer_msec, self._write_msec = count('infer_msec'), count('write_msec')

  def process(self, scored: chunk.Scored) -> Iterator[summary.Stats]:
    began = time.perf_counter()
    settings = self._settings
    counts = summary.of_chunk(scored)
    labels = list(self._card.labels)
    counts['seconds'] = dict(scored.seconds)
    sink.write(
      scored,
      counts,
      settings.output,
      settings.output_format,
      labels,
      self._card.version,
      settings.top_k,
    )
    counts['seconds']['write'] = time.perf_counter() - began
    self._scored.inc(counts['images_scored'])
    self._rejected.inc(counts['images_rejected'])
    self._infer_msec.inc(round(scored.seconds['infer'] * 1000))
    self._write_msec.inc(round(counts['seconds']['write'] * 1000))
    yield counts


def publish(total: summary.Stats, job: Job) -> dict:
  """Writes the summary, the report and, last and where few enough were rejected, _SUCCESS. Returns the summary."""
  output = job.settings.output
  drawn = summary.Drawn(job.card.training_pixels, job.card.training_classes)
  finished = summary.finish(total, job.card.labels, drawn, job.facts, time.time() - job.started)
  files.write(files.join(output, sink.SUMMARY), summary.dumps(finished))
  files.write(files.join(output, sink.REPORT), report.page(finished, total, job.card, job.facts))
  if finished['reject_fraction'] <= job.max_reject_fraction:
    files.write(files.join(output, sink.SUCCESS), '')
  return finished
