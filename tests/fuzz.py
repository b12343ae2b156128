"""Damages small files of every kind that the scorer reads, for minutes, and reads them.

  python -m tests.fuzz tar --cpu_minutes=10

Whatever the bytes, each whole picture has to be there or to be a reject, a resumed run has to read
what the first one did, and nothing may raise, hang or fill the memory. Prints one JSON line. What
breaks this is kept in --keep. The tests' own properties are the same, with few examples.
"""

import argparse
import collections
import faulthandler
import gzip
import json
import pathlib
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from absl import app

from batch.readers import idx, parquet
from images import decode, model_card
from tests import fuzz_seeds, reader_kit

MISSING = re.compile(r'(\d+) rows are missing')  # very many are one reject
CPU_SECONDS = 20  # of one file; then it hangs
GROWTH_BYTES = 512 << 20  # of the process during one file
SHAPE = (28, 28, 1)
VALUES = (0, 1, 7, 10, 13, 32, 34, 44, 47, 48, 55, 127, 128, 255)
NUMBERS = tuple(
  number.to_bytes(size, order)
  for size in (2, 4, 8)
  for number in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)
  for order in ('little', 'big')
)


class Broken(Exception):
  """What the reader promises does not hold."""


def damaged(seeds: dict[str, bytes], dice: random.Random) -> tuple[str, bytes]:
  """Returns the name of one of some files, and its content with one or several changes."""
  name = dice.choice(list(seeds))
  is_packed = name.endswith('.gz') and dice.random() < 0.7  # else nothing but gzip would be tested
  content = bytearray(gzip.decompress(seeds[name]) if is_packed else seeds[name])
  for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
    place = dice.randrange(len(content) + 1)
    length = dice.choice((1, 2, 4, 8, 64, 512, dice.randrange(1, 2000)))
    how = dice.randrange(8)
    if how <= 2:
      content[place : place + 1] = bytes([dice.choice(VALUES + (dice.randrange(256),))])
    elif how == 3:
      number = dice.choice(NUMBERS)
      content[place : place + len(number)] = number
    elif how == 4:
      del content[place:]
    elif how == 5:
      del content[place : place + length]
    elif how == 6:
      content[place:place] = dice.choice((dice.randbytes(length), content[place : place + length]))
    else:
      other = seeds[dice.choice(list(seeds))]
      start = dice.randrange(len(other))
      content[place : place + length] = other[start : start + length]
  return name, gzip.compress(bytes(content), 1) if is_packed else bytes(content)


def check_file(path: pathlib.Path) -> None:
  """Reads a collection of one file."""
  try:
    found = reader_kit.read_all(
      path, chunk_images=random.Random(path.stat().st_size).choice((2, 9))
    )
  except app.UsageError:
    return
  for part in found.chunks:
    pixels = [] if part.pixels is None else part.pixels
    _require(len(part.ids) == len(part.encoded or pixels), 'an id without a picture')
    _require(part.labels is None or len(part.labels) == len(part.ids), 'a label too many')
  names = [*found.ids, *(reject.id for reject in found.rejects)]
  _require(all(names), 'an empty id')
  ''.join(names + [reject.reason for reject in found.rejects]).encode()
  missing = [int(n) for each in found.rejects for n in MISSING.findall(each.reason)]
  planned, seen = found.plan.images, found.seen() + sum(n - 1 for n in missing)
  is_known = planned is not None and not path.name.endswith('.gz')
  if is_known and found.plan.format in ('parquet', 'idx'):
    # An IDX file may have more images than its header promises.
    _require(seen == planned or (seen > planned and bool(found.rejects)), f'{seen}, not {planned}')


def check_picture(path: pathlib.Path) -> None:
  """Decodes a picture between two whole ones."""
  whole, content = fuzz_seeds.WHOLE, path.read_bytes()
  for preprocess in ('auto', 'none'):
    found = decode.decode([whole, content, whole], preprocess, 10**6, SHAPE)
    _require(not {0, 2} & found.reasons.keys(), f'a neighbour: {found.reasons}')
    _require((found.pixels[[0, 2]] == fuzz_seeds.WHOLE_PIXELS).all(), 'pixels of a neighbour')
    _require(all('\n' not in reason for reason in found.reasons.values()), 'a reason of two lines')


