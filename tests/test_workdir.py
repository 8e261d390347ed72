"""The workdir's lock: held, refused, or missing where a file system has none."""

import errno
import os

import pytest

from jaxprompt import errors
from jaxprompt.runs import workdir as workdir_lib


@pytest.fixture
def workdir(tmp_path):
  return workdir_lib.open_workdir(tmp_path)


def _fail(number):
  def fail(*_):
    raise OSError(number, os.strerror(number))

  return fail


@pytest.mark.parametrize('number', sorted(workdir_lib._NO_LOCKS))
def test_a_file_system_without_locks_is_used_with_a_warning(
  workdir, monkeypatch, caplog, number
):
  monkeypatch.setattr(workdir_lib.fcntl, 'flock', _fail(number))
  monkeypatch.setattr(workdir_lib.log, 'handlers', [caplog.handler])
  monkeypatch.setattr(workdir_lib.log, 'propagate', False)
  with workdir_lib.lock(workdir):
    pass
  (record,) = caplog.records
  assert 'is on a file system without locks' in record.getMessage()


def test_a_lock_that_cannot_be_had_is_one_line(workdir, monkeypatch):
  monkeypatch.setattr(workdir_lib.fcntl, 'flock', _fail(errno.EIO))
  with (
    pytest.raises(errors.UserError, match=r'\.lock cannot be written \(Input/output'),
    workdir_lib.lock(workdir),
  ):
    pass


def test_no_room_for_the_lock_is_one_line(workdir):
  os.symlink('/dev/full', workdir / '.lock')
  with (
    pytest.raises(errors.UserError, match=r'\.lock cannot be written \(') as e,
    workdir_lib.lock(workdir),
  ):
    pass
  assert '\n' not in str(e.value)


def test_what_fails_while_the_lock_is_held_is_not_the_locks(workdir):
  with pytest.raises(OSError, match='Input/output'), workdir_lib.lock(workdir):
    _fail(errno.EIO)()
