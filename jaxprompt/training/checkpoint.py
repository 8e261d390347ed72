"""Checkpoints with Orbax: the train state and the run's place, never frozen weights.

Layout: `checkpoints/STEP/state` (a `steps.TrainState`, restorable by Orbax alone) and
`checkpoints/STEP/progress` (JSON).
"""

import contextlib
import hashlib
import itertools
import logging

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxprompt import errors
from jaxprompt.devices import processes

log = logging.getLogger(__name__)

_REPLACED = 'replaced-'  # before the step of one that is being saved anew
_NOTHING_CHANGED = 'nothing was changed: make it readable, or try again later'


class Checkpoints:
  """The checkpoints of one run, which process 0 saves in the background.

  The state is small and the same in all processes. With one writer, an error of the
  disk is an error like any other; Orbax's own barriers would wait for it for minutes.
  """

  def __init__(self, directory, *, keep):
    """Opens `directory`, an epath, which need not exist.

    Args:
      directory: where the checkpoints live.
      keep: how many of the newest to keep.

    Raises:
      UserError: if it cannot be read or made.
    """
    self._directory = directory
    self._manager = None
    self._replaces = False  # whether the last save did
    with processes.together():
      _holds_any(directory)
      if processes.is_first():
        with self._as_user_error():
          directory.mkdir(parents=True, exist_ok=True)
        with errors.reading(directory, _NOTHING_CHANGED):
          self._manager = _manager(directory, keep)
        with self._as_user_error():
          self._end_replacing()

  def save(self, step, state, progress):
    """Saves a tree of arrays and a JSON dict; returns before they are on disk.

    A checkpoint of the same step is replaced once this one is whole.

    Raises:
      UserError: if there is no room, or no permission; perhaps of the save before.
    """
    # Host arrays, of no layout: any other number of devices may go on from them. A
    # copy, since the train step donates its state.
    state = jax.tree.map(np.array, state)
    progress = {**progress, 'digest': _digest(state)}
    with self._writing() as manager:
      if manager is None:
        return
      if self._replaces:  # else `keep` would delete the new one before the old one
        self._finish()
      if step in manager.all_steps():
        self._finish()
        self._replaces = True
        (self._directory / str(step)).rename(self._directory / f'{_REPLACED}{step}')
        manager.reload()
      manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)
        ),
      )

  def restore(self, state, progress):
    """Reads the newest checkpoint that is whole; damaged ones are set aside.

    Of several processes, the first one says which steps there are, and which is whole.

    Args:
      state: a tree of host arrays with the structure, shapes and dtypes to expect.
      progress: a dict with the keys to expect.

    Returns:
      (state, progress), or None if there is none.

    Raises:
      UserError: if a checkpoint cannot be read now, or is of another structure.
    """
    self.wait()
    for step in self._steps():
      path = self._directory / str(step)
      with processes.together():
        found = _read(path)
      is_whole = processes.from_first(lambda found=found: found is not None)
      with processes.together():
        if is_whole and not found:
          raise errors.UserError(
            f'{path} is whole in process 0 and damaged here; give all hosts the same '
            'directory'
          )
        if is_whole:
          found = _fitted(found[0], state, path), found[1]
          if found[1].keys() != progress.keys():
            raise _other_structure(path, found[1].keys() ^ progress.keys())
        elif processes.is_first():
          _set_aside(path)
      if is_whole:
        return found
      if self._manager:
        self._manager.reload()
    return None

  def _steps(self):
    """Returns the steps that process 0 sees, the newest first."""
    return processes.from_first(lambda: sorted(self._manager.all_steps(), reverse=True))

  def wait(self):
    """Waits until all that was saved is on disk; raises as `save` does."""
    with self._writing() as manager:
      if manager:
        self._finish()

  def _finish(self):
    """Waits until process 0 has saved; what that replaces goes."""
    self._manager.wait_until_finished()
    self._end_replacing()
    self._replaces = False

  def _end_replacing(self):
    """Deletes checkpoints that were replaced; or takes them back, after a kill."""
    for step, old in _replaced(self._directory).items():
      new = self._directory / str(step)
      # On a bucket, a checkpoint is there before it is whole.
      if step in self._manager.all_steps() and _read(new):
        old.rmtree()
        continue
      if new.exists():
        new.rmtree()
      old.rename(new)
      self._manager.reload()

  def close(self):
    """Ends the background work of this process; the others need not come here."""
    if self._manager:
      with self._as_user_error(), contextlib.closing(self._manager):
        self._finish()

  @contextlib.contextmanager
  def _writing(self):
    """Gives Orbax's manager in process 0, else None; what it raises comes to all."""
    with processes.together(), self._as_user_error():
      yield self._manager

  @contextlib.contextmanager
  def _as_user_error(self):
    """Makes one line of what Orbax raises while it writes."""
    try:
      yield
    except Exception as e:
      raise errors.UserError(
        f'{self._directory} cannot be written: {_reason(e)}; make room and run again '
        'to go on'
      ) from e


def _replaced(directory):
  """Returns {step: path} of checkpoints that are, or were, to be replaced."""
  found = directory.glob(f'{_REPLACED}*')
  return {int(path.name.removeprefix(_REPLACED)): path for path in found}


class _Manager(ocp.CheckpointManager):
  """Orbax's, which asks nothing of SIGTERM: it would ask by the step.

  JAX counts what is asked, and `loop.Termination` has its own count.
  """

  def reached_preemption(self, step):
    del step
    return False


def _manager(directory, keep):
  """Returns Orbax's manager of a directory that is there, of this process alone."""
  return _Manager(
    directory,
    options=ocp.CheckpointManagerOptions(
      create=False,
      max_to_keep=keep,
      cleanup_tmp_directories=True,
      # Else a directory that cannot be made is waited for, for ten minutes.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
    ),
    item_names=('state', 'progress'),
  )


