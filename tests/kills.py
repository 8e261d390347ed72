"""Processes that get a signal, at random moments or at chosen ones."""

import errno
import functools
import multiprocessing
import os
import pathlib
import random
import re
import signal
import sys
import time

import jaxprompt.modes
from jaxprompt import main
from jaxprompt.devices import processes
from jaxprompt.prompts import exported
from jaxprompt.prompts import peft

SECONDS = 120  # until a process must have begun, or ended
# Each is forked from one that has imported the package and not used JAX: that takes
# seconds, and a kill then a fraction of one.
_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload(['jaxprompt.modes'])


def python(script, *args):
  """Returns the command that runs a script with the tests' modules."""
  path = repr(str(pathlib.Path(__file__).parent))
  return [
    sys.executable,
    '-c',
    f'import sys; sys.path.insert(0, {path})\n{script}',
    *map(str, args),
  ]


def stop_at_path(cause, pattern, argv, log):
  """Runs the command in a process of its own, which is stopped, once, at a path.

  Args:
    cause: the name of a signal that it sends itself, or of an error: ENOSPC.
    pattern: of the first path that is to be made, opened or taken by a new name.
    argv: of the command.
    log: a path for what it says.

  Returns:
    (the process's status, None if it hangs; what it has said).
  """
  process = _FORKS.Process(target=_saying, args=(log, at_path, cause, pattern, argv))
  process.start()
  process.join(SECONDS)
  status = process.exitcode
  process.kill()  # one that hangs
  return status, log.read_text()


def _saying(log, function, *args):
  with log.open('wb', buffering=0) as f:
    os.dup2(f.fileno(), sys.stderr.fileno())
  function(*args)


def stopped_at_path(cause, pattern, argv):
  """Returns the command of such a process; see `stop_at_path`."""
  return python(f'import kills; kills.at_path({cause!r}, {pattern!r}, {argv!r})')


def at_path(cause, pattern, argv):
  """Runs the command in this process; see `stop_at_path`."""
  waiting = [True]

  def hook(event, args):
    if event not in ('open', 'os.mkdir', 'os.rename') or not waiting:
      return
    if any(re.search(pattern, str(path)) for path in args[:2]):
      waiting.clear()
      if hasattr(errno, cause):
        number = getattr(errno, cause)
        raise OSError(number, os.strerror(number))
      os.kill(os.getpid(), signal.Signals[cause])

  sys.addaudithook(hook)
  sys.exit(main.main(argv))


def signalled_at_step(sent, step, argv):
  """Returns the command whose process sends itself a signal before a step of training.

  The steps after it take longer: JAX looks for a signal to several once a second.
  """
  return python(f'import kills; kills.at_step({sent!r}, {step}, {argv!r})')


def at_step(sent, step, argv):
  """Runs the command; see `signalled_at_step`."""
  reached = processes.reached_sync_point

  def check(count):
    if count == step:
      os.kill(os.getpid(), signal.Signals[sent])
    if count >= step:
      time.sleep(0.5)
    return reached(count)

  processes.reached_sync_point = check
  sys.exit(main.main(argv))


def kill_at_random(function, args, check, *, times, seconds, seed=0):
  """Calls a function in processes of its own, and kills them.

  Args:
    function: takes another, which it calls when what is to be interrupted begins, and
      the `args`; of a module that a new process can import.
    args: of the function.
    check: called after every process with whether it has ended by itself.
    times: how many to kill.
    seconds: each is killed at most so long after it has begun.
    seed: of the moments.
  """
  moments = random.Random(seed)
  killed = 0
  while killed < times:
    has_ended = _kill(function, args, moments.uniform(0, seconds))
    killed += not has_ended
    check(has_ended)


def lasting(function, args):
  """Returns for how many seconds a process goes on after it has begun; see above."""
  process = _begun(function, args)
  began = time.monotonic()
  process.join(SECONDS)
  assert process.exitcode == 0
  return time.monotonic() - began


def _kill(function, args, seconds):
  """Kills one process so long after it has begun; says whether it ended before."""
  process = _begun(function, args)
  process.join(seconds)
  process.kill()
  process.join(SECONDS)
  assert process.exitcode in (0, -9)
  return process.exitcode == 0


def _begun(function, args):
  """Starts a process; returns it once what is to be interrupted has begun."""
  receiver, sender = _FORKS.Pipe(duplex=False)
  process = _FORKS.Process(target=_run, args=(function, sender, args))
  process.start()
  sender.close()
  assert receiver.poll(SECONDS)
  try:
    receiver.recv()
  except EOFError:  # all was done before
    process.join(SECONDS)
  return process


def _run(function, sender, args):
  function(lambda: sender.send(True), *args)


def command(ready, name, argv):
  """Runs the command, of which a function is what is to be interrupted.

  Args:
    ready: see `kill_at_random`.
    name: of the function: 'folder.module.function', or of a method likewise.
    argv: of the command, which must end well.
  """
  *holders, name = name.split('.')
  holder = functools.reduce(getattr, holders, jaxprompt)
  function = getattr(holder, name)

  def begin(*args, **options):
    setattr(holder, name, function)  # the first call alone begins
    ready()
    return function(*args, **options)

  setattr(holder, name, begin)
  assert main.main(argv) == 0


def export(ready, directory):
  """Replaces an adapter, again and again, by one of other bytes."""
  ready()
  for i in range(10_000):
    exported.write(pathlib.Path(directory), adapter(i))


def adapter(i):
  """Returns the files of an adapter to write, those of the next one differ."""
  names = (peft.WEIGHTS, peft.CONFIG, 'README.md')
  return dict.fromkeys(names, bytes([i % 256]) * 1_000_000)
