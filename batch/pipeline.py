"""The pipeline: from shards to files, one chunk at a time, in one fused stage."""

import dataclasses
import itertools
import operator
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.metrics.metricbase import Counter
from apache_beam.ml.inference.base import RunInference

from batch import (
  chunk,
  decoding,
  file_list,
  flags,
  infer,
  labels,
  ranges,
  report,
  sink,
  source,
  stats,
  summary,
  timing,
  writers,
)
from images import model_card
from storage import files

NO_PLACES: ranges.Places = types.MappingProxyType({})
COMMITTED: Literal['committed'] = 'committed'


@dataclasses.dataclass(frozen=True)
class RunContext:
  """What workers need to know about a run.

  Attributes:
    facts: the run's identity, for the summary.
    started: seconds since 1970.
    threads: number of threads on which each process scores.
    passed_over: what planning left out, by kind; the chunks count what reading leaves out.
  """

  settings: flags.Settings
  card: model_card.ModelCard
  facts: dict[str, Any]
  started: float
  threads: int
  max_reject_fraction: float
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)


def build(
  pipeline: beam.Pipeline,
  blocks: Sequence[file_list.Block],
  ranges_of_files: Sequence[chunk.Shard],
  context: RunContext,
) -> None:
  """Adds the steps that read, decode, score and write shards and publish the summary.

  No image goes through a shuffle, so memory does not grow with the collection.
  """
  settings, card = context.settings, context.card
  places = _places(pipeline, ranges_of_files, settings)
  chunks = (
    pipeline
    | 'Blocks' >> beam.Create(blocks)
    | 'Shards' >> beam.FlatMap(file_list.read)
    | 'Read' >> beam.ParDo(Read(settings), *places).with_outputs(main='chunks')
  )
  written = (
    chunks.chunks
    | 'Decode' >> beam.ParDo(Decode(settings, card, context.facts.get('label_map')))
    | 'Score'
    >> RunInference(
      infer.Handler(settings.model, settings.precision, settings.batch_images, context.threads)
    )
    | 'Write' >> beam.ParDo(Write(settings, card))
  )
  _ = (
    (written, chunks[COMMITTED])
    | 'Together' >> beam.Flatten()
    | 'Count' >> beam.CombineGlobally(stats.StatsCombineFn(len(card.labels)))
    | 'Publish' >> beam.Map(publish, context)
  )


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
  """Reads shards; the stats of chunks that an earlier run has completed go to `COMMITTED`."""

  def __init__(self, settings: flags.Settings):
    self._settings = settings
    self._msec = timing.stage_counter('read')
    self._seen = Metrics.counter(timing.NAMESPACE, 'images_seen')

  def setup(self) -> None:
    """Creates the writer, which need not be picklable."""
    self._writer = writers.WRITERS[self._settings.output_format](self._settings.output)

  def process(
    self, shard: chunk.Shard, places: ranges.Places = NO_PLACES
  ) -> Iterator[chunk.Chunk | beam.pvalue.TaggedOutput[Literal['committed'], stats.Stats]]:
    """Yields the committed stats, then the remaining chunks."""
    shard = ranges.place(shard, places)
    num_committed = num_images = 0
    for committed in sink.committed(self._settings.output, shard, self._writer):
      yield beam.pvalue.TaggedOutput(COMMITTED, committed)
      num_committed += 1
      num_images += committed.images_seen
    for read in read_chunks(shard, num_committed, num_images, self._settings, self._msec):
      self._seen.inc(read.num_seen)
      yield read


def read_chunks(
  shard: chunk.Shard, first: int, skip: int, settings: flags.Settings, counter: Counter
) -> Iterator[chunk.Chunk]:
  """Yields the chunks of a shard from its chunk number `first`, before which are `skip` images."""
  # Chunks without an image are not among those that the reader skips.
  batches = itertools.islice(source.read(shard, skip, settings), 0 if skip else first, None)
  sequence = first
  while True:
    seconds: dict[str, float] = {}
    with timing.timed(seconds, 'read', counter):
      images = next(batches, None)
    if images is None:
      return
    yield chunk.Chunk(shard.chunk_name(sequence), images, seconds)
    sequence += 1


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

  def setup(self) -> None:
    """Creates the writer, which need not be picklable."""
    self._writer = writers.WRITERS[self._settings.output_format](self._settings.output)

  def process(self, scored: chunk.Scored) -> Iterator[stats.Stats]:
    """Yields the chunk's stats."""
    seconds = dict(scored.seconds)
    with timing.timed(seconds, 'write', self._msec):
      counts = stats.chunk_stats(scored)
      sink.write(
        scored, counts, self._settings.output, self._writer, self._card, self._settings.top_k
      )
    self._scored.inc(counts.images_scored)
    self._rejected.inc(counts.images_rejected)
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
  return finished
