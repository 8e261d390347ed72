"""Trains and compares on a real model and real data; prints docs/results.md's tables.

For each task, and by the command that users run:

1. Short runs of each kind and place of a prompt choose its learning rate by
   validation loss.
2. A deep suffix is trained with several seeds, and the best of them, by validation
   loss, is compared with every written arm.
3. Each kind and place of a prompt is trained on the same rows for the same steps, with
   one seed.
4. Short runs of a deep suffix of several lengths say what length buys.

The test rows choose nothing. A call that was stopped goes on where it was when it is
given again.

  python benchmarks/evidence.py MODEL_DIR DATA_DIR OUTPUT_DIR [--tasks=qa,...]
    [--parts=arms,kinds,lengths] [--prompts=deep-suffix,...]

DATA_DIR holds a directory for each task, as `data.path` takes it. A task's tables are
written to OUTPUT_DIR/TASK/PART.md.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

from jaxprompt.runs import results

ROOT = pathlib.Path(__file__).parents[1]
RATES = {'deep': '0.03,0.06,0.1', 'embedding': '0.02,0.05,0.15'}
MAIN = 'deep-suffix'  # kind and position
PROMPTS = (MAIN, 'embedding-suffix', 'deep-prefix', 'embedding-prefix')
SEEDS = '0,1,2'
LENGTHS = '5,20,50'
ARMS = ('none', 'hard', 'best_hard', 'few_shot', 'chat', 'soft')
COMMON = {
  'train.batch_size': 8,
  'train.epochs': 2,
  'train.warmup': 5,
  'data.train_size': 480,
  'data.validation_size': 64,
  'data.test_size': 64,
  'eval.batch_size': 16,
  'few_shot.draws': 2,
}
SHORT = {
  'train.epochs': 1,
  'data.train_size': 320,
  'data.test_size': 8,
  'eval.max_new_tokens': 1,
  'arms': 'soft',
}
# Of each task: the config file, and what is set in it.
TASKS = {
  'qa': (
    'qa',
    {
      'data.max_source_tokens': 224,
      'data.max_target_tokens': 24,
      'eval.max_new_tokens': 24,
    },
  ),
  'summarization': (
    'summarization',
    {
      'data.max_source_tokens': 256,
      'data.max_target_tokens': 96,
      'eval.max_new_tokens': 64,
    },
  ),
  'translation': (
    'translation',
    {
      'data.max_source_tokens': 64,
      'data.max_target_tokens': 64,
      'eval.max_new_tokens': 48,
    },
  ),
  'webnlg': (
    'text',
    {
      'example.source': r'{triples:\n}',
      'example.target': '{texts[0]}',
      'example.references': 'texts',
      'metrics': 'bleu,chrf,rougeL',
      'hard_prompt': 'Say these facts in a sentence :',
      'hard_prompts': json.dumps(
        [
          'Say these facts in a sentence :',
          'Facts:\n{source}\nText:',
          '{source}\n\nThe same facts as one text:',
          'Write a short text that says all of these facts.\n\n{source}\n\nText:',
        ]
      ),
      'data.max_source_tokens': 160,
      'data.max_target_tokens': 96,
      'eval.max_new_tokens': 64,
    },
  ),
  'sst2': (
    'text',
    {
      'example.source': 'Review: {sentence}',
      'example.target': '{label}',
      'example.labels': 'negative,positive',
      'metrics': 'accuracy,macro_f1',
      'hard_prompts': json.dumps(
        [
          'Classify the following text as negative or positive :',
          '{source}\nSentiment:',
          '{source}\nThe sentiment of this review is',
          'Is this review negative or positive?\n\n{source}\n\nAnswer:',
        ]
      ),
      'data.max_source_tokens': 80,
      'data.max_target_tokens': 4,
      'eval.max_new_tokens': 4,
      'data.train_size': 1600,
      'data.validation_size': 200,
      'data.test_size': 600,
    },
  ),
}


def command(config, fields, mode, *flags, **settings):
  """Runs the command that users run; returns what `subprocess.run` does."""
  argv = [sys.executable, '-m', 'jaxprompt.main', f'--mode={mode}']
  argv += [f'--config={ROOT}/configs/{config}.py', *flags]
  argv += [f'--config.{name}={value}' for name, value in fields.items()]
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  environment = {**os.environ, 'PYTHONPATH': path}
  return subprocess.run(argv, check=True, env=environment, **settings)


def run(config, workdir, fields, *, mode='train', file='results.json'):
  """Trains, or goes on; returns the content of the file that it leaves."""
  command(config, fields, mode, f'--workdir={workdir}')
  return json.loads((workdir / file).read_text())


def peak(config, fields):
  """Returns what a device holds in a step of the longest rows, as a plan says it."""
  planned = command(config, fields, 'plan', stdout=subprocess.PIPE, text=True).stdout
  (step,) = [x for x in planned.splitlines() if x.startswith('train step')]
  return re.split(r'\s{2,}', step)[2]  # after what it holds before


def cell(arm, figure):
  low, high = arm['ci95'][figure]
  return f'{arm[figure]:.2f} [{low:.2f}, {high:.2f}]'


def table(rows):
  """Returns the Markdown of rows of cells, the first of which is the head."""
  lines = [f'| {" | ".join(row)} |' for row in rows]
  return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])


def arms_table(found):
  """Returns the table of all arms of a run, and what soft is above or below each.

  Args:
    found: the run's results.json.
  """
  metric = found['config']['metrics'][0]

  def soft_less(arm, figure):
    if arm == 'soft':
      return ''
    apart = results.difference(found, figure, 'soft', arm)
    low, high = apart['ci95']
    return f'{apart["difference"]:+.2f} [{low:+.2f}, {high:+.2f}]'

  head = ['arm', 'rows seen', 'tokens a query', 'test loss', 'soft less it']
  rows = [[*head, metric, 'soft less it']]
  for name, arm in found['test'].items():
    tuning = found['tuning'][name]
    cells = [name, str(tuning['rows']), f'{tuning["tokens"]:.0f}']
    for figure in ('loss', metric):
      cells += [cell(arm, figure), soft_less(name, figure)]
    rows.append(cells)
  return table(rows)


def kinds_table(runs, peaks):
  """Returns the table of kinds and places of a prompt.

  Args:
    runs: results.json by prompt, of runs of two epochs at least: the first compiles.
    peaks: by prompt, see `peak`.
  """
  head = ['prompt', 'parameters', 'learning rate', 'validation loss', 'test loss']
  metric = next(iter(runs.values()))['config']['metrics'][0]
  rows = [[*head, metric, 'seconds of the last epoch', 'at peak']]
  for prompt, found in runs.items():
    soft = found['test']['soft']
    best = min(epoch['validation_loss'] for epoch in found['epochs'])
    cells = [prompt.replace('-', ', '), f'{found["prompt"]["parameters"]:,}']
    cells += [str(found['config']['train']['learning_rate']), f'{best:.3f}']
    cells += [cell(soft, 'loss'), cell(soft, metric)]
    rows.append([*cells, f'{found["epochs"][-1]["seconds"]:.0f}', peaks[prompt]])
  return table(rows)


def choose_rate(config, prompt, fields, output):
  """Returns a prompt's ('KIND-POSITION') learning rate, and every trial in words."""
  kind, position = prompt.split('-')
  trial = {**fields, **SHORT, 'prompt.kind': kind, 'prompt.position': position}
  trial['sweep.learning_rate'] = RATES[kind]
  workdir = output / f'rates-{prompt}'
  found = run(config, workdir, trial, mode='sweep', file='sweep.json')
  told = [
    f'{x["validation_loss"]:.3f} of {prompt} at {x["train.learning_rate"]}'
    for x in found['runs']
  ]
  return found['runs'][found['best']]['train.learning_rate'], ', '.join(told)


