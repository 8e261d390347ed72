"""Processes that are killed at random moments, to see what they leave."""

import pathlib
import random
import subprocess
import sys
import time


def python(script, *args):
  """Returns the command that runs a script with the tests' modules."""
  path = repr(str(pathlib.Path(__file__).parent))
  return [
    sys.executable,
    '-c',
    f'import sys; sys.path.insert(0, {path})\n{script}',
    *map(str, args),
  ]


def kill_at_random(command, check, *, times, seconds=0.5, seed=0):
  """Starts a command and kills it, again and again.

  Args:
    command: prints a line when it begins what is to be interrupted.
    check: called after every kill.
    times: how often.
    seconds: it is killed at most so long after its line.
    seed: of the moments.
  """
  moments = random.Random(seed)
  for _ in range(times):
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
      process.stdout.readline()
      time.sleep(moments.uniform(0, seconds))
      process.kill()
    check()
