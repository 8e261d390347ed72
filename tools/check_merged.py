"""Holds a run's exports to its results in PyTorch, with nothing of jaxprompt's.

In an environment with torch and transformers (benchmarks/peer-requirements.txt):

  python tools/check_merged.py WORKDIR MERGED[:NAME] [EMBEDDINGS]

MERGED is loaded by AutoTokenizer and AutoModelForCausalLM, and is given the bare source
of each test row in WORKDIR's predictions/soft.jsonl; or, if it holds several prompts,
what its card says of the prompt NAME. EMBEDDINGS goes with the model that it names,
through the client in docs/prompts.md. The loss of all rows and every greedy text have
to be those of the run.
"""

import ast
import json
import pathlib
import re
import sys

import torch
import transformers

DOCS = pathlib.Path(__file__).parent.parent / 'docs' / 'prompts.md'


def read_jsonl(path):
  return [json.loads(line) for line in path.read_text().split('\n')[:-1]]


def load(path):
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(path).eval()


def encode_target(tokenizer, target):
  """Returns the ids of a space and the target, as they are after a newline."""
  newline, whole = (
    tokenizer(text, add_special_tokens=False)['input_ids']
    for text in ('\n', f'\n {target}')
  )
  assert whole[: len(newline)] == newline, 'the newline is one token with the target'
  return [*whole[len(newline) :], tokenizer.eos_token_id]


class Merged:
  """The checkpoint that holds the prompt, or several of which one is named."""

  def __init__(self, path):
    path, _, name = path.partition(':')
    self.tokenizer, self.model = load(path)
    self.is_named = bool(name)
    if name:
      card = (pathlib.Path(path) / 'README.md').read_text().splitlines()
      (line,) = (x for x in card if x.startswith('      ') and f'<|{name}|>' in x)
      self.written = ast.literal_eval(line.strip())
      return
    adds_newline = self.tokenizer.decode(
      self.tokenizer('a')['input_ids'], skip_special_tokens=True
    ).endswith('\n')
    self.written = 'SOURCE' if adds_newline else 'SOURCE\n'

  def prepare(self, source):
    text = self.written.replace('SOURCE', source)
    return self.tokenizer(text, return_tensors='pt')

  def loss(self, source, target):
    ids = self.prepare(source)['input_ids']
    labels = torch.cat([torch.full_like(ids, -100), torch.tensor([target])], dim=1)
    whole = torch.cat([ids, torch.tensor([target])], dim=1)
    return self.model(input_ids=whole, labels=labels).loss

  def answer(self, source, max_new_tokens):
    inputs = self.prepare(source)
    # Of several prompts the checkpoint's own limit is the highest.
    limit = {'max_new_tokens': max_new_tokens} if self.is_named else {}
    found = self.model.generate(**inputs, **limit, do_sample=False)[0]
    return found[inputs['input_ids'].shape[1] :]


class Embeddings:
  """The base model, and the client of the documentation."""

  def __init__(self, path):
    blocks, names = re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL), {}
    (client,) = (block for block in blocks if 'def prompted' in block)
    assert len(client.splitlines()) <= 30
    exec(client, names)
    self.path, self.prompted = path, names['prompted']
    use = json.loads((pathlib.Path(path) / 'prompt.json').read_text())
    self.tokenizer, self.model = load(use['model'])

  def prepare(self, source):
    return self.prompted(self.model, self.tokenizer, self.path, source)

  def loss(self, source, target):
    embeds, ids = self.prepare(source), torch.tensor([target])
    labels = torch.cat([torch.full(embeds.shape[:2], -100), ids], dim=1)
    whole = torch.cat([embeds, self.model.get_input_embeddings()(ids)], dim=1)
    return self.model(inputs_embeds=whole, labels=labels).loss

  def answer(self, source, max_new_tokens):
    return self.model.generate(
      inputs_embeds=self.prepare(source),
      max_new_tokens=max_new_tokens,
      do_sample=False,
      pad_token_id=self.tokenizer.eos_token_id,
    )[0]


def check(workdir, export):
  results = json.loads((workdir / 'results.json').read_text())
  rows = read_jsonl(workdir / 'predictions' / 'soft.jsonl')
  nats, tokens, same = 0.0, 0, 0
  for row in rows:
    target = encode_target(export.tokenizer, row['target'])
    with torch.no_grad():
      loss = export.loss(row['source'], target)
      ids = export.answer(row['source'], results['config']['eval']['max_new_tokens'])
    nats, tokens = nats + loss.item() * len(target), tokens + len(target)
    text = export.tokenizer.decode(ids, skip_special_tokens=True).strip()
    same += text == row['prediction']
  expected = results['test']['soft']['loss']
  name = type(export).__name__.lower()
  print(f'{name}: loss {nats / tokens:.6f} by PyTorch, {expected:.6f} here')
  print(f'{name}: {same} of {len(rows)} greedy texts are the same')
  if abs(nats / tokens - expected) > 1e-4 or same < len(rows):
    sys.exit('they differ')


def main(workdir, merged, embeddings=None):
  check(pathlib.Path(workdir), Merged(merged))
  if embeddings:
    check(pathlib.Path(workdir), Embeddings(embeddings))


if __name__ == '__main__':
  if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
  main(*sys.argv[1:])
