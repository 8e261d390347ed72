"""The workdir's own files: its config, its lock, and whole-file writes.

Of several processes, the first one writes; the others read what it has written.
"""

import contextlib
import errno
import fcntl
import importlib.util
import json
import logging
import os
import pathlib
import uuid

from etils import epath

from jaxprompt import errors
from jaxprompt.devices import processes

log = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def resolve(path):
  """Returns the epath of a workdir; Orbax takes absolute ones only.

  Raises:
    UserError: for an address that cannot be used.
  """
  scheme, separator, _ = os.fspath(path).partition('://')
  if not separator:
    return epath.Path(os.path.abspath(os.path.expanduser(path)))
  if scheme != 'gs':
    raise errors.UserError(
      f'{str(path)!r} is of no known kind; expected gs://BUCKET/...'
    )
  if not importlib.util.find_spec('gcsfs'):
    raise errors.UserError(f"{str(path)!r} needs gcsfs: pip install 'jaxprompt[gcs]'")
  return epath.Path(path)


def local(path, what):
  """Returns the pathlib path of an --output that is to be a local file or directory.

  Raises:
    UserError: if it cannot be one; `what` says which of the two was expected.
  """
  if '://' in path:
    raise errors.UserError(
      f'--output {path!r} is no local {what}; write one, and copy it there'
    )
  found = pathlib.Path(os.path.expanduser(path))
  if found.name in ('', '..'):  # as of '.'
    found = pathlib.Path(os.path.abspath(found))
  if not path or not found.name:
    raise errors.UserError(f'--output is {path!r}; expected the path of a {what}')
  return found


def _is_remote(path):
  return '://' in os.fspath(path)


def open_workdir(path):
  """Makes the directory if it is missing and returns its epath.

  Raises:
    UserError: if it cannot be written.
  """
  workdir = resolve(path)
  if not processes.is_first():
    return workdir
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f'.probe-{os.getpid()}'
    probe.write_text('')
    probe.unlink()
  except OSError as e:
    raise errors.UserError(
      f'--workdir {str(path)!r} cannot be written ({e.strerror or e}); expected a '
      'directory of yours'
    ) from e
  except Exception as e:  # an object store's own
    if not _is_remote(workdir):
      raise
    raise errors.UserError(
      f'--workdir {str(path)!r} cannot be written ({e}); expected a bucket of yours, '
      'and a login: gcloud auth application-default login'
    ) from e
  return workdir


def check_shared(workdir):
  """Checks that the first process's workdir is that of all.

  Raises:
    UserError: if this process does not see what the first one has written there.
  """
  if processes.count() == 1:
    return
  name = f'.probe-{uuid.uuid4().hex}'
  if processes.is_first():
    (workdir / name).write_text('')
  # There before anyone asks: a network disk may remember for long what was not.
  probe = workdir / processes.gather(name)[0]
  try:
    with processes.together():
      if not probe.exists():
        raise errors.UserError(
          f'--workdir {str(workdir)!r} is not where process 0 writes to; expected a '
          'directory that all hosts share, such as a network disk or gs://'
        )
  finally:
    if processes.is_first():
      probe.unlink()


@contextlib.contextmanager
def lock(workdir):
  """Holds the workdir for this process; the system lets go when the process ends.

  Raises:
    UserError: if a live process holds it, or it cannot be written.
  """
  if _is_remote(workdir) or not processes.is_first():  # object stores have no locks
    yield
    return
  path = os.fspath(workdir / '.lock')
  with contextlib.ExitStack() as stack:
    with errors.writing(path):
      f = stack.enter_context(open(path, 'ab+', buffering=0))
      if not take(f):
        f.seek(0)
        holder = f.read().decode(errors='replace').strip() or '?'
        raise errors.UserError(
          f'--workdir {str(workdir)!r} is in use by process {holder}; wait until it '
          'ends, stop it, or choose another directory'
        )
      f.truncate(0)
      f.write(str(os.getpid()).encode())
    yield


def take(f):
  """Locks an open file; returns False if another process has it locked.

  Without a lock goes on, where the file system has none.
  """
  try:
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as e:
    if e.errno not in _NO_LOCKS:
      raise
    log.warning(
      '%s is on a file system without locks (%s): see that no other command uses it',
      f.name,
      e.strerror,
    )
  return True


def write(path, text):
  """Writes a whole file or none of it.

  Raises:
    UserError: if it cannot be written.
  """
  if not processes.is_first():
    return
  temporary = path.parent / f'.{path.name}.partial'
  with errors.writing(path):
    if _is_remote(path):  # object stores have no half-written files
      path.write_text(text)
      return
    try:
      temporary.write_text(text)
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)


def _dumps(value, indent=None):
  return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path, value):
  write(path, _dumps(value, indent=2) + '\n')


def write_jsonl(path, values):
  """Writes a file of lines; its directory is made if it is missing."""
  if processes.is_first():
    with errors.writing(path.parent):
      path.parent.mkdir(parents=True, exist_ok=True)
  write(path, ''.join(_dumps(value) + '\n' for value in values))


def read_json(path):
  """Returns the content of a JSON file, or None if there is no such file.

  Raises:
    UserError: if it is there and not JSON.
  """
  with errors.reading(path, 'restore it, or choose another --workdir'):
    return json.loads(path.read_text()) if path.exists() else None


def read_jsonl(path):
  """Returns the objects of a JSONL file, none if there is no such file.

  A line without its end is being written, or was when the process ended.

  Raises:
    UserError: names the line that is not JSON.
  """
  with errors.reading(path, 'restore it'):
    if not path.exists():
      return []
    # Not splitlines, which also splits at characters that JSON strings may hold.
    lines = path.read_text().split('\n')[:-1]
  values = []
  for i, line in enumerate(lines, 1):
    with errors.reading(f'{path} line {i}', 'restore it'):
      values.append(json.loads(line))
  return values


def flatten(config, prefix=''):
  """Returns a nested dict as {'a.b': value}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat
