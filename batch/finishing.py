"""The end of a job: all chunks become the parts of the output, and the summary is published."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from batch import chunk_log, flags, parts, report, sink, stats, summary, timing
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


def build(scored: beam.PCollection[stats.Stats], context: RunContext) -> None:
  """Adds the steps that make parts of all chunks once they are written, and publish the summary."""
  settings, num_classes = context.settings, len(context.card.labels)
  finished = (
    scored
    | 'Until all are written' >> beam.combiners.Count.Globally()
    | 'Cut' >> beam.ParDo(Cut(settings, context.shards))
    | 'To all workers' >> beam.Reshuffle()
    | 'Finish' >> beam.ParDo(Finish(settings, num_classes))
  )
  _ = (
    (scored, finished)
    | 'Together' >> beam.Flatten()
    | 'Count' >> beam.CombineGlobally(stats.StatsCombineFn(num_classes))
    | 'Publish' >> beam.Map(publish, context)
  )


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
