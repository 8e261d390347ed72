"""The workdir's own files: its config, its lock, and whole-file writes.

Of several processes, the first one writes; the others read what it has written.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import uuid

from etils import epath

from jaxprompt import errors
from jaxprompt import processes


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
    UserError: if a live process holds it.
  """
  if _is_remote(workdir) or not processes.is_first():  # object stores have no locks
    yield
    return
  with open(os.fspath(workdir / '.lock'), 'a+') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      f.seek(0)
      raise errors.UserError(
        f'--workdir {str(workdir)!r} is in use by process {f.read().strip() or "?"}; '
        'wait until it ends, stop it, or choose another directory'
      ) from e
    f.truncate(0)
    f.write(str(os.getpid()))
    f.flush()
    yield


def write(path, text):
  """Writes a whole file or none of it.

  Raises:
    UserError: if it cannot be written.
  """
  if not processes.is_first():
    return
  temporary = path.parent / f'.{path.name}.{os.getpid()}'
  try:
    if _is_remote(path):  # object stores have no half-written files
      path.write_text(text)
    else:
      temporary.write_text(text)
      temporary.replace(path)
  except OSError as e:
    raise errors.UserError(
      f'{path} cannot be written ({e.strerror or e}); make room or choose another place'
    ) from e


def write_json(path, value):
  write(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def write_jsonl(path, values):
  if processes.is_first():
    path.parent.mkdir(parents=True, exist_ok=True)
  write(path, ''.join(json.dumps(value, ensure_ascii=False) + '\n' for value in values))


def read_json(path):
  """Returns the content of a JSON file, or None if there is no such file.

  Raises:
    UserError: if it is there and not JSON.
  """
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as e:
    raise errors.UserError(
      f'{path} is not JSON ({e}); restore it, or choose another --workdir'
    ) from e


def read_jsonl(path):
  """Returns the objects of a JSONL file, none if there is no such file.

  A line without its end is being written, or was when the process ended.

  Raises:
    UserError: names the line that is not JSON.
  """
  if not path.exists():
    return []
  # Not splitlines, which also splits at characters that JSON strings may hold.
  lines = path.read_text().split('\n')[:-1]
  values = []
  for i, line in enumerate(lines, 1):
    try:
      values.append(json.loads(line))
    except ValueError as e:
      raise errors.UserError(f'{path} line {i} is not JSON ({e}); restore it') from e
  return values


def read_config(workdir):
  """Returns the content of the workdir's config.json.

  Raises:
    UserError: if there is none.
  """
  stored = read_json(workdir / 'config.json')
  if stored is None:
    raise errors.UserError(
      f'{str(workdir)!r} has no config.json; expected the --workdir of a run'
    )
  return stored


def check_config(workdir, config, free=frozenset()):
  """Checks that the workdir is new or of the same config.

  Args:
    workdir: an epath.
    config: the resolved config, a nested dict.
    free: names of sections, or of fields, that may differ.

  Raises:
    UserError: names the fields that differ.
  """
  stored = read_json(workdir / 'config.json')
  if stored is None:
    return
  before, now = flatten(stored['config']), flatten(config)
  differing = [
    f'{name} is {now.get(name)!r}, was {before.get(name)!r}'
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name)
    and free.isdisjoint((name, name.partition('.')[0]))
  ]
  if differing:
    raise errors.UserError(
      f'--workdir {str(workdir)!r} belongs to a different config: '
      f'{"; ".join(differing)}; use the same config, or another directory'
    )


def flatten(config, prefix=''):
  """Returns a nested dict as {'a.b': value}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat
