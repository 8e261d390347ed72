"""The other side of versus_peft.py: PEFT as its documentation uses it."""

import sys
import time

import numpy as np
import peft
import torch
import transformers
import worker

PROMPT, NEW_TOKENS, HELD_BATCHES, SAME_STEPS = 20, 32, 2, 20


def pad(rows, value, side='right'):
  """Pads lists of ids to the longest; returns [B, T]."""
  longest = max(map(len, rows))
  room = [[value] * (longest - len(row)) for row in rows]
  if side == 'left':
    return torch.tensor([gap + row for gap, row in zip(room, rows, strict=True)])
  return torch.tensor([row + gap for gap, row in zip(room, rows, strict=True)])


class Side:
  """The tuned model, and how far training is."""

  def __init__(self, model, file, batch_size, batches):
    found = np.load(file)
    self._sources, self._targets = (
      [
        ids.tolist()
        for ids in np.split(
          found[f'{name}_ids'], np.cumsum(found[f'{name}_lengths'])[:-1]
        )
      ]
      for name in ('source', 'target')
    )
    self._eos_id = int(found['eos_id'])
    self._batch_size, self._batches = batch_size, batches
    base = transformers.GPT2LMHeadModel.from_pretrained(model)
    prompt = base.transformer.wte(torch.arange(PROMPT)).detach().clone()
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
    self._order = np.random.default_rng(0).permutation(len(self._sources))
    self._next = 0

  def warm_up(self):
    self._take(1)
    return {'tokens': 0}

  def train(self):
    began = time.perf_counter()
    tokens = self._take(self._batches)
    return {'seconds': time.perf_counter() - began, 'tokens': tokens}

  def _take(self, batches):
    """Trains on the next batches; returns their real tokens."""
    tokens = 0
    for _ in range(batches):
      chosen = self._order[self._next : self._next + self._batch_size]
      self._next += self._batch_size
      self._step(chosen)
      tokens += self._tokens(chosen)
    return tokens

  def _tokens(self, chosen):
    return sum(len(self._sources[i]) + len(self._targets[i]) for i in chosen)

  def _loss(self, chosen):
    sources = [self._sources[i] for i in chosen]
    targets = [self._targets[i] for i in chosen]
    ids = [a + b for a, b in zip(sources, targets, strict=True)]
    labels = [[-100] * len(a) + b for a, b in zip(sources, targets, strict=True)]
    return self._tuned(
      input_ids=pad(ids, self._eos_id),
      attention_mask=pad([[1] * len(row) for row in ids], 0),
      labels=pad(labels, -100),
    ).loss

  def _step(self, chosen):
    loss = self._loss(chosen)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad()
    return loss

  def _held(self):
    """Returns the rows that are evaluated, batch by batch: the first ones."""
    starts = range(0, HELD_BATCHES * self._batch_size, self._batch_size)
    return [range(start, start + self._batch_size) for start in starts]

  def evaluate(self):
    began = time.perf_counter()
    with torch.no_grad():
      for chosen in self._held():
        self._loss(chosen).item()
    seconds = time.perf_counter() - began
    return {'seconds': seconds, 'tokens': sum(map(self._tokens, self._held()))}

  def losses(self):
    """Takes steps on rows in the file's order; returns the losses before each."""
    size = self._batch_size
    chosen = (range(i * size, (i + 1) * size) for i in range(SAME_STEPS))
    return [self._step(rows).item() for rows in chosen]

  def generate(self):
    began = time.perf_counter()
    for chosen in self._held():
      rows = [self._sources[i] for i in chosen]
      with torch.no_grad():
        self._tuned.generate(
          input_ids=pad(rows, self._eos_id, 'left'),
          attention_mask=pad([[1] * len(row) for row in rows], 0, 'left'),
          max_new_tokens=NEW_TOKENS,
          min_new_tokens=NEW_TOKENS,
          do_sample=False,
          pad_token_id=self._eos_id,
        )
    seconds = time.perf_counter() - began
    tokens = HELD_BATCHES * self._batch_size * NEW_TOKENS
    return {'seconds': seconds, 'tokens': tokens}


def main(model, file, batch_size, batches, _):
  side = Side(model, file, int(batch_size), int(batches))
  turns = ('warm_up', 'train', 'evaluate', 'generate', 'losses')
  worker.answer({turn: getattr(side, turn) for turn in turns})


if __name__ == '__main__':
  main(*sys.argv[1:])
