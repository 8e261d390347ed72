"""Checkpoints with Orbax: the train state and the run's place, never frozen weights.

Layout: `checkpoints/STEP/state` (a `steps.TrainState`, restorable by Orbax alone) and
`checkpoints/STEP/progress` (JSON).
"""

import hashlib
import logging

import jax
import numpy as np
import orbax.checkpoint as ocp

log = logging.getLogger(__name__)


class Checkpoints:
  """The checkpoints of one run; saves go on in the background while it trains."""

  def __init__(self, directory, *, keep):
    """Opens `directory`, an epath, which need not exist.

    Args:
      directory: where the checkpoints live.
      keep: how many of the newest to keep.
    """
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
      item_names=('state', 'progress'),
    )

  def save(self, step, state, progress):
    """Saves a tree of arrays and a JSON dict; returns before they are on disk.

    A checkpoint of the same step is replaced.
    """
    if step in self._manager.all_steps():
      self._manager.wait_until_finished()
      self._manager.delete(step)
    # Host arrays, of no layout: any other number of devices may go on from them. A
    # copy, since the train step donates its state.
    state = jax.tree.map(np.array, state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        progress=ocp.args.JsonSave({**progress, 'digest': _digest(state)}),
      ),
    )

  def restore(self, state):
    """Reads the newest checkpoint that is whole; damaged ones are logged and removed.

    Args:
      state: a tree of host arrays with the structure, shapes and dtypes to expect.

    Returns:
      (state, progress), or None if there is none.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      found = _read(self._manager, step, state)
      if found:
        return found
      # It would stand in the way of the run's own save of that step.
      self._manager.delete(step)
    return None

  def close(self):
    """Waits until all that was saved is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()


def read_best(directory):
  """Returns (best prompt [P, H], progress) of the newest whole checkpoint, or None.

  Args:
    directory: the checkpoints of a run, an epath; it is only read.
  """
  found = _newest(directory)
  return found and (found[0]['best_prompt'], found[1])


def read_initial(directory):
  """Returns the prompt [P, H] that a run began with, or None; see `read_best`."""
  found = _newest(directory)
  return found and found[0]['initial_prompt']


def _newest(directory):
  """Returns (state, progress) of the newest whole checkpoint with a finished epoch."""
  if not directory.exists():
    return None
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(
    directory, options=options, item_names=('state', 'progress')
  ) as manager:
    for step in sorted(manager.all_steps(), reverse=True):
      found = _read(manager, step)
      if found and found[1]['epochs']:
        return found
  return None


def _read(manager, step, abstract=None):
  """Returns (state, progress) of one checkpoint, or None and a log line."""
  try:
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
      ),
    )
    progress = dict(restored.progress)
    if progress.pop('digest') != _digest(restored.state):
      raise ValueError('its arrays are not those that were saved')
    return restored.state, progress
  except Exception as e:  # whatever a damaged file makes Orbax or JSON raise
    reason = str(e).strip().splitlines() or [type(e).__name__]
    log.warning('checkpoint %d is damaged (%s); using the one before', step, reason[0])
    return None


def _digest(state):
  """Returns a hash of the arrays: Orbax notices torn files, not changed bytes.

  It does not depend on their order, which differs between a dataclass and the dict
  that Orbax makes of it without a target.
  """
  leaves = jax.tree.leaves(jax.device_get(state))
  hashes = sorted(hashlib.sha256(leaf.tobytes()).hexdigest() for leaf in leaves)
  return hashlib.sha256(''.join(hashes).encode()).hexdigest()
