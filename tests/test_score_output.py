"""What the scorer writes: predictions, rejects, summary, report, and who owns a directory."""

import json
import os
import re
import shutil

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from absl import app

from batch import chunk, flags, infer, main, pipeline, sink, source, stats, summary, writers
from images import model_card
from tests import model_kit, page_kit, pictures, reader_kit
from tests import score_kit as kit


def test_a_repeated_chunk_writes_the_same_bytes_in_the_same_place(few, exported, tmp_path):
  settings = flags.to_settings(main.parse(kit.flags_for(exported, few, tmp_path / 'out'))[0])
  card = model_card.read(settings.model)
  shard, *_ = source.plan([few], 'auto', settings).shards
  handler = infer.Handler(settings.model, 'float32', 512, 1)
  read = next(pipeline.Read(settings).process(shard))
  (decoded,) = pipeline.Decode(settings, card).process(read)
  (scored,) = handler.run_inference(decoded, handler.load_model())
  write = pipeline.Write(settings, card)
  written = []
  for _ in range(2):
    list(write.process(scored))
    written.append(kit.file_bytes(tmp_path / 'out', 'chunks/00000'))
  assert written[0] == written[1]
  (name,) = written[0]
  assert re.fullmatch(r'000000-1500-1500-[0-9a-f]{8}-last\.arrow', name)


def bigquery_lacks(path) -> set[tuple[str, str]]:
  """Returns a file's types, physical and logical, that are not among those that BigQuery loads.

  https://cloud.google.com/bigquery/docs/loading-data-cloud-storage-parquet#parquet_conversions
  """
  plain = {(kind, 'NONE') for kind in ('BOOLEAN', 'INT32', 'INT64', 'FLOAT', 'DOUBLE')}
  loaded = plain | {('BYTE_ARRAY', 'STRING'), ('INT32', 'INT'), ('INT64', 'INT')}
  schema = pq.ParquetFile(path).schema
  columns = [schema.column(place) for place in range(len(schema))]
  return {(column.physical_type, column.logical_type.type) for column in columns} - loaded


def test_pandas_and_duckdb_read_the_output_as_it_stands(few, exported, tmp_path):
  summary = kit.score(exported, few, tmp_path / 'out', '--top_k=3', '--chunk_images=700')
  frame = pd.read_parquet(tmp_path / 'out' / 'predictions')
  assert list(frame.columns) == list(chunk.PREDICTION_COLUMNS)
  assert (str(frame.label_index.dtype), str(frame.confidence.dtype)) == ('int8', 'float32')
  assert frame.label.value_counts().to_dict() == {k: v for k, v in summary['by_label'].items() if v}
  assert set(frame.model_version) == {summary['model_version']}
  assert all(
    row.top_labels[0] == row.label and len(row.top_labels) == 3 for row in frame.itertuples()
  )
  np.testing.assert_allclose(np.stack(frame.probabilities).sum(axis=1), 1, atol=0.02)
  assert bigquery_lacks(tmp_path / 'out/predictions/part-00000-of-00001.parquet') == set()
  files = f"'{tmp_path}/out/predictions/*.parquet'"
  columns = 'label, count(*), max(confidence), min(len(probabilities))'
  rows = duckdb.sql(f'select {columns} from {files} group by label').fetchall()  # noqa: S608
  assert {label: count for label, count, _, _ in rows} == {
    k: v for k, v in summary['by_label'].items() if v
  }
  assert all(0.1 <= confidence <= 1 and length == 10 for _, _, confidence, length in rows)


def test_jsonl_contains_the_same_as_parquet(few, exported, tmp_path):
  kit.score(exported, few, tmp_path / 'parquet')
  kit.score(exported, few, tmp_path / 'jsonl', '--output_format=jsonl')
  rows = kit.json_lines(tmp_path / 'jsonl', 'predictions')
  assert rows == kit.predictions(tmp_path / 'parquet').to_pylist()


