"""Tar archives: every picture in them is an image or a reject, whoever wrote them."""

import bz2
import gzip
import io
import lzma
import pathlib
import random
import subprocess
import tarfile
import tracemalloc

import pytest
import zstandard
from absl import app

from batch import chunk, listing, source
from batch.readers import tar_samples
from benchmarks import collection
from storage import files
from tests import pictures, reader_kit


@pytest.fixture(scope='module')
def encoded() -> list[bytes]:
  """PNG files of noise."""
  return pictures.noise_pngs(60)


def write(path: pathlib.Path, *members: tuple[str, bytes], **options) -> str:
  """Writes an archive with tarfile and returns its path."""
  with tarfile.open(path, 'w', **options) as archive:
    for name, content in members:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return str(path)


def gnu_tar(*arguments: str | pathlib.Path) -> None:
  """Runs GNU tar."""
  subprocess.run(['tar', *map(str, arguments)], check=True)


def read(path: str, skip: int = 0, **changes) -> list[chunk.ReadImages]:
  """Returns the chunks of an archive."""
  return list(source.read(chunk.Shard(0, 'tar', path), skip, reader_kit.settings(**changes)))


def read_one(path: str, **changes) -> chunk.ReadImages:
  """Returns the only chunk of an archive, whose ids begin with #."""
  (columns,) = read(path, **changes)
  columns.ids = [name.removeprefix(path) for name in columns.ids]
  columns.rejects = [
    chunk.Reject(r.id.removeprefix(path), r.stage, r.reason) for r in columns.rejects
  ]
  return columns


def test_several_pictures_of_a_sample_are_images_each(encoded, tmp_path):
  names = ['a.jpg', 'a.png', 'b.PNG', 'b.png', 'c.png', 'c.png']
  names += ['d.seg.png', 'd.png', 'e.v1.2.png', 'f.png']
  path = write(tmp_path / 'a.tar', *zip(names, encoded), ('f.cls', b'7\n'))
  columns = read_one(path)
  places = {name: f'@{number * 1536}' for number, name in enumerate(names)}
  assert len(encoded[0]) > 512
  assert columns.ids == [
    '#a.jpg',
    '#a.png',
    '#b.PNG',
    '#b.png',
    '#c.png',
    f'#c.png{places["c.png"]}',
    '#d.seg.png',
    '#d.png',
    '#e',
    '#f',
  ]
  assert list(columns.encoded) == encoded[:10]
  assert list(columns.labels) == [None] * 9 + [b'7\n']
  columns = read_one(path, image_column='.png')
  assert columns.ids[:2] == ['#a', '#b.PNG']
  assert columns.passed_over == {'picture outside the image column': 3}


def test_a_sample_may_have_any_number_of_pictures(encoded, tmp_path, monkeypatch):
  members = [(f'img.{n:04}.png', encoded[n % 60]) for n in range(2500)]
  path = write(tmp_path / 'a.tar', ('img.cls', b'3'), *members)
  columns = read_one(path)
  assert columns.ids == [f'#{name}' for name, _ in members]
  assert set(columns.labels) == {b'3'}
  path = write(tmp_path / 'b.tar', *members[:1], ('img.cls', b'3'))
  monkeypatch.setattr(tar_samples, 'MAX_PART_IMAGES', 1)
  assert read_one(path).passed_over == {'label apart from its image': 1}


def test_named_suffixes_are_read_and_unknown_ones_refused(encoded, tmp_path):
  path = write(
    tmp_path / 'a.tar',
    ('0.input.png', encoded[0]),
    ('0.mask.png', encoded[1]),
    ('0.class.txt', b'Coat'),
    ('0.name', b'first'),
  )
  names = {'image_column': 'input.png', 'label_column': 'class.txt', 'id_column': 'name'}
  columns = read_one(path, **names)
  assert (columns.ids, list(columns.labels)) == (['first'], [b'Coat'])
  for flag in names:
    with pytest.raises(app.UsageError, match=f'--{flag}=x: .* no such suffix, only class.txt, in'):
      plan(path, **{flag: 'x'})


