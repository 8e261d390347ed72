"""Both ends of a benchmark's processes: they live side by side and take turns.

Imported in the peer's environment too, so it needs the standard library alone.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys

HELD_BATCHES = 3  # of the test split, a turn of evaluation or generation
HERE = pathlib.Path(__file__).parent


def peer_python(folder):
  """Returns the interpreter of the peer's environment, which is made if missing."""
  python = folder / 'bin' / 'python'
  if not python.exists():
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    requirements = HERE / 'peer-requirements.txt'
    subprocess.run(
      [python, '-m', 'pip', 'install', '-q', '-r', requirements], check=True
    )
  return python


def choose_device(name):
  """Has the processes that are started from now on use 'cpu' or 'cuda'."""
  os.environ['JAX_PLATFORMS'] = name
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # both sides share the GPU


def device():
  """Returns the device of this process, as `choose_device`."""
  return os.environ.get('JAX_PLATFORMS', 'cpu')


class Worker:
  """A process that has loaded the model and does what every line it is sent asks."""

  def __init__(self, python, script, *arguments):
    self._process = subprocess.Popen(
      [python, HERE / script, *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    assert self._read() == 'ready'

  def _read(self):
    return json.loads(self._process.stdout.readline())

  def ask(self, kind):
    """Returns what the script measures of one turn, its wall time as `seconds`."""
    self._process.stdin.write(f'{kind}\n')
    self._process.stdin.flush()
    return self._read()

  def close(self):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


def sample(batches, turn):
  """Returns some of a split's batches, from all of its length, others every turn.

  Args:
    batches: in any order; neighbours may be alike.
    turn: from 0.
  """
  offset = 0.5 + 0.618 * turn  # the golden ratio: turns fill each other's gaps
  step = len(batches) / HELD_BATCHES
  return [batches[int((i + offset % 1) * step)] for i in range(HELD_BATCHES)]


def summary(values):
  low, high = min(values), max(values)
  return f'{statistics.median(values):.3f} [{low:.3f}, {high:.3f}]'


def answer(turns):
  """Is the process that a `Worker` started: answers lines until there are no more.

  Args:
    turns: {line: function that takes a turn and returns what it measured}; of `peak`,
      the peak memory so far, in GB.
  """
  print(json.dumps('ready'), flush=True)
  for line in sys.stdin:
    print(json.dumps(turns[line.strip()]()), flush=True)


def peak():
  """Returns the process's peak memory so far, in GB."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