def test_too_many_rejects_fail_the_job_after_everything_good_is_written(
  few, exported, tmp_path, capsys
):
  shutil.copytree(os.path.dirname(few), tmp_path / 'in')
  path = tmp_path / 'in' / 'test-00001-of-00002.tfrecord'
  path.write_bytes(path.read_bytes()[:300_000])
  argv = kit.flags_for(exported, f'{tmp_path}/in/*', tmp_path / 'out', *kit.IN_PROCESS)
  assert main.cli([*argv, '--max_reject_fraction=0.0001']) == 3
  assert '1 of 20' in (told := capsys.readouterr().err)
  assert '--max_reject_fraction=0.0001' in told
  assert told.count('\n') == 1
  kit.check_books(tmp_path / 'out')
  assert kit.predictions(tmp_path / 'out').num_rows > 1900
  assert not (tmp_path / 'out' / '_SUCCESS').exists()
  assert main.cli([*argv, '--resume', '--max_reject_fraction=0.01']) == 0
  assert (tmp_path / 'out' / '_SUCCESS').exists()
  assert main.cli([*argv, '--resume', '--max_reject_fraction=0.0001']) == 3
  assert not (tmp_path / 'out' / '_SUCCESS').exists()


def test_an_output_directory_is_one_runs_only(few, exported, tmp_path, capsys):
  argv = kit.flags_for(exported, few, tmp_path / 'out', *kit.IN_PROCESS)
  assert main.cli(argv) == 0
  before = kit.file_bytes(tmp_path / 'out', 'predictions')
  for added, expected in (
    ([], 'already contains'),
    (['--resume', '--chunk_images=10'], "'chunk_images': 10"),
    (['--resume', '--preprocess=photo'], 'photo'),
  ):
    assert main.cli([*argv, *added]) == 64
    error = capsys.readouterr().err
    assert expected in error
    assert '--overwrite' in error
    assert error.count('\n') == 1
  assert kit.file_bytes(tmp_path / 'out', 'predictions') == before
  assert main.cli([*argv, '--overwrite', '--chunk_images=500', '--rows_per_file=500']) == 0
  assert len(kit.file_bytes(tmp_path / 'out', 'predictions')) == 6
  (tmp_path / 'out/predictions/part-00002-of-00006.parquet').unlink()
  flags = ('--resume', '--chunk_images=500', '--rows_per_file=500')
  assert main.cli([*argv, *flags]) == 64
  assert 'predictions/part-00002-of-00006.parquet was removed' in capsys.readouterr().err
  (tmp_path / 'out' / 'thesis.txt').write_text('years of work')
  assert main.cli([*argv, '--overwrite']) == 64
  assert 'thesis.txt' in capsys.readouterr().err
  assert (tmp_path / 'out' / 'thesis.txt').read_text() == 'years of work'


def test_the_report_opens_and_agrees_with_the_summary(few, exported, browser, tmp_path):
  summary = kit.score(exported, few, tmp_path / 'out')
  page, errors = browser.new_page(), []
  page.on('console', lambda message: errors.append(message.text))
  page.on('requestfailed', lambda request: errors.append(request.url))
  page.goto((tmp_path / 'out' / 'report.html').as_uri())
  assert page.text_content('#accuracy') == f'{100 * summary["accuracy"]:.2f} %'
  widths = page.evaluate('[...document.images].map(image => image.naturalWidth)')
  assert len(widths) == 24
  assert set(widths) == {28}
  assert not errors
  external = page.evaluate(
    "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length"
  )
  assert external == 0
  page.close()


