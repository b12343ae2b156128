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
    started: seconds since 1970; None of a template, which is a job at another time.
    threads: number of threads on which each process scores.
    shards: number of shards of the input, those included that an earlier run has scored.
    passed_over: what planning left out, by kind; the chunks count what reading leaves out.
    scored_before: number of images that an earlier run has scored; None if it scored all.
  """

  settings: flags.Settings
  card: model_card.ModelCard
  facts: dict[str, Any]
  started: float | None
  threads: int
  max_reject_fraction: float
  shards: int
  passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
  scored_before: int | None = 0


def build(scored: beam.PCollection[stats.Stats], context: RunContext) -> None:
  """Adds the steps that make parts of all chunks once they are written, and publish the summary.

  They are one chain, so that each of an engine's tasks writes to one shuffle at a time: Flink
  reserves 16 MB for each.
  """
  settings, num_classes = context.settings, len(context.card.labels)
  _ = (
    scored
    | 'Until all are written' >> beam.CombineGlobally(stats.StatsCombineFn(num_classes))
    | 'Cut' >> beam.ParDo(Cut(settings, context.shards, num_classes))
    | 'To all workers' >> beam.Reshuffle()
    | 'Finish' >> beam.ParDo(Finish(settings, num_classes))
    | 'Count' >> beam.CombineGlobally(stats.StatsCombineFn(num_classes))
    | 'Publish' >> beam.Map(publish, context)
  )


class Cut(beam.DoFn):
  """Cuts the output into parts, once all chunks are complete."""

  def __init__(self, settings: flags.Settings, num_shards: int, num_classes: int):
    self._settings, self._num_shards = settings, num_shards
    self._nothing = stats.Stats.zero(num_classes)

  def process(self, scored: stats.Stats) -> Iterator[tuple[parts.Part, stats.Stats]]:
    """Yields the parts; what was counted in scoring goes with the first."""
    settings, carried = self._settings, scored
    for part in parts.plan(settings.output, self._num_shards, settings.rows_per_file):
      yield part, carried
      carried = self._nothing


class Finish(beam.DoFn):
  """Writes parts of the output."""

  def __init__(self, settings: flags.Settings, num_classes: int):
    self._settings, self._num_classes = settings, num_classes
    self._msec = timing.stage_counter('finish')

  def process(self, cut: tuple[parts.Part, stats.Stats]) -> Iterator[stats.Stats]:
    """Yields what was counted in a part, and what came with it."""
    (part, carried), settings, seconds = cut, self._settings, dict[str, float]()
    with timing.timed(seconds, 'finish', self._msec):
      counts = parts.write(part, settings.output, settings.output_format, self._num_classes)
    yield dataclasses.replace(counts, seconds=seconds) + carried


def publish(total: stats.Stats, context: RunContext) -> dict[str, Any]:
  """Writes the summary, the report and, unless too many images were rejected, _SUCCESS.

  Returns:
    The content of summary.json.
  """
  output = context.settings.output
  planned = stats.Stats.zero(len(context.card.labels))
  total += dataclasses.replace(planned, passed_over=context.passed_over)
  wall_seconds = None if context.started is None else time.time() - context.started
  before = total.images_scored if context.scored_before is None else context.scored_before
  finished = summary.summarize(total, context.card, context.facts, wall_seconds, before)
  success = files.join(output, sink.SUCCESS)
  is_success = finished['reject_fraction'] <= context.max_reject_fraction
  if not is_success:
    files.remove([success])  # of an earlier run, which was allowed more
  files.write(files.join(output, sink.SUMMARY), summary.to_json(finished))
  files.write(files.join(output, sink.REPORT), report.page(finished, total, context.card))
  if is_success:
    files.write(success, '')
  files.remove_folder(files.join(output, chunk_log.FOLDER))  # empty folders, or repeated chunks
  return finished
