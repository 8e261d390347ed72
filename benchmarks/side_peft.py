"""The other side of versus_peft.py: PEFT as its documentation uses it."""

import sys
import time

import numpy as np
import peft
import torch
import transformers
import worker

PROMPT, NEW_TOKENS, SAME_STEPS = 20, 32, 20


def pad(rows, value, side='right'):
  """Pads lists of ids to the longest; returns [B, T]."""
  longest = max(map(len, rows))
  room = [[value] * (longest - len(row)) for row in rows]
  pairs = zip(room, rows, strict=True)
  padded = [gap + row if side == 'left' else row + gap for gap, row in pairs]
  return torch.tensor(padded, device=worker.device())


def seconds_since(began):
  """Returns the time since a `time.perf_counter`, a GPU's work being done."""
  if torch.cuda.is_initialized():
    torch.cuda.synchronize()
  return time.perf_counter() - began


def read_rows(file, split):
  """Returns the rows of a split in versus_peft.py's file: (source ids, target ids)."""
  found = np.load(file)
  parts = [
    np.split(found[f'{name}_ids'], np.cumsum(found[f'{name}_lengths'])[:-1])
    for name in (f'{split}_source', f'{split}_target')
  ]
  return [(a.tolist(), b.tolist()) for a, b in zip(*parts, strict=True)]


class Side:
  """The tuned model, and how far training is."""

  def __init__(self, model, file, batch_size, batches):
    self._rows, self._held = read_rows(file, 'train'), read_rows(file, 'test')
    self._eos_id = int(np.load(file)['eos_id'])
    self._batch_size, self._batches = batch_size, batches
    base = transformers.GPT2LMHeadModel.from_pretrained(model).to(worker.device())
    prompt = base.transformer.wte.weight[:PROMPT].detach().clone()
    config = peft.PromptTuningConfig(
      task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=PROMPT
    )
    self._tuned = peft.get_peft_model(base, config)
    self._trained = [w for w in self._tuned.parameters() if w.requires_grad]
    with torch.no_grad():
      self._trained[0].copy_(prompt)
    # .train() would turn on the frozen model's dropout, which the other side has not.
    self._tuned.eval()
    self._optimizer = torch.optim.AdamW(self._trained, lr=0.01, weight_decay=0.0)
    self._order = np.random.default_rng(0).permutation(len(self._rows))
    self._next = 0
    self._turns = {'evaluate': 0, 'generate': 0}

  def warm_up(self):
    self._take(1)
    return {'tokens': 0}

  def train(self):
    began = time.perf_counter()
    tokens = self._take(self._batches)
    return {'seconds': seconds_since(began), 'tokens': tokens}

  def peak(self):
    if torch.cuda.is_initialized():
      return torch.cuda.max_memory_allocated() / 1e9
    return worker.peak()

  def _take(self, batches):
    """Trains on the next batches; returns their real tokens."""
    tokens = 0
    for _ in range(batches):
      chosen = self._order[self._next : self._next + self._batch_size]
      self._next += self._batch_size
      rows = [self._rows[i] for i in chosen]
      self._step(rows)
      tokens += self._tokens(rows)
    return tokens

  def _tokens(self, rows):
    return sum(len(source) + len(target) for source, target in rows)

  def _loss(self, rows):
    ids = [source + target for source, target in rows]
    labels = [[-100] * len(source) + target for source, target in rows]
    return self._tuned(
      input_ids=pad(ids, self._eos_id),
      attention_mask=pad([[1] * len(row) for row in ids], 0),
      labels=pad(labels, -100),
    ).loss

  def _step(self, rows):
    loss = self._loss(rows)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad()
    return loss

  def _held_batches(self, kind):
    """Returns the batches of a turn, whose rows follow each other in the file."""
    starts = range(0, len(self._held), self._batch_size)
    turn = self._turns[kind]
    self._turns[kind] += 1
    return [
      self._held[start : start + self._batch_size]
      for start in worker.sample(starts, turn)
    ]

  def evaluate(self):
    batches = self._held_batches('evaluate')
    began = time.perf_counter()
    with torch.no_grad():
      for rows in batches:
        self._loss(rows).item()
    seconds = seconds_since(began)
    return {'seconds': seconds, 'tokens': sum(map(self._tokens, batches))}

  def losses(self):
    """Takes steps on rows in the file's order; returns the losses before each."""
    size = self._batch_size
    batches = (self._rows[i * size :][:size] for i in range(SAME_STEPS))
    return [self._step(rows).item() for rows in batches]

  def generate(self):
    batches = self._held_batches('generate')
    began = time.perf_counter()
    for batch in batches:
      rows = [source for source, _ in batch]
      with torch.no_grad():
        self._tuned.generate(
          input_ids=pad(rows, self._eos_id, 'left'),
          attention_mask=pad([[1] * len(row) for row in rows], 0, 'left'),
          max_new_tokens=NEW_TOKENS,
          min_new_tokens=NEW_TOKENS,
          do_sample=False,
          pad_token_id=self._eos_id,
        )
    seconds = seconds_since(began)
    return {'seconds': seconds, 'tokens': NEW_TOKENS * sum(map(len, batches))}


def main(model, file, batch_size, batches, _):
  side = Side(model, file, int(batch_size), int(batches))
  turns = ('warm_up', 'train', 'peak', 'evaluate', 'generate', 'losses')
  worker.answer({turn: getattr(side, turn) for turn in turns})


if __name__ == '__main__':
  main(*sys.argv[1:])
