"""Contexts of a run's batches: the sources before a suffix prompt, run once and kept.

What stands before the prompt does not depend on it, so its keys and values are the
same in every epoch. They are computed forward only, and kept in the host's memory as
far as it goes; the batches beyond are computed again each time, by the same program:
a run that is stopped and goes on gets the same numbers, kept or not.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import psutil

from jaxprompt.lm import loading
from jaxprompt.prompts import model

_SHARE_OF_FREE_MEMORY = 1 / 3
# Control groups by their controller, '' in version 2: where they are, limit and use,
# and what of the use, in memory.stat, is of files, which give way.
_GROUPS = {
  '': ('sys/fs/cgroup', 'memory.max', 'memory.current', 'inactive_file'),
  'memory': (
    'sys/fs/cgroup/memory',
    'memory.limit_in_bytes',
    'memory.usage_in_bytes',
    'total_inactive_file',
  ),
}


def capacity(gigabytes):
  """Returns a budget in bytes; -1 stands for a third of the memory that is free."""
  if gigabytes == -1:
    free = min(psutil.virtual_memory().available, free_of_limits('/'))
    return int(_SHARE_OF_FREE_MEMORY * free)
  return int(gigabytes * 1e9)


def free_of_limits(root):
  """Returns the bytes that limits leave this process, as containers and Slurm set them.

  Args:
    root: of the file system.

  Returns:
    At least 0; infinity where nothing is limited.
  """
  free, root = math.inf, pathlib.Path(root)
  try:
    lines = (root / 'proc/self/cgroup').read_text().splitlines()
  except OSError:  # another system than Linux
    return free
  for line in lines:
    _, controllers, own = line.split(':', 2)
    for controller in _GROUPS.keys() & set(controllers.split(',')):
      folder, *names, kept = _GROUPS[controller]
      own = pathlib.PurePosixPath(own.strip('/'))
      # The groups that hold it have limits too; a container sees its own as the root.
      for group in (own, *own.parents):
        try:
          limit, used = (int((root / folder / group / x).read_text()) for x in names)
        except (OSError, ValueError):  # no such file; the word max
          continue
        files = _stat(root / folder / group / 'memory.stat', kept)
        free = min(free, max(limit - used + files, 0))
  return free


def _stat(file, key):
  """Returns a number of a memory.stat; 0 where there is none."""
  try:
    return int(dict(line.split() for line in file.read_text().splitlines())[key])
  except (OSError, ValueError, KeyError):
    return 0


def compute(lm, dtype, params, rows):
  """Runs the sources of a batch.

  Args:
    lm: `lm.model.LanguageModel`.
    dtype: a key of `loading.DTYPES`, of the keys and values that are kept; the model's
      own where that is narrower.
    params: the frozen weights.
    rows: source ids and mask, each [B, S].

  Returns:
    `placement.Context`.
  """
  context = model.source_context(lm, params, *rows)
  kept = min(loading.DTYPES[dtype], lm.dtype, key=lambda x: jnp.dtype(x).itemsize)
  keys_values = jax.tree.map(lambda x: x.astype(kept), context.keys_values)
  return context._replace(keys_values=keys_values)


def program(lm, layout, dtype):
  """Returns `compute` for all devices, a compiled (params, rows) -> context."""
  return layout.map_rows(functools.partial(compute, lm, dtype))


class Contexts:
  """The contexts of batches whose rows stay together from epoch to epoch."""

  def __init__(self, lm, params, layout, *, dtype, capacity):
    """Begins with none.

    Args:
      lm: `lm.model.LanguageModel`.
      params: the frozen weights, placed.
      layout: `devices.Layout`.
      dtype: a key of `loading.DTYPES`, of what is kept.
      capacity: bytes of host memory to use.
    """
    self._params, self._layout = params, layout
    self._compute = program(lm, layout, dtype)
    self._capacity = capacity
    self._kept = {}
    self.kept_bytes = 0

  def __len__(self):
    """The number of batches whose contexts are kept."""
    return len(self._kept)

  def get(self, key, source_ids, source_mask):
    """Returns the context of a batch, on the devices.

    Args:
      key: names the batch; its rows are the same whenever it comes.
      source_ids, source_mask: this process's rows, [B, S].
    """
    if key in self._kept:
      return self._layout.place_rows(self._kept[key])
    rows = self._layout.place_rows((source_ids, source_mask))
    context = self._compute(self._params, rows)
    if self.kept_bytes < self._capacity:
      kept = self._layout.fetch_rows(context)
      size = sum(x.nbytes for x in jax.tree.leaves(kept))
      if self.kept_bytes + size <= self._capacity:
        self._kept[key] = kept
        self.kept_bytes += size
    return context
