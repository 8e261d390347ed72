"""Measures training, evaluation, generation and start-up against Hugging Face PEFT's.

  python benchmarks/versus_peft.py MODEL_DIR DATA_DIR --peer=DIR --output=FILE

MODEL_DIR is a local GPT-2 checkpoint, DATA_DIR holds a directory for each task, as
`data.path` takes it. DIR is a virtual environment for the peer; it is made there if it
does not exist. FILE gets every figure as JSON; a Markdown table is printed.

Both sides train the same prompt of 20 virtual tokens (in two cases ours is `deep`, and
PEFT's is prompt tuning all the same) with the same AdamW on rows that are tokenised
once: jaxprompt in its length buckets, PEFT as its documentation says, in random order
and padded to each batch's longest row. The processes live side by side and take turns,
so that both meet the same machine; a turn is a few batches of an epoch, or of the test
split's evaluation, of which each turn takes others. The figure is real tokens (source,
target) a second, which is the epoch's speed, or tokens generated. With a suffix prompt
it is the second epoch's, whose contexts are kept. What compiles is counted in the
start-up alone. With --device=cuda both run on one GPU, and memory is the GPU's.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import start
import worker

from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.lm import loading
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template

LIMITS = {'qa': (448, 32), 'summarization': (512, 128), 'translation': (96, 96)}
TURNS = {'train': 'training', 'evaluate': 'evaluation loss', 'generate': 'generation'}


class Case(NamedTuple):
  """What is measured in one pair of processes."""

  task: str
  position: str
  rows: int  # of a batch
  turns: tuple[str, ...]
  batches: int  # of a turn of training
  kind: str = 'embedding'  # of our prompt; PEFT's is always one


CASES = [
  *(
    Case(task, 'prefix', 8, ('train', 'evaluate', 'generate'), 3)
    for task in ('translation', 'qa', 'summarization')
  ),
  *(
    Case(task, 'suffix', 8, ('train', 'generate'), 3)
    for task in ('translation', 'qa', 'summarization')
  ),
  *(
    Case(task, 'prefix', 1, ('train',), 8)
    for task in ('translation', 'qa', 'summarization')
  ),
  Case('qa', 'prefix', 8, ('train',), 3, 'deep'),
  Case('qa', 'suffix', 8, ('train',), 3, 'deep'),
]


def write_rows(tokenizer, directory, task, file):
  """Tokenises the training and the test split into one .npz file."""
  source, target = LIMITS[task]
  found = {'eos_id': tokenizer.eos_token_id}
  splits = sources.read(directory, '')
  for split in ('train', 'test'):
    rows = rows_lib.load(
      template.Template(tokenizer),
      tasks.TASKS[task],
      splits[split],
      size=0,
      max_source_tokens=source,
      max_target_tokens=target,
    ).rows
    for name in ('source', 'target'):
      ids = [getattr(row, f'{name}_ids') for row in rows]
      found[f'{split}_{name}_ids'] = np.concatenate(ids)
      found[f'{split}_{name}_lengths'] = [len(x) for x in ids]
  np.savez(file, **found)


def pair(python, model, rows, case):
  """Starts both sides."""
  options = [model, rows, str(case.rows), str(case.batches), case.position]
  ours = worker.Worker(sys.executable, 'side_jaxprompt.py', *options, case.kind)
  return ours, worker.Worker(python, 'side_peft.py', *options)


def measure(python, model, rows, case, rounds):
  """Lets both sides take turns; returns what both measured, side by side."""
  ours, peft = pair(python, model, rows, case)
  found = {**case._asdict()}
  for turn in ('warm_up', *case.turns):
    if turn != 'train':  # which has been warmed up
      _ = ours.ask(turn), peft.ask(turn)
    if turn == 'warm_up':
      continue
    turns = [(ours.ask(turn), peft.ask(turn)) for _ in range(rounds)]
    found[turn] = speeds(turns)
    if turn == 'train':
      peaks = ours.ask('peak'), peft.ask('peak')
      found['peak_gb'] = dict(zip(('jaxprompt', 'peft'), peaks, strict=True))
      found['kept_gb'] = ours.ask('kept')
  ours.close(), peft.close()
  return found


def speeds(turns):
  """Returns tokens a second of both sides, and the ratios turn by turn."""
  sides = [
    [turn['tokens'] / turn['seconds'] for turn in side]
    for side in zip(*turns, strict=True)
  ]
  ratios = [a / b for a, b in zip(*sides, strict=True)]
  return {'jaxprompt': sides[0], 'peft': sides[1], 'ratios': ratios}


def same_steps(python, model, rows, case):
  """Takes the same 20 steps on both sides.

  Returns:
    Both sides' losses, with their largest difference, and the step's operations.
  """
  ours, peft = pair(python, model, rows, case)
  losses = [side.ask('losses') for side in (ours, peft)]
  operations = ours.ask('operations')
  ours.close(), peft.close()
  apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
  return {'losses': losses, 'largest_difference': apart}, operations


def table(found):
  """Returns the Markdown of what was measured."""
  lines = ['| figure | jaxprompt / PEFT | jaxprompt | PEFT |', '|---|---|---|---|']
  for case in found['cases']:
    name = f'{case["task"]}, batch {case["rows"]}, {case["kind"]} {case["position"]}'
    for turn in case['turns']:
      ours, peft = (statistics.median(case[turn][k]) for k in ('jaxprompt', 'peft'))
      ratio = worker.summary(case[turn]['ratios'])
      lines.append(
        f'| {TURNS[turn]}: {name} | {ratio} | {ours:,.0f} tokens/s '
        f'| {peft:,.0f} tokens/s |'
      )
    ours, peft = case['peak_gb'].values()
    memory = {'': ours}
    if case['kept_gb']:
      memory[', without the sources that are kept'] = ours - case['kept_gb']
    lines += [
      f'| peak memory of training: {name}{what} | {gb / peft:.2f} | {gb:.2f} GB '
      f'| {peft:.2f} GB |'
      for what, gb in memory.items()
    ]
  for name, (ours, peft) in found['start'].items():
    lines.append(
      f'| command to first step, {name} | {peft / ours:.2f} | {ours:.1f} s '
      f'| {peft:.1f} s |'
    )
  same, operations = found['same_steps'], found['operations']
  return '\n'.join(
    [
      *lines,
      '',
      f'Losses of 20 steps on the same batches: at most '
      f'{same["largest_difference"]:.1e} nats apart. Operations of the compiled step: '
      f'{operations["compiled"] / 1e9:.0f} GFLOP, '
      f'{operations["compiled"] / operations["least"]:.2f} of the least; at '
      f'{operations["step_flops"] / 1e9:.0f} GFLOP/s, where a matrix product runs at '
      f'{operations["product_flops"] / 1e9:.0f}.',
    ]
  )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', type=pathlib.Path)
  parser.add_argument('data', type=pathlib.Path)
  parser.add_argument('--peer', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--tasks', default=','.join(LIMITS))
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
  args = parser.parse_args()
  worker.choose_device(args.device)
  chosen, python = args.tasks.split(','), worker.peer_python(args.peer)
  model = args.model.resolve()
  tokenizer = loading.load(str(model), 'float32').tokenizer
  found = {'cases': []}
  with tempfile.TemporaryDirectory() as folder:
    files = {task: pathlib.Path(folder) / f'{task}.npz' for task in chosen}
    for task, file in files.items():
      write_rows(tokenizer, args.data / task, task, file)
    first = files[chosen[0]]
    found['start'] = start.measure(python, model, args.data / chosen[0], first)
    found['same_steps'], found['operations'] = same_steps(
      python, model, first, CASES[0]
    )
    for case in CASES:
      if case.task in chosen:
        print(case, file=sys.stderr)
        case = measure(python, model, files[case.task], case, args.rounds)
        found['cases'].append(case)
        args.output.write_text(json.dumps(found, indent=2) + '\n')
  print(table(found))


if __name__ == '__main__':
  main()
