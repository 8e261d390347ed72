"""The file that predictions go to: begun, gone on with, or refused; never torn.

Lines go to PATH.partial, which becomes PATH when all are there. Beside it, a record
says what the lines were made of: a later command goes on with its own lines alone.
"""

import contextlib
import json
import logging
import os
import pathlib
import sys

from jaxprompt import errors
from jaxprompt.data import sources
from jaxprompt.devices import processes
from jaxprompt.runs import workdir as workdir_lib

log = logging.getLogger(__name__)


def open_output(path, input_path, made_of, *, overwrite):
  """Returns a context that predictions are written to.

  Args:
    path: a file to make; or '-' for standard output, or a device or FIFO, which are
      written straight through.
    input_path: the file that the rows come from, or '-'.
    made_of: what decides the lines: a nested dict of JSON. Without a value for 'input',
      which is so for standard input, no line can be gone on with.
    overwrite: replace a file of other predictions. What predict has not written is
      never replaced.

  Returns:
    `Shared`: of several processes, the first one has the file.

  Raises:
    UserError: if there is a file that is not to be changed.
  """
  own = None
  with processes.together():
    if processes.is_first():
      own = _open_output(path, input_path, made_of, overwrite)
  return Shared(own)


def _open_output(path, input_path, made_of, overwrite):
  if path == '-':
    return Stream(sys.stdout)
  file = workdir_lib.local(path, 'file')
  if file.exists() and not file.is_file() and not file.is_dir():
    return Stream(_open(file, 'w'))
  return File(file, input_path, made_of, overwrite)


def _open(file, mode):
  with _writing(file):
    return file.open(mode, encoding='utf-8')


def _writing(file):
  return errors.writing(
    f'--output {str(file)!r}',
    'expected a file in a directory of yours with room for it; run again to go on',
  )


def _dump(values):
  return ''.join(json.dumps(value, ensure_ascii=False) + '\n' for value in values)


class Shared:
  """The output of all processes, each of which has all lines: the first writes them."""

  def __init__(self, own):
    """Takes the `Stream` of process 0; None in the others."""
    self._own = own

  def __enter__(self):
    with processes.together():
      if self._own:
        self._own.__enter__()
    return self

  def __exit__(self, kind, *rest):
    if kind is None:
      processes.from_first(lambda: self._own.__exit__(kind, *rest))
    elif self._own:  # the others may have ended
      self._own.__exit__(kind, *rest)

  @property
  def is_finished(self):
    return processes.from_first(lambda: self._own.is_finished)

  @property
  def lines(self):
    return processes.from_first(lambda: self._own.lines)

  @property
  def failed(self):
    return processes.from_first(lambda: self._own.failed)

  def skip(self, rows):
    return processes.from_first(lambda: self._own.skip(rows))

  def write(self, values):
    processes.from_first(lambda: self._own.write(values))


class Stream:
  """Lines to standard output, a device or a FIFO; counts them and the errors."""

  def __init__(self, file):
    self._file = file
    self.is_finished = False
    self.lines = self.failed = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._file is not sys.stdout:
      self._file.close()

  def skip(self, rows):
    """Returns how many of the next rows have been written before."""
    del rows
    return 0

  def write(self, values):
    """Writes {"id", "prediction"} or {"id", "error"} objects, a line each."""
    self._file.write(_dump(values))
    self._file.flush()
    self.lines += len(values)
    self.failed += sum('error' in value for value in values)


