"""How long it takes from the command to the first training step."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import worker

ROOT = pathlib.Path(__file__).parents[1]
# Of tokens: enough for a first step, and little enough for a small model.
LIMITS = {
  'data.max_source_tokens': 64,
  'data.max_target_tokens': 64,
  'eval.max_new_tokens': 32,
}


def measure(python, model, directory, rows):
  """Returns {how: (seconds of jaxprompt, seconds of PEFT)}, with translation's rows.

  jaxprompt's is the command that users run, with an empty cache of compiled programs
  and again; the step is seen by the line that it leaves in metrics.jsonl. PEFT's
  process loads the model, takes tokenised rows and a step.
  """
  peft = _peft(python, model, rows)
  with tempfile.TemporaryDirectory() as cache:
    return {
      name: (_jaxprompt(model, directory, cache), peft)
      for name in ('nothing compiled yet', 'compiled before')
    }


def _jaxprompt(model, directory, cache):
  options = {
    'model.path': model,
    'data.path': directory.resolve(),
    'data.subset': '',
    'data.train_size': 16,  # two steps; the first is saved, and so can be seen
    'checkpoint.every_steps': 1,
    **LIMITS,
  }
  environment = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
  }
  with tempfile.TemporaryDirectory() as folder:
    workdir, messages = pathlib.Path(folder) / 'run', pathlib.Path(folder) / 'messages'
    command = [sys.executable, '-m', 'jaxprompt.main', f'--workdir={workdir}']
    command.append(f'--config={ROOT}/configs/{directory.name}.py')
    command += [f'--config.{name}={value}' for name, value in options.items()]
    scalars = workdir / 'metrics.jsonl'
    with messages.open('w') as stderr:
      began = time.perf_counter()
      process = subprocess.Popen(command, env=environment, stderr=stderr)
      while not (scalars.exists() and scalars.stat().st_size):
        if process.poll() is not None:
          raise RuntimeError(f'ended without a step: {messages.read_text()}')
        time.sleep(0.05)
      seconds = time.perf_counter() - began
      process.kill()
      process.wait()
  return seconds


def _peft(python, model, rows):
  began = time.perf_counter()
  side = worker.Worker(python, 'side_peft.py', model, rows, '8', '1', 'prefix')
  side.ask('warm_up')
  seconds = time.perf_counter() - began
  side.close()
  return seconds