def check_card(path: pathlib.Path) -> None:
  """Reads a model card."""
  home = path.with_name('model')
  (home / 'assets').mkdir(parents=True, exist_ok=True)
  (home / 'saved_model.pb').write_text(model_card.SIGNATURE)
  (home / 'assets/labels.txt').write_text('a\nb\n')
  shutil.copy(path, home / 'assets/model_card.json')
  try:
    card = model_card.read(str(home))
  except app.UsageError as error:
    _require('\n' not in str(error), f'several lines: {error}')
    return
  json.dumps(card.to_json())
  _require(card.version.isprintable() and min(card.image_shape) > 0, f'{card}')


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise Broken(what)


class Parser(NamedTuple):
  """What is tested: whole files by name, and what reads one."""

  seeds: Callable[[], dict[str, bytes]]
  check: Callable[[pathlib.Path], None]


PARSERS = {
  'idx': Parser(fuzz_seeds.idx, check_file),
  'tfrecord': Parser(fuzz_seeds.tfrecord, check_file),
  'example': Parser(fuzz_seeds.example, lambda path: check_file(fuzz_seeds.framed(path))),
  'tar': Parser(fuzz_seeds.tar, check_file),
  'parquet': Parser(fuzz_seeds.parquet, check_file),
  'manifest': Parser(fuzz_seeds.manifest, check_file),
  'png': Parser(fuzz_seeds.png, check_picture),
  'picture': Parser(fuzz_seeds.picture, check_picture),
  'model_card': Parser(fuzz_seeds.card, check_card),
}


def _hangs(*_: object) -> NoReturn:
  raise Broken(f'more than {CPU_SECONDS} s')


def _peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def fuzz(name: str, cpu_minutes: float, seed: int, keep: pathlib.Path) -> dict[str, object]:
  """Returns how many files were read in so many minutes, and how often which promise broke."""
  parser, dice = PARSERS[name], random.Random(seed)
  seeds, findings = parser.seeds(), collections.Counter[str]()
  signal.signal(signal.SIGPROF, _hangs)
  executions, begun = 0, time.process_time()
  with tempfile.TemporaryDirectory(dir='/dev/shm') as home:
    while time.process_time() - begun < 60 * cpu_minutes:
      file_name, content = damaged(seeds, dice)
      path = pathlib.Path(home, file_name)
      path.write_bytes(content)
      (keep / f'{name}-last').write_bytes(content)  # which tells what ended the process
      before, executions = _peak(), executions + 1
      signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
      try:
        parser.check(path)
        _require(_peak() - before < GROWTH_BYTES, 'the memory grows')
      except Exception:
        lines = traceback.format_exc().splitlines()
        what = ' '.join([lines[-1][:200], *lines[-3:-1]]).replace(home, '')
        findings[what] += 1
        if findings[what] == 1:
          (keep / f'{name}-{len(findings)}-{file_name}').write_bytes(content)
          (keep / f'{name}-{len(findings)}.txt').write_text('\n'.join(lines))
      finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.unlink()
  minutes = round((time.process_time() - begun) / 60, 2)
  peak = round(_peak() / 2**20)
  return {
    'parser': name,
    'executions': executions,
    'cpu_minutes': minutes,
    'peak_mib': peak,
    'findings': dict(findings),
  }


def main() -> None:
  """Fuzzes the parser that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
  parser.add_argument('parser', choices=PARSERS)
  parser.add_argument('--cpu_minutes', type=float, default=10)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--keep', type=pathlib.Path, default=pathlib.Path('runs/fuzz'))
  chosen = parser.parse_args()
  faulthandler.enable()
  idx.MAX_MISSING_ROWS = parquet.MAX_MISSING_ROWS = 1000  # a million rejects take seconds
  chosen.keep.mkdir(parents=True, exist_ok=True)
  found = fuzz(chosen.parser, chosen.cpu_minutes, chosen.seed, chosen.keep)
  print(json.dumps(found))


if __name__ == '__main__':
  main()
