"""Processes of one run: how they find each other, agree, and end together.

All of it is JAX's own distributed runtime. Without `start` there is one process, and
nothing here touches a device.
"""

import contextlib
import json
import os
import sys
import threading
import traceback

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxprompt import errors

_SECONDS_TO_CONNECT = 300.0
_SECONDS_BETWEEN_HEARTBEATS = 60  # until a process counts as dead
_SECONDS_TO_LEAVE = 60  # for the last process, after the first has ended
_ADDRESS = 'JAX_COORDINATOR_ADDRESS'
_COUNT = 'JAX_NUM_PROCESSES'
_ID = 'JAX_PROCESS_ID'


def start(seconds=_SECONDS_TO_CONNECT):
  """Joins the processes of this run; to be called before any other use of JAX.

  On TPU pods, Slurm and Kubernetes JAX finds the others by itself. Elsewhere
  JAX_COORDINATOR_ADDRESS is host:port of process 0, at which it listens,
  JAX_NUM_PROCESSES how many there are, and JAX_PROCESS_ID which this one is.

  Args:
    seconds: to wait for the others. The process ends with status 2 after them.

  Raises:
    UserError: if there is no telling where the others are.
  """
  address, number, index = os.environ.get(_ADDRESS), _number(_COUNT), _number(_ID)
  if address and not address.rpartition(':')[2].isdecimal():
    raise errors.UserError(f'{_ADDRESS} is {address!r}; expected host:port')
  # What XLA's CPU client talks through; accelerators have their own.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # JAX's own end of the wait aborts the process with a stack trace: be there first.
  alarm = threading.Timer(seconds, _give_up_waiting, (address, seconds))
  alarm.daemon = True
  alarm.start()
  try:
    jax.distributed.initialize(
      address,
      number,
      index,
      initialization_timeout=round(seconds) + 30,
      heartbeat_timeout_seconds=_SECONDS_BETWEEN_HEARTBEATS,
      shutdown_timeout_seconds=_SECONDS_TO_LEAVE,
    )
  except (RuntimeError, ValueError) as e:
    reason = str(e).strip('.')
    raise errors.UserError(
      f'--distributed: {reason}; set {_ADDRESS} (host:port of process 0), {_COUNT} and '
      f'{_ID} where there is no TPU pod, Slurm or Kubernetes to ask'
    ) from e
  finally:
    alarm.cancel()


def _number(name):
  text = os.environ.get(name)
  if text is None:
    return None
  if not text.isdecimal():
    raise errors.UserError(f'{name} is {text!r}; expected a number')
  return int(text)


def _give_up_waiting(address, seconds):
  _end(
    f'the processes of this run did not meet at {address or "their coordinator"} '
    f'within {seconds:.0f} seconds; check that all are started, with the same '
    f'{_ADDRESS} and {_COUNT}, and that its port can be reached from every host',
    status=2,
  )


def _end(line, status):
  """Ends the process at once: its exit handlers would wait for the others."""
  print(f'jaxprompt: {line}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(status)


def count():
  return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first():
  """Returns whether this is the process that writes files and tells how it goes."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def gather(text):
  """Returns the texts that all processes call this with, in their order."""
  if count() == 1:
    return [text]
  own = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.asarray(len(own))).ravel()
  padded = np.pad(own, (0, sizes.max() - len(own)))
  rows = multihost_utils.process_allgather(padded)
  return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def together():
  """Makes the `UserError` of any process that of all: none waits for one that left.

  What it holds must not itself wait for the others, unless all get to that point.
  """
  own = ''
  try:
    yield
  except errors.UserError as e:
    own, error = str(e), e
  for i, line in enumerate(gather(own)):
    if line:
      raise error if own else errors.UserError(f'process {i} has found: {line}')


def from_first(make):
  """Returns in all processes what a function gives in process 0, as JSON has it.

  For what hosts may see differently, and what decides which programs they run: whether
  a file is there, how far a run has come. Its `UserError` is that of all.
  """
  if count() == 1:
    return make()
  with together():
    own = json.dumps(make() if is_first() else None)
  return json.loads(gather(own)[0])


def arrays_of_first(tree):
  """Returns in all processes the host arrays of process 0's tree; all are alike."""
  return tree if count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def least(number):
  """Returns the least of the integers that all processes call this with."""
  return min(int(text) for text in gather(str(number)))


def check_same(settings):
  """Checks that all processes were started for the same.

  Args:
    settings: {name: value}, the values as JSON has them.

  Raises:
    UserError: in all of them, naming what differs.
  """
  found = [json.loads(text) for text in gather(json.dumps(settings))]
  for i, theirs in enumerate(found):
    for name in sorted(theirs.keys() | found[0].keys()):
      if theirs.get(name) != found[0].get(name):
        raise errors.UserError(
          f'{name} is {theirs.get(name)!r} in process {i}, {found[0].get(name)!r} in '
          'process 0; start all processes with the same command, packages and files'
        )


def reached_sync_point(check):
  """Returns whether SIGTERM came to any process, and this is where all are to end.

  Args:
    check: how often this process has asked, the same in all at the same place.
  """
  return multihost_utils.reached_preemption_sync_point(check)


def give_up(error):
  """Ends this process, if it is one of several, after an error that is its own.

  The others do not know of the error, or have ended: whatever this process did with
  them, such as closing a checkpoint, would wait for them. Returns if it is alone, or if
  the error is a `UserError`, which comes to all.
  """
  if count() == 1 or isinstance(error, errors.UserError):
    return
  reason = str(error).strip().partition('\n')[0]
  lost = isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in reason
  if not lost:
    traceback.print_exception(error)
  _end(
    f'process {jax.process_index()} stopped: '
    + ('' if lost else 'by the error above, or because ')
    + f'another process has ended ({reason:.200}); start all again to go on',
    status=1,
  )