class File(Stream):
  """Lines to a file of its own; `is_finished` if it holds all of them already."""

  def __init__(self, file, input_path, made_of, overwrite):
    super().__init__(None)
    self._path, self._partial = file, file.with_name(f'{file.name}.partial')
    self._made_of, self._overwrite = made_of, overwrite
    self._check_input(input_path)
    record = self._check(file, overwrite)
    self.is_finished = record is not None
    if self.is_finished:
      self.lines, self.failed = record['lines'], record['failed']
      return
    # What comes from standard input cannot be known to be the same rows.
    anew = overwrite or made_of['input'] is None
    self._goes_on = self._check(self._partial, anew) is not None

  def __enter__(self):
    with contextlib.ExitStack() as stack:
      self._file = stack.enter_context(_open(self._partial, 'a'))
      # What is locked may have become the output meanwhile.
      if not (workdir_lib.take(self._file) and self._partial.exists()):
        raise errors.UserError(
          f'--output {str(self._path)!r} is being written by another command; wait '
          'until it ends, or choose another file'
        )
      if not self._goes_on:  # before the record, which would make its lines ours
        self._file.truncate(0)
      workdir_lib.write_json(_record_of(self._partial), {'made_of': self._made_of})
      self._file.truncate(self._count())  # without what begins a line that was torn
      stack.pop_all()
    self._done = self.lines
    if self._done:
      log.info('going on with %s, rows there: %d', self._partial, self._done)
    return self

  def _count(self):
    """Counts the whole lines that are there; returns how many bytes they are."""
    whole = 0
    with (
      errors.reading(self._partial, 'remove it to begin anew'),
      self._partial.open('rb') as f,
    ):
      while (line := f.readline()).endswith(b'\n'):
        self.lines += 1
        self.failed += 'error' in json.loads(line)
        whole += len(line)
    return whole

  def __exit__(self, kind, *_):
    with _writing(self._path), contextlib.closing(self._file):
      if kind is None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._finish()

  def _finish(self):
    """Makes the partial file, which is still locked, the output."""
    self._check(self._path, self._overwrite)  # what came there meanwhile is not ours
    record = {'made_of': self._made_of, 'lines': self.lines, 'failed': self.failed}
    digest = sources.digest(self._partial)
    # The record first: a file without one would count as somebody else's.
    workdir_lib.write_json(_record_of(self._path), {**record, 'sha256': digest})
    self._partial.replace(self._path)
    _record_of(self._partial).unlink()

  def skip(self, rows):
    skipped = min(rows, self._done)
    self._done -= skipped
    return skipped

  def write(self, values):
    with _writing(self._path):
      super().write(values)

  def _check_input(self, input_path):
    source = pathlib.Path(os.path.expanduser(input_path))
    for file in (self._path, self._partial):
      if file.exists() and source.exists() and file.samefile(source):
        raise errors.UserError(
          f'--output {str(self._path)!r} would replace the rows of --input '
          f'{input_path!r}; choose another file'
        )

  def _check(self, file, overwrite):
    """Returns the record of a file that holds lines of the same; None for a new one.

    Raises:
      UserError: if it holds anything else, and is not to be overwritten or not ours.
    """
    if not file.exists() or (file == self._partial and _is_empty(file)):
      return None
    record = None if file.is_dir() else _read_record(file)
    if record is None:
      raise errors.UserError(
        f'{str(file)!r} is there and was not written by --mode=predict; choose another '
        '--output'
      )
    if file == self._path and record.get('sha256') != sources.digest(file):
      found = 'was changed since it was written'
    elif differing := _differing(record['made_of'], self._made_of):
      found = f'has predictions of other {", ".join(differing)}'
    else:
      return record
    if overwrite:
      return None
    raise errors.UserError(
      f'{str(file)!r} {found}; choose another --output, or replace it with --overwrite'
    )


def _is_empty(file):
  """Returns whether a file has been begun, and a kill came before its record."""
  return file.is_file() and not file.stat().st_size


def _record_of(file):
  """Returns the path of what says of a file what it was made of."""
  return file.with_name(f'.{file.name}.jaxprompt.json')


def _read_record(file):
  """Returns the record of a file; None if there is none, or it is not ours."""
  found = workdir_lib.read_json(_record_of(file))
  is_ours = isinstance(found, dict) and isinstance(found.get('made_of'), dict)
  return found if is_ours else None


def _differing(before, now):
  """Returns the names of what differs; standard input differs from any."""
  before, now = workdir_lib.flatten(before), workdir_lib.flatten(now)
  return [
    name
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name) or (name == 'input' and now[name] is None)
  ]
