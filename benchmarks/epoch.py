"""Times training and generation on real rows against Hugging Face PEFT's, in turn.

Both train the same prompt of 20 virtual tokens with the same AdamW on a data set,
tokenised once: jaxprompt in its length buckets, PEFT as its documentation says, in
random order and padded to each batch's longest row. A turn is a few batches of an
epoch; the figure is real tokens (source, target) a second, which is the epoch's speed.
With a suffix prompt it is the second epoch's, whose contexts are kept. Both generate 32
tokens greedily. The processes live side by side and take turns, so that both meet the
same machine; what compiles and fills caches is not counted.

  python benchmarks/epoch.py MODEL_DIR DATA_DIR --task=qa --peer=DIR [--batch=8]
    [--batches=4] [--position=prefix] [--rounds=3] [--output=FILE]

DATA_DIR is as `data.path` takes it. DIR is a virtual environment for the peer; it is
made there if it does not exist.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import numpy as np
import worker

from jaxprompt import data
from jaxprompt import sources
from jaxprompt import tasks
from jaxprompt.lm import loading

LIMITS = {'qa': (448, 32), 'summarization': (512, 128), 'translation': (96, 96)}


def write_rows(model, directory, task, file):
  """Tokenises the training split into one .npz file."""
  _, _, tokenizer = loading.load(model, 'float32')
  source, target = LIMITS[task]
  rows = data.load(
    tokenizer,
    tasks.TASKS[task],
    sources.read(directory, '')['train'],
    size=0,
    max_source_tokens=source,
    max_target_tokens=target,
  ).rows
  np.savez(
    file,
    eos_id=tokenizer.eos_token_id,
    source_ids=np.concatenate([row.source_ids for row in rows]),
    target_ids=np.concatenate([row.target_ids for row in rows]),
    source_lengths=[len(row.source_ids) for row in rows],
    target_lengths=[len(row.target_ids) for row in rows],
  )


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', type=pathlib.Path)
  parser.add_argument('data', type=pathlib.Path)
  parser.add_argument('--task', choices=LIMITS, required=True)
  parser.add_argument('--peer', type=pathlib.Path, required=True)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--batches', type=int, default=4)
  parser.add_argument('--position', choices=('prefix', 'suffix'), default='prefix')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--output', type=pathlib.Path)
  args = parser.parse_args()
  python = worker.peer_python(args.peer)
  with tempfile.TemporaryDirectory() as folder:
    rows = pathlib.Path(folder) / 'rows.npz'
    write_rows(str(args.model), args.data, args.task, rows)
    options = [args.model, rows, str(args.batch), str(args.batches), args.position]
    ours = worker.Worker(sys.executable, 'epoch_jaxprompt.py', *options)
    peft = worker.Worker(python, 'epoch_peft.py', *options)
    for kind in ('warm_up', 'generate'):
      _ = ours.ask(kind), peft.ask(kind)
    found = {
      kind: [(ours.ask(kind), peft.ask(kind)) for _ in range(args.rounds)]
      for kind in ('train', 'generate')
    }
    peaks = ours.close(), peft.close()
  summary = {**{k: str(v) for k, v in vars(args).items()}, 'peak_gb': peaks}
  print(f'{args.task}, batch {args.batch}, {args.position}; tokens a second')
  for kind, pairs in found.items():
    speeds = [
      [turn['tokens'] / turn['seconds'] for turn in side]
      for side in zip(*pairs, strict=True)
    ]
    ratios = [a / b for a, b in zip(*speeds, strict=True)]
    summary[kind] = {
      'jaxprompt': speeds[0],
      'peft': speeds[1],
      'ratio': statistics.median(ratios),
      'ratios': ratios,
    }
    print(
      f'{kind}: jaxprompt {worker.summary(speeds[0])}, PEFT '
      f'{worker.summary(speeds[1])}, jaxprompt / PEFT {worker.summary(ratios)}'
    )
  print(f'peak: jaxprompt {peaks[0]:.2f} GB, PEFT {peaks[1]:.2f} GB')
  if args.output:
    args.output.write_text(json.dumps(summary, indent=2) + '\n')


if __name__ == '__main__':
  main()
