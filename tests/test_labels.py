"""Labels as they come: spellings, numbers, maps; and ids that repeat."""

import decimal
import json
import math
import os

import numpy as np
import pytest
from absl import app

from batch import chunk, labels, main
from tests import model_kit, pictures
from tests import score_kit as kit
from trainer.datasets.fashion_mnist import LABELS as FASHION

FOREIGN, NONE = chunk.UNKNOWN_LABEL, chunk.NO_LABEL


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    (['Ankle boot', 'ankle_boot', 'ANKLE-BOOT', ' ankleboot\n', b'Ankle boot'], 9),
    (['T-shirt/top', 't_shirt_top', 'T - shirt / top', 'tshirt top'], 0),
    ([7, 7.0, np.float32(7), np.int64(7), decimal.Decimal('7.00'), '7', '7.0', '07', b'7'], 7),
    ([10, '10', -2, 2.5, '2.5', 'boot', math.inf, '9' * 5000, '²', [1], {'a': 1}], FOREIGN),
    ([None, math.nan, '', ' ', b'', -1, -1.0, '-1'], NONE),
  ],
)
def test_labels_in_other_spellings_and_types(given, expected):
  index = labels.LabelIndex(FASHION)
  assert index.to_indices(given, len(given)).tolist() == [expected] * len(given)


def test_spellings_that_two_labels_share_are_foreign():
  index = labels.LabelIndex(['a-b', 'ab', 'c d'])
  assert [index.find(name) for name in ('a-b', 'ab', 'a b', 'C_D')] == [0, 1, FOREIGN, 2]


def test_labels_that_are_numbers_come_before_indices():
  index = labels.LabelIndex(['2', '1', '007'])
  assert [index.find(value) for value in (2, '1', '007', 0)] == [0, 1, 2, 0]


def test_an_offset_counts_from_another_number():
  index = labels.LabelIndex(FASHION, offset=1)
  given = [1, 10, '10', 0, 11, -1, 'Coat']
  assert index.to_indices(given, 7).tolist() == [0, 9, 9, FOREIGN, FOREIGN, NONE, 4]
  assert labels.LabelIndex(FASHION, offset=-1).find(-1) == 0
  assert labels.LabelIndex(['1', '0'], offset=1).find('1') == 0


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('map.json', json.dumps({'boots': 'ankle_boot', '12': 8, 'none': None, '3': 'Coat'})),
    ('map.csv', 'value,label\r\nboots,ankle_boot\r\n12,8\r\nnone,\r\n3.0,Coat\r\n'),
    ('map.tsv', '\ufeffboots\tAnkle boot\n12\tBag\nnone\t\n3\t4\n'),
  ],
)
def test_a_label_map(name, text, tmp_path):
  path = tmp_path / name
  path.write_text(text)
  index = labels.LabelIndex(FASHION, labels.read_map(str(path), FASHION))
  given = ['boots', 12, 12.0, 'none', 3, 'Coat', None, 0]
  assert index.to_indices(given, 8).tolist() == [9, 8, 8, NONE, 4, FOREIGN, NONE, FOREIGN]


def test_a_label_map_that_is_a_list(tmp_path):
  (tmp_path / 'map.json').write_text(json.dumps(['Bag', 'Coat']))
  assert labels.read_map(str(tmp_path / 'map.json'), FASHION) == {'0': 8, '1': 4}


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('{"a": "Hat"}', "'Hat' is not a label"),
    ('{"a": 10}', '10 is not a label'),
    ('{"a": "Bag", "a": "Coat"}', "'a' two labels"),
    ('{"Coat": 0}', "'Coat' is a label of the model, but not its number 0"),
    ('{"a": ["Bag"]}', 'not all names or indices'),
    ('{"a": ', 'pass a JSON object or CSV'),
    ('a\nb\n', 'is not a value and a label'),
    ('a,Bag,x\n', 'is not a value and a label'),
    ('', 'is empty'),
    (b'\xff\xfe\x00', 'pass a JSON object or CSV'),
  ],
)
def test_a_label_map_that_will_not_do_is_refused(text, said, tmp_path):
  path = tmp_path / 'map'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(app.UsageError, match=said) as refusal:
    labels.read_map(str(path), FASHION)
  assert str(refusal.value).startswith(f'--label_map={path}: ')
  with pytest.raises(app.UsageError, match=f'--label_map={tmp_path}/none'):
    labels.read_map(f'{tmp_path}/none', FASHION)


def test_foreign_labels_and_repeated_ids_are_said_last(tmp_path, capsys):
  model_kit.export_model(tmp_path / 'model' / '1', labels=[f'class {i}' for i in range(10)])
  rows, root = [b'uri,id,label'], tmp_path / os.fsdecode(b'latin-1 \xe9')
  root.mkdir()
  for number, data in enumerate(pictures.noise_pngs(7)):
    (root / f'{number}.png').write_bytes(data)
    label = b'Hat' if number < 4 else b'Gr\xf6\xdfe' if number == 6 else b'%d' % number
    rows.append(b'%d.png,sku %d,%s' % (number, number % 4, label))
  (tmp_path / 'list.csv').write_bytes(b'\n'.join(rows))
  table, flag = tmp_path / 'list.csv', f'--root={root}'
  argv = kit.flags_for(tmp_path / 'model' / '1', table, tmp_path / 'a', flag)
  assert main.cli([*argv, *kit.IN_PROCESS]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert 'images whose id an earlier one has: 3' in lines
  assert lines[-1] == (
    "5 images have a label that is not one of the model, such as 'Hat', 'Gr??e'; pass --label_map "
    'or --label_offset'
  )
  summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
  assert summary['foreign_labels'] == {'Hat': 4, 'Gr??e': 1}
  assert summary['repeated_ids'] == 3
  (tmp_path / 'map.json').write_text('{"Hat": "class 3", "4": 4, "5": 5}')
  argv = kit.flags_for(tmp_path / 'model' / '1', table, tmp_path / 'b', flag)
  assert main.cli([*argv, f'--label_map={tmp_path}/map.json', *kit.IN_PROCESS]) == 0
  summary = json.loads((tmp_path / 'b' / 'summary.json').read_text())
  assert (summary['images_labelled'], summary['images_with_foreign_label']) == (6, 1)
  assert main.cli([*argv, '--resume', *kit.IN_PROCESS]) == 64
  assert 'label_map' in capsys.readouterr().err
  assert main.cli([*argv, '--label_map=x', '--label_offset=1']) == 64
  assert '--label_map and --label_offset exclude each other' in capsys.readouterr().err
