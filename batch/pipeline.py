"""The pipeline: from shards to chunks, in one fused stage, and from all chunks to the output."""

import dataclasses
import itertools
import operator
import types
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.metrics.metricbase import Counter
from apache_beam.ml.inference.base import RunInference

from batch import (
  chunk,
  chunk_log,
  decoding,
  file_list,
  finishing,
  flags,
  infer,
  labels,
  parts,
  ranges,
  sink,
  source,
  stats,
  timing,
)
from images import model_card

NO_PLACES: ranges.Places = types.MappingProxyType({})


def build(
  pipeline: beam.Pipeline,
  blocks: Sequence[file_list.Block],
  ranges_of_files: Sequence[chunk.Shard],
  context: finishing.RunContext,
) -> None:
  """Adds the steps that score shards, make the output's parts, and publish the summary.

  No image goes through a shuffle, so memory does not grow with the collection.

  Args:
    pipeline: to add to.
    blocks: the shards that are not scored to their end.
    ranges_of_files: all ranges of the files of which there are some among them.
    context: what workers need to know.
  """
  settings, card = context.settings, context.card
  places = _places(pipeline, ranges_of_files, settings)
  scored = (
    pipeline
    | 'Blocks' >> beam.Create(blocks)
    | 'Shards' >> beam.FlatMap(file_list.read)
    | 'Read' >> beam.ParDo(Read(settings), *places)
    | 'Decode' >> beam.ParDo(Decode(settings, card, context.facts.get('label_map')))
    | 'Score'
    >> RunInference(
      infer.Handler(settings.model, settings.precision, settings.batch_images, context.threads)
    )
    | 'Write' >> beam.ParDo(Write(settings, card))
  )
  finishing.build(scored, context)


def _places(
  pipeline: beam.Pipeline, ranges_of_files: Sequence[chunk.Shard], settings: flags.Settings
) -> list[beam.pvalue.AsSingleton]:
  """Adds the steps that find out what is in ranges of large files, if there are any."""
  if not ranges_of_files:
    return []
  # The first of each archive, which takes a worker the longest, come first and are spread.
  found = sorted(ranges_of_files, key=operator.attrgetter('start'))
  places = (
    pipeline
    | 'Ranges' >> beam.Create(found)
    | 'Survey' >> beam.FlatMap(source.survey, settings)
    | 'Surveys' >> beam.combiners.ToList()
    | 'Join' >> beam.Map(source.join, settings)
  )
  return [beam.pvalue.AsSingleton(places)]


class Read(beam.DoFn):
  """Reads shards."""

  def __init__(self, settings: flags.Settings):
    self._settings = settings
    self._msec = timing.stage_counter('read')
    self._seen = Metrics.counter(timing.NAMESPACE, 'images_seen')

  def process(self, shard: chunk.Shard, places: ranges.Places = NO_PLACES) -> Iterator[chunk.Chunk]:
    """Yields the chunks after those that are complete.

    A runner that lost a worker calls this again, at worst when the parts are made and chunks gone.
    """
    output = self._settings.output
    complete = chunk_log.complete_in(output, shard.number)
    if chunk_log.is_complete(complete) or (not complete and parts.is_recorded(output)):
      return
    skip = sum(entry.seen for entry in complete)
    shard = ranges.place(shard, places)
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