def read_best(directory):
  """Returns (best prompt, progress) of the newest whole checkpoint, or None.

  Args:
    directory: the checkpoints of a run, an epath; it is only read.

  Raises:
    UserError: if a checkpoint cannot be read now.
  """
  found = _newest(directory)
  return found and (found[0]['best_prompt'], found[1])


def read_initial(directory):
  """Returns the prompt that a run began with, or None; see `read_best`."""
  found = _newest(directory)
  return found and found[0]['initial_prompt']


def _newest(directory):
  """Returns (state, progress) of the newest whole checkpoint with a finished epoch."""
  if not _holds_any(directory):
    return None
  # What reading alone implies; Orbax warns of the fields that it sets itself.
  options = ocp.CheckpointManagerOptions(
    read_only=True, create=False, save_interval_steps=0
  )
  with (
    errors.reading(directory, _NOTHING_CHANGED),
    ocp.CheckpointManager(directory, options=options) as manager,
  ):
    saved = [(step, directory / str(step)) for step in manager.all_steps()]
    found = [*saved, *_replaced(directory).items()]  # of equal steps, the new one first
  for _, path in sorted(found, key=lambda each: each[0], reverse=True):
    found = _read(path)
    if found:
      for name in ('best_prompt', 'initial_prompt'):
        if not isinstance(found[0].get(name), dict):
          raise _other_structure(path, [name])
    if found and found[1].get('epochs'):
      return found
  return None


def _holds_any(directory):
  """Returns whether a directory is there and holds anything.

  Raises:
    UserError: if that cannot be said now: to Orbax, what is unreadable is not there.
  """
  with errors.reading(directory, _NOTHING_CHANGED):
    try:
      paths = list(directory.iterdir())
    except FileNotFoundError:
      return False
    for path in paths:
      with contextlib.suppress(FileNotFoundError):  # removed by the run itself
        path.stat()
  return bool(paths)


def _read(path):
  """Returns one checkpoint as nested dicts of arrays, or None if it is damaged.

  Damage is what is proven: all bytes can be read, and are not those that were saved.

  Returns:
    (state, progress).

  Raises:
    UserError: if the bytes cannot be read now, or it keeps no digest.
  """
  _read_bytes(path)
  try:
    state, progress = _restored(path)
  except FileNotFoundError as e:
    reason = _reason(e)
  except OSError as e:
    raise errors.UserError(
      f'{path} cannot be read: {_reason(e)}; {_NOTHING_CHANGED}'
    ) from e
  except Exception as e:  # whatever torn files make Orbax or JSON raise
    reason = _reason(e)
  else:
    if 'digest' not in progress:
      raise _other_structure(path, ['digest'])
    if progress.pop('digest') == _digest(state):
      return state, progress
    reason = 'its arrays are not those that were saved'
  log.warning('checkpoint %s is damaged (%s); using the one before', path.name, reason)
  return None


def _restored(path):
  """Returns (state, progress) of a checkpoint as Orbax has them.

  By the handlers, not by the manager: that waits for the other processes, of which one
  may have found damage.
  """
  try:
    state = ocp.StandardCheckpointHandler().restore(
      path / 'state', args=ocp.args.StandardRestore()
    )
    progress = ocp.JsonCheckpointHandler().restore(
      path / 'progress', args=ocp.args.JsonRestore()
    )
    return state, dict(progress)
  except ValueError as e:
    if 'OS error' in str(e):  # of a file, as TensorStore tells it
      raise OSError(_reason(e)) from e
    raise


def _read_bytes(path):
  """Reads every file below a directory; raises `UserError` if one cannot be read."""
  with errors.reading(path, _NOTHING_CHANGED):
    if path.is_dir():
      below = list(path.iterdir())
    else:
      path.read_bytes()
      below = []
  for each in below:
    _read_bytes(each)


def _set_aside(path):
  """Renames a damaged checkpoint, which would stand in the way of the run's own."""
  names = (path.parent / f'damaged-{path.name}-{i}' for i in itertools.count(1))
  with errors.reading(path, 'make its directory writable'):
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
  log.warning('%s was set aside as %s', path, kept.name)


def _fitted(state, expected, path):
  """Returns nested dicts of arrays as a tree like `expected`.

  Raises:
    UserError: if names, shapes or dtypes are not those expected.
  """

  def by_name(tree):
    return {
      jax.tree_util.keystr(keys, simple=True, separator='/'): np.asarray(leaf)
      for keys, leaf in jax.tree.leaves_with_path(tree)
    }

  found, wanted = by_name(state), by_name(expected)
  forms = [{n: (x.shape, x.dtype) for n, x in each.items()} for each in (found, wanted)]
  differing = {name for name, _ in forms[0].items() ^ forms[1].items()}
  if differing:
    raise _other_structure(path, differing)
  structure = jax.tree.structure(expected)
  return jax.tree.unflatten(structure, [found[name] for name in wanted])


def _other_structure(path, names):
  return errors.UserError(
    f'{path} is of another structure ({", ".join(sorted(names)):.200}), that of '
    'another release; go on with that one, or start in another --workdir'
  )


def _digest(state):
  """Returns a hash of the arrays: Orbax notices torn files, not changed bytes.

  It does not depend on their order, which differs between a dataclass and the dict
  that Orbax makes of it.
  """
  leaves = jax.tree.leaves(jax.device_get(state))
  hashes = sorted(hashlib.sha256(leaf.tobytes()).hexdigest() for leaf in leaves)
  return hashlib.sha256(''.join(hashes).encode()).hexdigest()


def _reason(error):
  """Returns the first line of what an exception says."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
