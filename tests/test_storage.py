"""Files on this machine, and what needs no bucket server: patterns and errors."""

import errno
import os

import pytest
from absl import app

from storage import files, gcs_patterns


@pytest.mark.parametrize(
  ('pattern', 'prefix'),
  [
    ('a/b.png', 'a/b.png'),
    ('a/*.png', 'a/'),
    ('a/b?.png', 'a/b'),
    ('a/[bc].png', 'a/'),
    ('**', ''),
    ('', ''),
  ],
)
def test_a_patterns_literal_prefix(pattern, prefix):
  assert gcs_patterns.literal_prefix(pattern) == prefix


@pytest.mark.parametrize(
  ('pattern', 'matching', 'others'),
  [
    ('*.png', ['a.png', 'a.b.png'], ['.a.png', 'x/a.png', 'a.jpg', 'a.pngs']),
    ('**/*.png', ['a.png', 'x/a.png', 'x/y/a.png'], ['.x/a.png', 'x/.y/a.png', 'x/.a.png']),
    ('x/**', ['x/a', 'x/y/a.png'], ['x', 'y/a', 'x/.a', 'x/.y/a']),
    ('?', ['a', 'é'], ['', 'ab', '/', '.']),
    ('[!a]*', ['b', 'bc'], ['a', 'ab', '.b']),
    ('[a-c].png', ['b.png'], ['d.png', '[a-c].png']),
    ('a.png', ['a.png'], ['axpng', 'a.png\n']),
    ('.*', ['.a', '.'], ['a', '.a/b']),
    ('a[', ['a['], ['a']),
    ('a/*/b', ['a/x/b'], ['a/b', 'a/x/y/b', 'a/.x/b']),
    (r'[\w].png', [r'\.png', 'w.png'], ['a.png']),
  ],
)
def test_a_pattern_matches_names_as_a_shell_does(pattern, matching, others):
  fits = gcs_patterns.compiled(pattern).fullmatch
  assert [name for name in matching if not fits(name)] == []
  assert [name for name in others if fits(name)] == []


def test_a_written_file_is_read_replaced_and_removed(tmp_path):
  path = str(tmp_path / 'deep/er/a.txt')
  files.write(path, 'éins')
  assert files.read(path) == 'éins'.encode()
  files.write(path, b'two', durable=True)
  assert files.read(path, limit=3) == b'two'
  with pytest.raises(ValueError, match='more than 2 bytes'):
    files.read(path, limit=2)
  with files.open_bytes(path) as file:
    assert (file.seek(1), file.read()) == (1, b'wo')
  assert os.stat(path).st_mode & 0o777 == 0o644
  files.remove([path, str(tmp_path / 'none')])
  assert not files.exists(path)
  assert files.list_files(str(tmp_path)) == []


def test_a_write_that_fails_leaves_the_file_before_and_no_other(tmp_path, monkeypatch):
  path = str(tmp_path / 'a.txt')
  files.write(path, 'before')

  def full(*_):
    raise OSError('No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  with pytest.raises(OSError, match='No space'):
    files.write(path, 'after')
  assert os.listdir(tmp_path) == ['a.txt']
  assert files.read(path) == b'before'


def test_a_read_error_of_the_disk_is_an_outage():
  unreadable = '/proc/self/mem'  # nothing is mapped at address 0: EIO
  with files.open_bytes(unreadable) as file, pytest.raises(files.Unavailable, match=unreadable):
    file.read(10)
  for call in (files.read, lambda uri: files.open_bytes(uri).read()):
    with pytest.raises(files.Unavailable, match='try again'):
      call(unreadable)


@pytest.mark.parametrize('code', [errno.ESTALE, errno.EMFILE, errno.ENOSPC])
def test_a_file_system_in_trouble_is_an_outage(code, tmp_path, monkeypatch):
  path = str(tmp_path / 'a.bin')
  files.write(path, b'content')

  def fail(*_, **__):
    raise OSError(code, os.strerror(code), path)

  monkeypatch.setattr('builtins.open', fail)
  monkeypatch.setattr(os, 'replace', fail)
  for call in (lambda: files.read(path), lambda: files.write(path, b'x')):
    with pytest.raises(files.Unavailable, match='try again'):
      call()


def test_a_missing_file_is_no_outage(tmp_path):
  for call in (files.read, files.open_bytes):
    with pytest.raises(FileNotFoundError):
      call(str(tmp_path / 'none'))
    with pytest.raises(IsADirectoryError):
      call(str(tmp_path))


def test_a_name_that_is_a_pattern_names_itself_only(tmp_path):
  for name in ('[a].png', 'a.png', '.hidden.png'):
    (tmp_path / name).write_bytes(b'x')
  assert [file.uri for file in files.match(f'{tmp_path}/[a].png')] == [f'{tmp_path}/[a].png']
  assert [file.uri for file in files.match(f'{tmp_path}/*.png')] == [
    f'{tmp_path}/[a].png',
    f'{tmp_path}/a.png',
  ]
  (tmp_path / 'broken.png').symlink_to(tmp_path / 'none')
  assert files.File(f'{tmp_path}/broken.png', 0) in files.match(f'{tmp_path}/*.png')


def test_a_local_folder_is_published_in_place_of_another_and_copied_beside(tmp_path):
  for name in ('old', 'new'):
    (tmp_path / name / 'sub').mkdir(parents=True)
    for file in (f'{name}.txt', 'sub/b.txt', 'mark'):
      (tmp_path / name / file).write_text(name)
  target = str(tmp_path / 'target')
  for name in ('old', 'new'):
    files.publish(str(tmp_path / name), target, last='mark')
  assert [file.uri.removeprefix(target) for file in files.list_files(target)] == [
    '/mark',
    '/new.txt',
    '/sub/b.txt',
  ]
  files.copy(str(tmp_path / 'old'), target, last='mark')
  assert files.read(f'{target}/new.txt') == b'new'
  assert files.read(f'{target}/old.txt') == files.read(f'{target}/mark') == b'old'
  with files.local_copy(target) as copied:
    assert copied == target
  files.remove_folder(target)
  files.remove_folder(target)
  assert not files.exists(target)


def test_errors_about_the_users_files_are_usage_errors_and_outages_are_not():
  with (
    pytest.raises(app.UsageError, match=r'--model: no such file$'),
    files.as_usage_error('--model'),
  ):
    raise OSError('no such file\nat all')
  with pytest.raises(files.Unavailable), files.as_usage_error('--model'):
    raise files.Unavailable('try again later')
  for code in (errno.ENOSPC, errno.EIO):
    with pytest.raises(files.Unavailable, match=r'^--model: '), files.as_usage_error('--model'):
      raise OSError(code, os.strerror(code))
  assert not issubclass(files.Unavailable, OSError)


@pytest.mark.parametrize('do', [files.read, files.exists, files.open_bytes, files.match])
def test_another_scheme_is_refused(do):
  with pytest.raises(OSError, match=r's3://bucket/x: files are local or gs://'):
    do('s3://bucket/x')