def prompt_fields(fields, prompt, rate):
  """Returns the fields of a run of a prompt, 'KIND-POSITION'."""
  kind, position = prompt.split('-')
  own = {'prompt.kind': kind, 'prompt.position': position, 'train.learning_rate': rate}
  return {**fields, **own}


def measure_arms(config, fields, output, _):
  """Compares the main prompt with the arms; returns Markdown."""
  rate, trials = choose_rate(config, MAIN, fields, output)
  seeds = {'sweep.seed': SEEDS, 'sweep.test': 'all'}
  workdir = output / MAIN
  own = prompt_fields(fields, MAIN, rate) | seeds
  (tested,) = run(config, workdir, own, mode='sweep', file='sweep.json')['test']
  best = json.loads((workdir / 'best' / 'results.json').read_text())
  spread = ', '.join(
    f'{name} {x["mean"]:.3f} ± {x["deviation"]:.3f} (worst {x["worst"]:.3f}, together '
    f'{tested["ensemble"][name]:.3f})'
    for name, x in tested['figures'].items()
  )
  told = (
    f'{best["data"]["train"]["rows"]} training rows, {best["epochs"][-1]["step"]} '
    f'steps, {best["test"]["soft"]["examples"]} test rows. Validation losses of '
    f'short runs: {trials}. Seeds {SEEDS} of {MAIN}: {spread}.'
  )
  return f'{arms_table(best)}\n\n{told}\n'