def plan(*paths: str, **changes) -> list[chunk.Shard]:
  """Returns the shards of archives."""
  found = [file for path in paths for file in files.match(path)]
  return source.reader('tar').plan(found, reader_kit.settings(**changes)).shards


def test_long_names_folders_and_samples_without_an_image(encoded, tmp_path):
  long_name = 'a/' + 'very-' * 40 + 'long'
  for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    path = tmp_path / 'a.tgz'
    with tarfile.open(path, 'w:gz', format=kind) as archive:
      folder = tarfile.TarInfo('a')
      folder.type = tarfile.DIRTYPE
      archive.addfile(folder)
      for name, content in (
        (f'{long_name}.png', encoded[0]),
        (f'{long_name}.cls', b'7'),
        ('lonely.cls', b'3'),
        ('dataset.json', b'{}'),
        ('LICENSE', b'free'),
        (f'{long_name}.cls', b'7'),
      ):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    columns = read_one(str(path))
    assert columns.ids == [f'#{long_name}']
    assert list(columns.labels) == [b'7']
    assert [(r.id, r.reason) for r in columns.rejects] == [
      ('#lonely', 'the sample has no image, only .cls')
    ]
    assert columns.passed_over == {
      '.json file': 1,
      'file without an extension': 1,
      'label apart from its image': 1,
    }


def test_names_that_are_not_utf8_stay_apart(encoded, tmp_path):
  (tmp_path / 'src').mkdir()
  for name, content in zip((b'caf\xe8.png', b'caf\xe9.png', 'café.png'.encode()), encoded):
    with open(f'{tmp_path}/src/'.encode() + name, 'wb') as file:
      file.write(content)
  for kind in ('gnu', 'pax', 'ustar', 'v7'):
    path = str(tmp_path / f'{kind}.tar')
    gnu_tar(f'--format={kind}', '--sort=name', '-cf', path, '-C', tmp_path / 'src', '.')
    columns = read_one(path)
    assert sorted(columns.ids) == ['#./caf\\xe8', '#./caf\\xe9', '#./café']
    assert not columns.rejects


def test_links_are_rejects_that_say_what_to_do(encoded, tmp_path):
  folder = tmp_path / 'src'
  folder.mkdir()
  for n in range(3):
    (folder / f'{n}.png').write_bytes(encoded[n])
  (folder / '8.png').symlink_to('1.png')
  (folder / '9.png').hardlink_to(folder / '0.png')
  (folder / 'latest').symlink_to('2.png')
  path = str(tmp_path / 'a.tar')
  gnu_tar('--sort=name', '-cf', path, '-C', folder, '.')
  columns = read_one(path)
  assert columns.ids == ['#./0', '#./1', '#./2']
  assert [r.id for r in columns.rejects] == ['#./8', '#./9']
  assert columns.rejects[1].reason == (
    'the archive has only a link to ./0.png, not the picture; pack it again with tar '
    '--dereference --hard-dereference'
  )
  assert columns.passed_over == {'link': 1}


@pytest.mark.parametrize('kind', ['gnu', '0.0', '0.1', '1.0'])
@pytest.mark.parametrize('holes', [1, 40])
def test_sparse_files_are_read(kind, holes, encoded, tmp_path):
  folder = tmp_path / 'src'
  folder.mkdir()
  for name in ('a.png', 'c.png'):
    (folder / name).write_bytes(encoded[0])
  with (folder / 'b.png').open('wb') as file:
    for n in range(holes):
      file.seek(n << 16)
      file.write(encoded[n])
    file.truncate((holes << 16) + 5)
  path = str(tmp_path / 'a.tar')
  options = ['--format=gnu'] if kind == 'gnu' else ['--format=pax', f'--sparse-version={kind}']
  gnu_tar('-S', *options, '-cf', path, '-C', folder, 'a.png', 'b.png', 'c.png')
  assert pathlib.Path(path).stat().st_size < 200_000
  columns = read_one(path)
  assert columns.ids == ['#a', '#b', '#c']
  assert columns.encoded[1] == (folder / 'b.png').read_bytes()
  assert columns.encoded[2] == encoded[0]


