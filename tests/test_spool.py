"""Sequences on disk: in order, as often as one likes, and without filling the memory."""

import errno
import os
import random
import tempfile
import tracemalloc

import pytest

from batch import file_list, source
from storage import files, spool
from tests import reader_kit


@pytest.mark.parametrize('number', [0, 1, 999, 1000, 1001, 2500])
def test_items_come_back_in_order_and_again(number):
  items = [(f'{index}.png', index) for index in range(number)]
  spooled = spool.Spool(items)
  assert (len(spooled), bool(spooled)) == (number, number > 0)
  assert list(spooled) == items
  assert list(zip(spooled, spooled)) == list(zip(items, items))  # two readers at a time


def test_items_appended_while_others_are_read_come_last():
  spooled = spool.Spool(range(1500))
  reading = iter(spooled)
  assert next(reading) == 0
  spooled.extend(range(1500, 4000))
  assert list(reading) == list(range(1, 4000))


def test_files_are_sorted_by_name_each_once(monkeypatch):
  monkeypatch.setattr(spool, 'RUN_ITEMS', 100)
  found = [files.File(f'{index % 700:04d}\udcff.png', 7) for index in range(1000)]
  random.Random(1).shuffle(found)
  assert list(spool.in_order(found)) == sorted(set(found))


def test_many_runs_are_merged_with_few_open_files(monkeypatch):
  monkeypatch.setattr(spool, 'RUN_ITEMS', spool.BLOCK_ITEMS)  # each is a file
  monkeypatch.setattr(spool, 'MAX_RUNS', 3)
  shuffled = list(range(50 * spool.BLOCK_ITEMS))
  random.Random(1).shuffle(shuffled)
  before = len(os.listdir('/proc/self/fd'))
  found = spool.ordered(shuffled)
  assert 0 < len(os.listdir('/proc/self/fd')) - before <= 8  # two of each of four levels
  assert list(found) == sorted(shuffled)


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EMFILE])
def test_a_full_disk_of_temporary_files_is_no_wrong_input(code, tmp_path, monkeypatch):
  def fail(*_, **__):
    raise OSError(code, os.strerror(code))

  pictures = [tmp_path / f'{index}.png' for index in range(spool.BLOCK_ITEMS)]
  for path in pictures:
    path.touch()
  monkeypatch.setattr(tempfile, 'TemporaryFile', fail)
  with pytest.raises(files.Unavailable, match=f'{os.strerror(code)}.*TMPDIR'):
    source.plan([f'{tmp_path}/*.png'], 'auto', reader_kit.settings())


def test_planning_holds_no_list(tmp_path, monkeypatch):
  """The names alone would be 4 MB, and the lists of files 10."""
  monkeypatch.setattr(spool, 'RUN_ITEMS', 5000)
  settings = reader_kit.settings(chunk_images=100)

  def peak(number: int) -> int:
    home, output = tmp_path / str(number), str(tmp_path / f'out{number}')
    home.mkdir()
    for index in range(number):
      (home / f'{index}.png').touch()
    tracemalloc.start()
    plan = source.plan([f'{home}/**/*.png'], 'auto', settings)
    blocks = file_list.store(plan.shards, range(len(plan.shards)), output)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.images == number
    names = [uri for block in blocks for each in file_list.read(block) for uri in each.uris]
    assert names == sorted(str(path) for path in home.iterdir())
    return most

  peak(10)  # imports
  assert peak(40_000) < peak(10_000) + 3_000_000
