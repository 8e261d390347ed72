"""What a command sets up in its process: what it says, and the programs it keeps."""

import functools
import logging
import sys
import warnings

import jax

from jaxprompt import caches
from jaxprompt.training import terminal

_MOST_BYTES = 10 * 10**9  # of the programs that are kept, when a command begins


@functools.cache
def set_up():
  """Does once in a process what all modes want of it."""
  _set_up_logging()
  keep_compiled_programs()


def _set_up_logging():
  handler = terminal.LogHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('jaxprompt')
  logger.handlers = [handler]
  logger.propagate = False  # libraries give the root logger a handler of their own
  logger.setLevel(logging.INFO)
  # What Orbax tells, with tracebacks, reaches a user as one line of ours.
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
  sys.unraisablehook = _report_unraisable


def _report_unraisable(unraisable):
  """Reports as Python does, but for what is left of a save that Orbax has given up."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def keep_compiled_programs():
  """Lets later processes reuse what this one compiles, the many small programs too.

  Without a home to keep them in, every process compiles its own.
  """
  if jax.config.jax_compilation_cache_dir:  # set by the user
    return
  folder = caches.folder('xla')
  if folder is not None:
    # JAX's own limit, jax_compilation_cache_max_size, reads the whole folder for every
    # program that it adds, under a lock that all processes wait for.
    caches.make_room(folder, '-cache', _MOST_BYTES)
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
