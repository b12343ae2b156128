"""The pipeline: from shards to chunks, in one fused stage, and from all chunks to the output."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.metrics.metricbase import Counter
from apache_beam.ml.inference.base import RunInference

from batch import (
  chunk,
  chunk_log,
  decoding,
  flags,
  infer,
  labels,
  parts,
  report,
  sink,
  source,
  stats,
  summary,
  timing,
)
from images import model_card
from storage import files


@dataclasses.dataclass(frozen=True)
class RunContext:
  """What workers need to know about a run.

  Attributes:
    facts: the run's identity, for the summary.
    started: seconds since 1970.
    threads: number of threads on which each process scores.
    shards: number of shards of the input, those included that an earlier run has scored.
    passed_over: what planning left out, by kind; the chunks count what reading leaves out.
  """

  settings: flags.Settings
  card: model_card.ModelCard
  facts: dict[str, Any]
  started: float
  threads: int
  max_reject_fraction: float
  shards: int
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)


def build(pipeline: beam.Pipeline, shards: Sequence[chunk.Shard], context: RunContext) -> None:
  """Adds the steps that score shards, make the output's parts, and publish the summary.

  No image goes through a shuffle, so memory does not grow with the collection.

  Args:
    pipeline: to add to.
    shards: those that are not scored to their end.
    context: what workers need to know.
  """
  settings, card = context.settings, context.card
  scored = (
    pipeline
    | 'Shards' >> beam.Create(shards)
    | 'Read' >> beam.ParDo(Read(settings))
    | 'Decode' >> beam.ParDo(Decode(settings, card, context.facts.get('label_map')))
    | 'Score'
    >> RunInference(
      infer.Handler(settings.model, settings.precision, settings.batch_images, context.threads)
    )
    | 'Write' >> beam.ParDo(Write(settings, card))
  )
  finished = (
    scored
    | 'Until all are written' >> beam.combiners.Count.Globally()
    | 'Cut' >> beam.ParDo(Cut(settings, context.shards))
    | 'To all workers' >> beam.Reshuffle()
    | 'Finish' >> beam.ParDo(Finish(settings, len(card.labels)))
  )
  _ = (
    (scored, finished)
    | 'Together' >> beam.Flatten()
    | 'Count' >> beam.CombineGlobally(stats.StatsCombineFn(len(card.labels)))
    | 'Publish' >> beam.Map(publish, context)
  )


class Read(beam.DoFn):
  """Reads shards."""

  def __init__(self, settings: flags.Settings):
    self._settings = settings
    self._msec = timing.stage_counter('read')
    self._seen = Metrics.counter(timing.NAMESPACE, 'images_seen')

  def process(self, shard: chunk.Shard) -> Iterator[chunk.Chunk]:
    """Yields the chunks after those that are complete.

    A runner that lost a worker calls this again, at worst when the parts are made and chunks gone.
    """
    output = self._settings.output
    complete = chunk_log.complete_in(output, shard.number)
    if chunk_log.is_complete(complete) or (not complete and parts.is_recorded(output)):
      return
    skip = sum(entry.seen for entry in complete)
    for read in read_chunks(shard, len(complete), skip, self._settings, self._msec):
      self._seen.inc(read.num_seen)
      yield read


def read_chunks(
  shard: chunk.Shard, first: int, skip: int, settings: flags.Settings, counter: Counter
) -> Iterator[chunk.Chunk]:
  """Yields the chunks of a shard from its chunk number `first`, before which are `skip` images.

  A shard without images has a chunk without images.
  """
  # Chunks without an image are not among those that the reader skips.
  batches = itertools.islice(source.read(shard, skip, settings), 0 if skip else first, None)
  images, seconds = _next(batches, counter)
  sequence = first
  while True:
    # The next one is read already: this tells whether there is one.
    following, following_seconds = _next(batches, counter)
    place = chunk.Place(shard.number, sequence, following is None)
    yield chunk.Chunk(place, chunk.ReadImages() if images is None else images, seconds)
    if following is None:
      return
    images, seconds = following, following_seconds
    sequence += 1


def _next(
  batches: Iterator[chunk.ReadImages], counter: Counter
) -> tuple[chunk.ReadImages | None, dict[str, float]]:
  """Returns the next images, None if there are no more, and the time that this took."""
  seconds: dict[str, float] = {}
  with timing.timed(seconds, 'read', counter):
    images = next(batches, None)
  return images, seconds


class Decode(beam.DoFn):
  """Decodes chunks."""

  def __init__(
    self,
    settings: flags.Settings,
    card: model_card.ModelCard,
    label_map: Mapping[str, int] | None = None,
  ):
    self._settings, self._card = settings, card
    self._labels = labels.LabelIndex(card.labels, label_map, settings.label_offset)
    self._msec = timing.stage_counter('decode')
    self._bytes = Metrics.counter(timing.NAMESPACE, 'encoded_bytes')

  def process(self, read: chunk.Chunk) -> Iterator[chunk.Decoded]:
    """Yields the decoded chunk."""
    seconds: dict[str, float] = {}
    with timing.timed(seconds, 'decode', self._msec):
      decoded = decoding.decode_chunk(read, self._labels, self._card, self._settings)
    self._bytes.inc(decoded.encoded_bytes)
    yield dataclasses.replace(decoded, seconds={**read.seconds, **seconds})


class Write(beam.DoFn):
  """Writes scored chunks."""

  def __init__(self, settings: flags.Settings, card: model_card.ModelCard):
    self._settings, self._card = settings, card
    self._msec = timing.stage_counter('write')
    self._scored = Metrics.counter(timing.NAMESPACE, 'images_scored')
    self._rejected = Metrics.counter(timing.NAMESPACE, 'images_rejected')

  def process(self, scored: chunk.Scored) -> Iterator[stats.Stats]:
    """Yields the time that the chunk took. Its counts are in the log, for a resumed run too."""
    seconds = dict(scored.seconds)
    with timing.timed(seconds, 'write', self._msec):
      counts = sink.write(scored, self._settings.output, self._card, self._settings.top_k)
    self._scored.inc(counts.images_scored)
    self._rejected.inc(counts.images_rejected)
    yield dataclasses.replace(stats.Stats.zero(len(self._card.labels)), seconds=seconds)


class Cut(beam.DoFn):
  """Cuts the output into parts, once all chunks are complete."""

  def __init__(self, settings: flags.Settings, num_shards: int):
    self._settings, self._num_shards = settings, num_shards

  def process(self, _: int) -> Iterator[parts.Part]:
    """Yields the parts."""
    yield from parts.plan(self._settings.output, self._num_shards, self._settings.rows_per_file)


class Finish(beam.DoFn):
  """Writes parts of the output."""

  def __init__(self, settings: flags.Settings, num_classes: int):
    self._settings, self._num_classes = settings, num_classes
    self._msec = timing.stage_counter('finish')

  def process(self, part: parts.Part) -> Iterator[stats.Stats]:
    """Yields what was counted in a part."""
    settings, seconds = self._settings, dict[str, float]()
    with timing.timed(seconds, 'finish', self._msec):
      counts = parts.write(part, settings.output, settings.output_format, self._num_classes)
    yield dataclasses.replace(counts, seconds=seconds)


def publish(total: stats.Stats, context: RunContext) -> dict[str, Any]:
  """Writes the summary, the report and, unless too many images were rejected, _SUCCESS.

  Returns:
    The content of summary.json.
  """
  output = context.settings.output
  planned = stats.Stats.zero(len(context.card.labels))
  total += dataclasses.replace(planned, passed_over=context.passed_over)
  wall_seconds = time.time() - context.started
  finished = summary.summarize(total, context.card, context.facts, wall_seconds)
  files.write(files.join(output, sink.SUMMARY), summary.to_json(finished))
  files.write(files.join(output, sink.REPORT), report.page(finished, total, context.card))
  if finished['reject_fraction'] <= context.max_reject_fraction:
    files.write(files.join(output, sink.SUCCESS), '')
  files.remove_folder(files.join(output, chunk_log.FOLDER))  # empty folders, or repeated chunks
  return finished