def test_the_stability_index_tells_a_collection_like_the_training_set_from_another(
  few, exported, tmp_path
):
  assert summary.stability_index([0.5, 0.5], [30, 30]) == 0
  assert summary.stability_index([0.5, 0.5], [75, 25]) == pytest.approx(0.25 * np.log(3))
  assert summary.stability_index((), [1, 2]) is None
  assert summary.stability_index([0.5, 0.5], [0, 0]) is None

  found = kit.score(exported, few, tmp_path / 'like')['stability_index']
  assert 0 <= found['pixels'] < 0.1
  assert 0 <= found['classes'] < 0.1
  (images,) = source.read(
    chunk.Shard(0, 'tfrecord', few.replace('*', '00000-of-00002')), 0, reader_kit.settings()
  )
  for number, label in enumerate(images.labels):
    if label == 8:
      (tmp_path / f'{number}.png').write_bytes(images.encoded[number])
  found = kit.score(exported, tmp_path / '*.png', tmp_path / 'bags')['stability_index']
  assert found['classes'] > 0.25


def test_an_output_of_another_version_is_refused(few, exported, tmp_path, capsys):
  argv = kit.flags_for(exported, few, tmp_path / 'out', *kit.IN_PROCESS)
  assert main.cli(argv) == 0
  path = tmp_path / 'out' / 'settings.json'
  settings = json.loads(path.read_text())
  del settings['layout']
  path.write_text(json.dumps(settings))
  before = kit.file_bytes(tmp_path / 'out', 'predictions')
  assert main.cli([*argv, '--resume']) == 64
  error = capsys.readouterr().err
  assert 'another version' in error
  assert '--overwrite' in error
  assert kit.file_bytes(tmp_path / 'out', 'predictions') == before
  assert main.cli([*argv, '--overwrite']) == 0


def scored(num_classes: int, labels: list[int], rejects: list[chunk.Reject]) -> chunk.Scored:
  """Returns a chunk whose image i is predicted to be of class i."""
  count = len(labels)
  decoded = chunk.Decoded(
    place=chunk.Place(0, 0, True),
    ids=[f'image {i}' for i in range(count)],
    pixels=np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1),
    labels=np.array(labels, np.int32),
    carried=None,
    rejects=rejects,
    encoded_bytes=10,
    converted=1,
    by_background={'light': 1},
    seconds={'read': 1.0},
    passed_over={'hidden file': 2},
  )
  probabilities = np.full((count, num_classes), 0.1 / num_classes, np.float32)
  probabilities[range(count), range(count)] = 0.9
  return chunk.Scored(decoded, probabilities, 'float32', 2, {'read': 1.0, 'infer': 2.0})


def test_stats_add_up_and_survive_their_json():
  rejects = [chunk.Reject(f'x@{n}', 'read', f'cut short at {n}') for n in range(3)]
  a = stats.chunk_stats(scored(4, [0, 0, 3], rejects))
  b = stats.chunk_stats(scored(4, [chunk.NO_LABEL, 1, chunk.UNKNOWN_LABEL, 0], []))
  for each in (a, b):
    assert stats.Stats.from_json(json.loads(json.dumps(each.to_json()))) == each
    assert stats.Stats.zero(4) + each == each
  both = a + b
  assert (both.images_seen, both.images_scored, both.images_rejected) == (10, 7, 3)
  assert (both.images_labelled, both.images_with_foreign_label) == (5, 1)
  assert both.images_by_background == {'light': 2}
  assert both.by_label == [2, 2, 2, 1]
  assert both.confusion == {(0, 0): 1, (0, 1): 1, (0, 3): 1, (1, 1): 1, (3, 2): 1}
  assert both.reasons == {'read: cut short at N': 3}
  assert both.passed_over == {'hidden file': 4}
  assert both.ids.repeated() == 3  # three images of both have the same ids
  assert sum(both.pixels) == 7 * 4
  assert [picture.id for picture in both.mistakes] == ['image 1', 'image 2', 'image 3']
  combined = stats.StatsCombineFn(4)
  assert combined.merge_accumulators([a, b, combined.create_accumulator()]) == both


def test_the_confusion_matrix_of_many_classes_lists_only_cells_that_are_not_zero():
  labels = [str(i) for i in range(1000)]
  card = model_card.ModelCard('v', tuple(labels), (2, 2, 1))
  total = stats.chunk_stats(scored(1000, [0, 7, 7], []))
  assert len(json.dumps(total.to_json()['confusion'])) < 100
  matrix = summary.summarize(total, card, {}, 1.0)['confusion_matrix']
  assert matrix['cells'] == [[0, 0, 1], [7, 1, 1], [7, 2, 1]]
  assert matrix['labels'] == labels


