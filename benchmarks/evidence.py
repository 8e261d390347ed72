"""Trains and compares on a real model and real data; prints docs/results.md's tables.

For each task, a sweep over learning rates and prompt lengths on a part of the training
rows finds the best validation loss. With that run's settings, a prompt before the
source (prefix) and one after it (suffix) are trained. The test rows choose nothing.
Everything goes through the command that users run, so a stopped call goes on where it
was when it is given again.

  python benchmarks/evidence.py MODEL_DIR DATA_DIR OUTPUT_DIR [--tasks=qa,...]

DATA_DIR holds a directory for each task, as `data.path` takes it. The tables are
written to OUTPUT_DIR/TASK/table.md.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from jaxprompt.tasks import statistics
from jaxprompt.tasks import tasks

ROOT = pathlib.Path(__file__).parents[1]
COMMON = {
  'train.batch_size': 8,
  'train.epochs': 2,
  'train.warmup': 5,
  'data.train_size': 240,
  'data.validation_size': 64,
  'data.test_size': 64,
  'eval.batch_size': 16,
  'checkpoint.every_steps': 20,
}
SWEEP = {
  'sweep.learning_rate': '0.03,0.1',
  'sweep.length': '10,40',
  'train.epochs': 1,
  'data.train_size': 120,
  'data.test_size': 8,
  'eval.max_new_tokens': 1,
}
TASKS = {
  'translation': {
    'data.max_source_tokens': 64,
    'data.max_target_tokens': 64,
    'eval.max_new_tokens': 48,
  },
  'qa': {
    'data.max_source_tokens': 224,
    'data.max_target_tokens': 24,
    'eval.max_new_tokens': 24,
  },
  'summarization': {
    'data.max_source_tokens': 256,
    'data.max_target_tokens': 96,
    'eval.max_new_tokens': 64,
  },
}


def run(task, workdir, fields, *, mode='train', file='results.json'):
  """Trains, or goes on; returns the content of the file that it leaves."""
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  command = [sys.executable, '-m', 'jaxprompt.main', f'--mode={mode}']
  command += [f'--config={ROOT}/configs/{task}.py', f'--workdir={workdir}', *flags]
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  subprocess.run(command, check=True, env={**os.environ, 'PYTHONPATH': path})
  return json.loads((workdir / file).read_text())


def row(name, arm, metric):
  """Returns a line of the table: loss and metric with their 95% intervals."""
  cells = [name]
  for figure in ('loss', metric, 'token_match'):
    low, high = arm['ci95'][figure]
    cells.append(f'{arm[figure]:.2f} [{low:.2f}, {high:.2f}]')
  return f'| {" | ".join(cells)} |'


def differences(workdir):
  """Returns how much lower each arm's loss is than the arm before's, row by row.

  All arms have the same test rows, so this tells arms apart whose own intervals, which
  hold what makes rows hard for every arm, overlap.

  Args:
    workdir: of a run; its predictions hold every row's mean loss per target token.
  """
  losses = {}
  for arm in ('none', 'hard', 'soft'):
    lines = (workdir / 'predictions' / f'{arm}.jsonl').read_text().splitlines()
    losses[arm] = np.array([json.loads(line)['scores']['loss'] for line in lines])
  told = []
  for arm, other in (('hard', 'none'), ('soft', 'hard')):
    gains = statistics.mean(losses[other] - losses[arm])
    low, high = statistics.interval(gains, seed=0)
    told.append(
      f'{arm} below {other} by {statistics.figure(gains):.3f} [{low:.3f}, {high:.3f}]'
    )
  return f'Losses of the same rows, as means over rows: {", ".join(told)}.'


def table(task, runs, prefix, suffix, told):
  """Returns the Markdown of a task: what was found, and how.

  Args:
    task: a key of `TASKS`.
    runs: of the sweep.
    prefix, suffix: content of results.json.
    told: what `differences` says of the prefix run.
  """
  metric = tasks.TASKS[task].metrics[0]
  trials = ', '.join(
    f'{trial["validation_loss"]:.3f} with {trial["prompt.length"]} at '
    f'{trial["train.learning_rate"]}'
    for trial in runs
  )
  config, versions = prefix['config'], prefix['versions']
  seconds = {
    name: sum(epoch['seconds'] for epoch in found['epochs'])
    for name, found in (('prefix', prefix), ('suffix', suffix))
  }
  lines = [
    f'| {task} | test loss | {metric} | token_match |',
    '|---|---|---|---|',
    *(row(name, prefix['test'][name], metric) for name in ('none', 'hard')),
    row('soft, prefix', prefix['test']['soft'], metric),
    row('soft, suffix', suffix['test']['soft'], metric),
    '',
    f'{prefix["data"]["train"]["rows"]} training rows, {config["train"]["epochs"]} '
    f'epochs of batches of {config["train"]["batch_size"]}, '
    f'{prefix["prompt"]["length"]} virtual tokens ({prefix["prompt"]["parameters"]} '
    f'trained parameters), learning rate {config["train"]["learning_rate"]}, seed '
    f'{config["seed"]}, {prefix["test"]["soft"]["examples"]} test rows; training took '
    f'{seconds["prefix"]:.0f} s as prefix, {seconds["suffix"]:.0f} s as suffix (jax '
    f'{versions["jax"]}). Validation losses of the sweep: {trials}. {told}',
  ]
  return '\n'.join(lines) + '\n'


def measure(task, model, data, output):
  """Runs all that a task's table needs; returns the table."""
  fields = COMMON | TASKS[task]
  fields |= {'model.path': model, 'data.path': data / task, 'data.subset': ''}
  sweep = output / 'sweep'
  found = run(task, sweep, fields | SWEEP, mode='sweep', file='sweep.json')
  best = found['runs'][found['best']]
  for name in ('prompt.length', 'train.learning_rate'):
    fields[name] = best[name]
  prefix, suffix = (
    run(task, output / position, fields | {'prompt.position': position})
    for position in ('prefix', 'suffix')
  )
  told = differences(output / 'prefix')
  return table(task, found['runs'], prefix, suffix, told)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', type=pathlib.Path)
  parser.add_argument('data', type=pathlib.Path)
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('--tasks', default=','.join(TASKS))
  args = parser.parse_args()
  for task in args.tasks.split(','):
    output = args.output / task
    output.mkdir(parents=True, exist_ok=True)
    found = measure(task, args.model.resolve(), args.data.resolve(), output)
    (output / 'table.md').write_text(found)
    print(found)


if __name__ == '__main__':
  main()
