"""Times what each arm's answers cost: loss and greedy text of the same test rows.

  python benchmarks/arms.py MODEL_DIR DATA_DIR [--rows=32] [--rounds=3]

DATA_DIR holds the rows of question answering, as `data.path` takes it. The arms take
turns; a round that compiles is not counted. The table has, for each arm, the tokens
that stand around a source, the real tokens (source, target) a second of losses and
texts together, and how long it takes by `none`.
"""

import argparse
import statistics
import time

import jaxprompt as jp

LENGTH = 20  # virtual tokens
EXAMPLES = (1, 4)  # training rows in front of a source


def arms(model, data):
  """Returns {name: prompt}: seven ways to ask."""
  texts = jp.TASKS['qa'].hard_prompts
  found = {
    'none': jp.Bare(),
    'hard': jp.Hard(texts[0]),
    'best_hard': jp.BestHard(texts, data.validation),
  }
  for k in EXAMPLES:
    found[f'few_shot, {k}'] = jp.FewShot(data.train[:k])
  for kind in ('embedding', 'deep'):
    soft = jp.Soft(length=LENGTH, kind=kind, init=texts[0])
    found[f'soft, {kind}'] = jp.init_prompt(model, data, soft)
  return found


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model')
  parser.add_argument('data')
  parser.add_argument('--rows', type=int, default=32)
  parser.add_argument('--rounds', type=int, default=3)
  args = parser.parse_args()
  model = jp.load_model(args.model)
  data = jp.load_data(
    args.data,
    jp.TASKS['qa'],
    model,
    validation_size=8,
    test_size=args.rows,
    max_source_tokens=160,
    max_target_tokens=16,
  )
  rows = data.test
  tokens = sum(len(row.source_ids) + len(row.target_ids) for row in rows)
  prompts, seconds, around = arms(model, data), {}, {}
  for round_ in range(args.rounds + 1):
    for name, prompt in prompts.items():
      began = time.perf_counter()
      found = jp.compare(model, rows, {name: prompt}, max_new_tokens=16)
      if round_:
        seconds.setdefault(name, []).append(time.perf_counter() - began)
      around[name] = found.tuning[name]['tokens']
  print('| arm | tokens around a source | tokens/s | time by none |')
  print('|---|---|---|---|')
  for name, own in seconds.items():
    by_none = [a / b for a, b in zip(own, seconds['none'], strict=True)]
    print(
      f'| {name} | {around[name]:.0f} | {tokens / statistics.median(own):.0f} '
      f'| {statistics.median(by_none):.2f} [{min(by_none):.2f}, {max(by_none):.2f}] |'
    )


if __name__ == '__main__':
  main()