@pytest.mark.parametrize(('classes', 'kind'), [(127, 'int8'), (128, 'int16')])
def test_label_index_is_as_wide_as_the_labels_require(classes, kind):
  card = model_card.ModelCard('v', tuple(map(str, range(classes))), (2, 2, 1))
  table = sink.prediction_table(scored(classes, [0], []), card, 0)
  assert str(table.schema.field('label_index').type) == kind


def test_the_report_of_many_classes_lists_the_most_frequent_confusions(tmp_path):
  labels = [f'class {i}' for i in range(200)]
  model_kit.export_model(tmp_path / 'model', (32, 32, 3), labels)
  for label in range(0, 200, 10):
    folder = tmp_path / 'in' / labels[(label + 10) % 200]
    folder.mkdir(parents=True)
    image = np.full((32, 32, 3), round(255 * label / 199), np.uint8)
    (folder / f'{label}.png').write_bytes(pictures.saved(image, 'PNG'))
  summary = kit.score(
    tmp_path / 'model', tmp_path / 'in', tmp_path / 'out', '--label_from=directory', '--top_k=20'
  )
  assert summary['accuracy'] == 0
  assert len(summary['confusion_matrix']['cells']) == 20
  page = (tmp_path / 'out' / 'report.html').read_text()
  table = page.split('id="confusions"')[1].split('</table>')[0]
  assert table.count('<tr>') == 21
  assert '<td>class 10</td><td>class 0</td><td class="number">1</td>' in table


def test_no_images_at_all_are_refused(exported, tmp_path):
  (tmp_path / 'empty.tfrecord').write_bytes(b'')
  argv = kit.flags_for(exported, tmp_path / 'empty.tfrecord', tmp_path / 'out', *kit.IN_PROCESS)
  with pytest.raises(app.UsageError, match=r'empty\.tfrecord: contains no images'):
    main.run(*main.parse(argv))
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('classes', [2, 30, 40])
def test_the_report_has_room_for_long_and_foreign_names(classes, browser, tmp_path):
  """Nothing is drawn outside of its card, and a name that is cut short is there in full."""
  labels = [f'{page_kit.NAME} {i}' for i in range(classes)]
  model_kit.export_model(
    tmp_path / 'model', labels=labels, training_classes=(1 / classes,) * classes
  )
  (tmp_path / 'in' / labels[1]).mkdir(parents=True)
  black = pictures.saved(np.zeros((28, 28), np.uint8), 'PNG')
  (tmp_path / 'in' / labels[1] / '0.png').write_bytes(black)
  kit.score(tmp_path / 'model', tmp_path / 'in', tmp_path / 'out', '--label_from=directory')
  page = page_kit.opened(browser, tmp_path / 'out/report.html')
  assert page.evaluate(page_kit.OUTSIDE) == []
  assert page.locator('.pictures').first.inner_text().count(f'labelled {labels[1]}') == 1
  if classes <= 30:
    titles = page.locator('#confusion th').evaluate_all('all => all.map(each => each.title)')
    assert titles == labels * 2
  else:
    assert f'{labels[1]}\t{labels[0]}\t1' in page.inner_text('#confusions')
  page.close()


def test_json_has_neither_bytes_nor_nan(tmp_path):
  table = pa.table({'id': ['a', 'b'], 'key': [b'\x01\xff', None], 'price': [float('nan'), 2.5]})
  with open(tmp_path / 'a.jsonl', 'wb') as file:
    writers.WRITERS['jsonl'](file).write(table)
  lines = (tmp_path / 'a.jsonl').read_text().splitlines()
  assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
    {'id': 'a', 'key': '01ff', 'price': None},
    {'id': 'b', 'key': None, 'price': 2.5},
  ]
