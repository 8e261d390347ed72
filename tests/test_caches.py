"""Caches: below the user's home, and no larger than they may be."""

import os
import pwd

import jax
import pytest

from jaxprompt import caches
from jaxprompt import startup


def _write(file, size, read, written):
  file.write_bytes(bytes(size))
  os.utime(file, (read, written))
  return file


def test_what_was_read_or_written_last_stays_and_other_files_do(tmp_path):
  read = _write(tmp_path / 'a-cache', 10, read=30, written=1)
  written = _write(tmp_path / 'b-cache', 9, read=0, written=20)
  old = _write(tmp_path / 'c-cache', 8, read=10, written=10)
  other = _write(tmp_path / 'other', 50, read=0, written=0)
  caches.make_room(tmp_path, '-cache', 27)
  assert all(file.exists() for file in (read, written, old, other))
  caches.make_room(tmp_path, '-cache', 26)
  assert read.exists() and written.exists() and other.exists() and not old.exists()


@pytest.fixture
def no_folder_of_programs():
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


def test_a_command_begins_with_no_more_programs_than_may_be_kept(
  tmp_path, monkeypatch, no_folder_of_programs
):
  monkeypatch.setattr(caches, 'ROOT', tmp_path)
  monkeypatch.setattr(startup, '_MOST_BYTES', 15)
  (tmp_path / 'xla').mkdir()
  old = _write(tmp_path / 'xla' / 'jit_old-cache', 10, read=1, written=1)
  new = _write(tmp_path / 'xla' / 'jit_new-cache', 10, read=2, written=2)
  startup.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'xla')
  assert new.exists() and not old.exists()


@pytest.mark.parametrize('home', [None, '/proc/none'])
def test_without_a_home_compiled_programs_are_not_kept(
  monkeypatch, no_folder_of_programs, home
):
  monkeypatch.delenv('HOME')
  if home:
    monkeypatch.setenv('HOME', home)
  else:
    monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)  # a user that has no entry
  startup.keep_compiled_programs()
  assert jax.config.jax_compilation_cache_dir is None
