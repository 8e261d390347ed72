"""Loads an exported adapter with the real PEFT and holds it to its run's results.

In an environment with torch, transformers and peft (benchmarks/peer-requirements.txt):

  python tools/check_peft_adapter.py WORKDIR ADAPTER

It takes the test rows from WORKDIR's predictions/soft.jsonl, and prints their loss and
how many of their greedy texts are the same; it fails if the loss differs.
"""

import json
import pathlib
import sys

import peft
import torch
import transformers


def main(workdir, adapter):
  workdir = pathlib.Path(workdir)
  results = json.loads((workdir / 'results.json').read_text())
  config = json.loads((pathlib.Path(adapter) / 'adapter_config.json').read_text())
  base = config['base_model_name_or_path']
  tokenizer = transformers.AutoTokenizer.from_pretrained(base)
  model = peft.PeftModel.from_pretrained(
    transformers.AutoModelForCausalLM.from_pretrained(base), adapter
  ).eval()

  def encode(text):
    return tokenizer(text, add_special_tokens=False)['input_ids']

  nats, tokens, same, rows = 0.0, 0, 0, 0
  for line in (workdir / 'predictions' / 'soft.jsonl').read_text().split('\n')[:-1]:
    row = json.loads(line)
    source = encode(row['source']) + encode('\n')
    target = encode(' ' + row['target']) + [tokenizer.eos_token_id]
    with torch.no_grad():
      labels = torch.tensor([[-100] * len(source) + target])
      loss = model(input_ids=torch.tensor([source + target]), labels=labels).loss
      out = model.generate(
        input_ids=torch.tensor([source]),
        max_new_tokens=results['config']['eval']['max_new_tokens'],
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
      )[0]
    nats, tokens = nats + loss.item() * len(target), tokens + len(target)
    out = out[len(source) :] if out[: len(source)].tolist() == source else out
    text = tokenizer.decode(out, skip_special_tokens=True).strip()
    same, rows = same + (text == row['prediction']), rows + 1
  expected = results['test']['soft']['loss']
  print(f'loss {nats / tokens:.6f} by PEFT, {expected:.6f} here')
  print(f'{same} of {rows} greedy texts are the same')
  if abs(nats / tokens - expected) > 1e-4 * expected:
    sys.exit('the losses differ')


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit(__doc__)
  main(*sys.argv[1:])