def test_hidden_files_are_passed_over(encoded, tmp_path):
  names = [
    '._a.png',
    './a.png',
    '__MACOSX/._a.png',
    '.DS_Store',
    './.git/x.png',
    'b/.c.png',
    'b/c.png',
  ]
  columns = read_one(write(tmp_path / 'a.tar', *((name, encoded[0]) for name in names)))
  assert columns.ids == ['#./a', '#b/c']
  assert columns.passed_over == {'resource fork': 2, 'hidden file': 3}


def test_a_resource_fork_does_not_part_a_picture_from_its_label(encoded, tmp_path):
  path = write(
    tmp_path / 'a.tar',
    *(('a.png', encoded[0]), ('._a.cls', b'x'), ('a.cls', b'5')),
    format=tarfile.PAX_FORMAT,
    pax_headers={'comment': 'for all'},
  )
  assert list(read_one(path).labels) == [b'5']


def test_pictures_are_known_by_their_content(encoded, tmp_path):
  path = write(
    tmp_path / 'a.tar',
    ('000', encoded[0]),
    ('001.img', pictures.saved(pictures.photograph(), 'JPEG')),
    ('002.bin', pictures.saved(pictures.photograph(), 'BMP')),
    ('003.dat', pictures.saved(pictures.photograph(), 'WEBP')),
    ('BMW.txt', b'BMW is a make of cars, and this a text'),
    ('sound.wav', b'RIFF\0\0\0\0WAVEfmt '),
    ('004.jfif', pictures.saved(pictures.photograph(), 'JPEG')),
    ('005.tif', pictures.saved(pictures.photograph(), 'TIFF')),
  )
  columns = read_one(path)
  assert columns.ids == [f'#{n:03}' for n in range(6)]
  assert columns.passed_over == {'.txt file': 1, '.wav file': 1}


def test_a_member_that_is_too_large_is_rejected_and_the_rest_read(encoded, tmp_path, monkeypatch):
  monkeypatch.setattr(tar_samples, 'MAX_MEMBER_BYTES', 10_000)
  large = encoded[1] + bytes(10_000)
  members = [
    ('a.png', encoded[0]),
    ('b.png', large),
    ('b.npy', bytes(10_001)),
    ('c.png', encoded[2]),
  ]
  columns = read_one(write(tmp_path / 'a.tar', *members))
  assert columns.ids == ['#a', '#c']
  assert [(r.id, r.reason) for r in columns.rejects] == [
    ('#b', f'{len(large)} bytes are more than the 10000 that are read')
  ]


@pytest.mark.parametrize('padding', [0, 512, 10_240])
def test_archives_one_after_the_other_are_read(padding, encoded, tmp_path):
  part = pathlib.Path(
    write(tmp_path / 'a.tar', ('a.png', encoded[0]), ('b.png', encoded[1]))
  ).read_bytes()
  path = tmp_path / 'both.tar'
  path.write_bytes(part + bytes(padding) + part)
  columns = read_one(str(path))
  place = len(part) + padding
  assert columns.ids == ['#a', '#b', f'#a@{place}', f'#b@{place + 1536}']
  assert list(columns.encoded) == encoded[:2] * 2
  path.write_bytes(part + b'signature')
  columns = read_one(str(path))
  assert (columns.ids, columns.rejects) == (['#a', '#b'], [])
  assert columns.passed_over == {'piece of data after the end of an archive': 1}


