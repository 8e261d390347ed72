"""Times an optimiser step against Hugging Face PEFT's in PyTorch, in turn.

Both train the same prompt of 20 virtual tokens with the same AdamW, on the same batch
of 8 rows with 224 source and 32 target tokens, in processes that live side by side
and take a step each, one after the other, so that both meet the same machine. Losses
are compared too: a speed that changes the mathematics does not count.

  python benchmarks/step.py MODEL_DIR --peer=DIR [--rounds=8]

MODEL_DIR is a local GPT-2 checkpoint. DIR is a virtual environment for the peer; it
is made there if it does not exist (CPU torch, transformers, peft).
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np
import worker

ROWS, SOURCE, TARGET, PROMPT = 8, 224, 32, 20


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', type=pathlib.Path)
  parser.add_argument('--peer', type=pathlib.Path, required=True)
  parser.add_argument('--rounds', type=int, default=8)
  args = parser.parse_args()
  vocab = json.loads((args.model / 'config.json').read_text())['vocab_size']
  python = worker.peer_python(args.peer)
  with tempfile.TemporaryDirectory() as folder:
    inputs = pathlib.Path(folder) / 'inputs.npz'
    np.savez(
      inputs,
      ids=np.random.default_rng(0).integers(0, vocab, (ROWS, SOURCE + TARGET)),
      source=SOURCE,
      prompt_ids=np.arange(PROMPT),
    )
    ours = worker.Worker(sys.executable, 'step_jaxprompt.py', args.model, inputs)
    peft = worker.Worker(python, 'step_peft.py', args.model, inputs)
    first = ours.ask('step'), peft.ask('step')  # compilation and warm-up, not counted
    pairs = [(ours.ask('step'), peft.ask('step')) for _ in range(args.rounds)]
    peaks = ours.close(), peft.close()
  seconds = [[step['seconds'] for step in side] for side in zip(*pairs, strict=True)]
  drift = max(abs(a['loss'] - b['loss']) for a, b in [first, *pairs])
  print(f'{len(pairs)} steps each, in turn; median [least, most]')
  print(f'jaxprompt  {worker.summary(seconds[0])} s a step, peak {peaks[0]:.2f} GB')
  print(f'PEFT       {worker.summary(seconds[1])} s a step, peak {peaks[1]:.2f} GB')
  ratios = [b / a for a, b in zip(*seconds, strict=True)]
  print(f'PEFT / jaxprompt, pair by pair: {worker.summary(ratios)}')
  print(f'largest difference of the losses: {drift:.1e} nats')


if __name__ == '__main__':
  main()