def measure_kinds(config, fields, output, prompts):
  """Trains each of the prompts; returns Markdown."""
  rates = {prompt: choose_rate(config, prompt, fields, output) for prompt in prompts}
  runs, peaks = {}, {}
  for prompt in prompts:
    rate, _ = rates[prompt]
    alone = prompt_fields(fields, prompt, rate) | {'arms': 'soft'}
    runs[prompt] = run(config, output / f'alone-{prompt}', alone)
    peaks[prompt] = peak(config, alone)
  told = ', '.join(trials for _, trials in rates.values())
  return f'{kinds_table(runs, peaks)}\n\nValidation losses of short runs: {told}.\n'


def measure_lengths(config, fields, output, _):
  """Trains the main prompt in several lengths, for a short time; returns Markdown."""
  rate, _ = choose_rate(config, MAIN, fields, output)
  trial = prompt_fields({**fields, **SHORT}, MAIN, rate) | {'sweep.length': LENGTHS}
  found = run(config, output / 'lengths', trial, mode='sweep', file='sweep.json')
  rows = [['prompt', 'learning rate', 'length', 'validation loss']]
  rows += [
    [MAIN, str(rate), str(x['prompt.length']), f'{x["validation_loss"]:.3f}']
    for x in found['runs']
  ]
  return f'{table(rows)}\n'


PARTS = {'arms': measure_arms, 'kinds': measure_kinds, 'lengths': measure_lengths}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', type=pathlib.Path)
  parser.add_argument('data', type=pathlib.Path)
  parser.add_argument('output', type=pathlib.Path)
  parser.add_argument('--tasks', default=','.join(TASKS))
  parser.add_argument('--arms', default=','.join(ARMS))
  parser.add_argument('--parts', default=','.join(PARTS), help='2 to 4 of the above')
  parser.add_argument('--prompts', default=','.join(PROMPTS), help='of the third')
  args = parser.parse_args()
  for task in args.tasks.split(','):
    output = args.output.resolve() / task
    output.mkdir(parents=True, exist_ok=True)
    config, own = TASKS[task]
    fields = {**COMMON, **own, 'arms': args.arms, 'model.path': args.model.resolve()}
    fields['data.path'] = args.data.resolve() / task
    if config != 'text':
      fields['data.subset'] = ''
    for part in args.parts.split(','):
      found = PARTS[part](config, fields, output, args.prompts.split(','))
      (output / f'{part}.md').write_text(found)
      print(found)


if __name__ == '__main__':
  main()