@pytest.mark.parametrize(
  ('name', 'pack'),
  [
    ('a.tar.gz', gzip.compress),
    ('a.tar', gzip.compress),
    ('a.tar.bz2', bz2.compress),
    ('a.tar.xz', lzma.compress),
    ('a.tar.zst', zstandard.compress),
  ],
)
def test_compressed_archives_are_read_up_to_damage(name, pack, tmp_path):
  noise = random.Random(0)
  members = [(f'{n:04}.png', noise.randbytes(900)) for n in range(2000)]
  plain = pathlib.Path(write(tmp_path / 'plain', *members)).read_bytes()
  path = tmp_path / name
  path.write_bytes(pack(plain))
  assert listing.guess_format(name) == 'tar'
  assert list(read_one(str(path)).encoded) == [content for _, content in members]
  path.write_bytes(pack(plain)[: len(pack(plain)) * 3 // 4])
  columns = read_one(str(path))
  assert 900 < len(columns.ids) < 1600
  assert 'data is cut short' in columns.rejects[0].reason


def test_empty_and_foreign_archives(encoded, tmp_path):
  for name in ('a.tar', 'b.tar'):
    write(tmp_path / name)
  (tmp_path / 'c.tar').write_bytes(b'')
  assert plan(f'{tmp_path}/*') == []
  with pytest.raises(app.UsageError, match='contains no images'):
    source.plan([str(tmp_path)], 'auto', reader_kit.settings())
  (tmp_path / 'd.tar').write_bytes(b'PK\x03\x04' + bytes(2000))
  with pytest.raises(app.UsageError, match=r'd.tar: the file is a ZIP archive; unpack it'):
    plan(f'{tmp_path}/*')
  write(tmp_path / 'e.tar', ('a.png', encoded[0]))
  assert len(plan(f'{tmp_path}/*')) == 5
  assert read(f'{tmp_path}/a.tar') == []
  assert 'ZIP archive' in read_one(f'{tmp_path}/d.tar').rejects[0].reason


@pytest.mark.parametrize(
  'payload',
  [
    b'zz path=x.png\n',
    b'0 path=x.png\n',
    b'99 path=x.png\n',
    b'14 path=x.png',
    b'-5 a=b\n',
    b'5 \xff\n',
  ],
)
def test_a_damaged_pax_header_leaves_the_name_in_the_header(payload, encoded, tmp_path):
  path = tmp_path / 'a.tar'
  with tarfile.open(path, 'w') as archive:
    for name, content in (('a.png', encoded[0]), ('pax', payload), ('b.png', encoded[1])):
      member = tarfile.TarInfo(name)
      member.size = len(content)
      member.type = b'x' if name == 'pax' else b'0'
      archive.addfile(member, io.BytesIO(content))
  columns = read_one(str(path))
  assert (columns.ids, columns.rejects) == (['#a', '#b'], [])
  assert columns.passed_over == {'damaged header of a long name': 1}


def damaged(path: pathlib.Path, encoded: list[bytes]) -> tuple[bytearray, list[int]]:
  """Returns an archive of 20 samples, each a picture and its label, and where they begin."""
  collection.write_tar(str(path), ((n, data, n % 10) for n, data in enumerate(encoded[:20])))
  content = bytearray(path.read_bytes())
  return content, [content.index(b'test-%07d.png' % n) for n in range(20)]


@pytest.mark.parametrize(
  ('cut', 'reason'),
  [
    (0, 'the archive is cut short: it has no end marker'),
    (100, 'the archive is cut short or damaged'),
    (700, 'the archive is cut short or damaged'),
  ],
)
def test_an_archive_cut_short_is_read_up_to_there(cut, reason, encoded, tmp_path):
  path = tmp_path / 'a.tar'
  content, begins = damaged(path, encoded)
  path.write_bytes(content[: begins[12] + cut])
  columns = read_one(str(path))
  assert columns.ids == [f'#test-{n:07d}' for n in range(12)]
  assert [(r.id, r.reason) for r in columns.rejects] == [(f'@{begins[12]}', reason)]


@pytest.mark.parametrize('damage', ['name', 'size', 'zeros', 'inserted', 'removed'])
def test_damage_between_members_is_one_reject(damage, encoded, tmp_path):
  path = tmp_path / 'a.tar'
  content, begins = damaged(path, encoded)
  begin = begins[12]
  if damage == 'name':
    content[begin + 3] ^= 1
  elif damage == 'size':
    content[begin + 124 : begin + 135] = b'77777777777'
  elif damage == 'zeros':
    content[begin : begin + 512] = bytes(512)
  elif damage == 'inserted':
    content[begin:begin] = b'garbage' * 100
  else:
    del content[begin : begin + 777]
  path.write_bytes(content)
  columns = read_one(str(path))
  lost = [] if damage == 'inserted' else [12]
  assert columns.ids == [f'#test-{n:07d}' for n in range(20) if n not in lost]
  (reject,) = columns.rejects
  assert reject.id == f'@{begin + 512 if damage == "zeros" else begin}'
  assert reject.reason.endswith('bytes are no member of the archive')


def test_a_size_larger_than_the_archive_takes_neither_memory_nor_the_rest(encoded, tmp_path):
  path = tmp_path / 'a.tar'
  content, begins = damaged(path, encoded)
  header = bytearray(content[begins[12] : begins[12] + 512])
  header[124:136] = b'\x80' + (10 << 30).to_bytes(11, 'big')
  header[148:156] = b' ' * 8
  header[148:156] = b'%06o\0 ' % sum(header)
  content[begins[12] : begins[12] + 512] = header
  path.write_bytes(content)
  tracemalloc.start()
  columns = read_one(str(path))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert columns.ids == [f'#test-{n:07d}' for n in range(20) if n != 12]
  assert len(columns.rejects) == 1
  assert peak < 5 << 20


def test_an_interrupted_archive_goes_on_in_place(encoded, tmp_path):
  members = []
  for n in range(23):
    members += [(f'{n}.json', b'{}'), (f'{n}.png', encoded[n]), (f'{n}.txt', b'words')]
  members += [('README', b'text')]
  path = write(tmp_path / 'a.tar', *members)
  whole = read(path, chunk_images=5)
  assert [len(columns.ids) for columns in whole] == [5, 5, 5, 5, 3]
  for done in range(1, 6):
    assert read(path, sum(len(c.ids) for c in whole[:done]), chunk_images=5) == whole[done:]
  counts = [sum(columns.passed_over.values()) for columns in whole]
  assert sum(counts) == 47


def test_no_sample_is_torn_and_names_are_known_across_ranges(encoded, tmp_path):
  inner = pathlib.Path(write(tmp_path / 'inner.tar', ('0.png', encoded[0]), ('1.png', encoded[1])))
  members = [('a.png', encoded[0]), ('a.tar', inner.read_bytes() * 4), ('a.cls', b'1')]
  members += [('b.png', encoded[1]), ('a.png', encoded[2]), ('b.cls', b'2'), ('b.png', encoded[3])]
  members += [
    (f'{"long/" * 40}{n}.{suffix}', encoded[n]) for n in range(9) for suffix in ('png', 'txt')
  ]
  path = pathlib.Path(write(tmp_path / 'a.tar', *members))
  (whole,) = read(str(path))
  shards = reader_kit.in_ranges(path, 'tar', 1024)
  parts = [part for shard in shards for part in source.read(shard, 0, reader_kit.settings())]
  assert len(parts) > 10
  assert [name for part in parts for name in part.ids] == whole.ids
  assert [label for part in parts for label in part.labels or ()] == whole.labels
  assert len(whole.ids) == len(set(whole.ids)) == 13


def test_a_range_within_a_large_member_is_not_read(encoded, tmp_path, monkeypatch):
  path = tmp_path / 'a.tar'
  with tarfile.open(path, 'w') as archive:
    for name, content in (('0.png', encoded[0]), ('a.bin', bytes(4 << 20)), ('1.png', encoded[1])):
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  shards = reader_kit.in_ranges(path, 'tar', 64 << 10)
  assert len(shards) > 50
  sizes = reader_kit.count_reads(monkeypatch)
  settings = reader_kit.settings()
  found = [part for shard in shards for part in source.read(shard, 0, settings)]
  assert [name for part in found for name in part.ids] == [f'{path}#0', f'{path}#1']
  assert 0 < sum(sizes) < 2 * path.stat().st_size
