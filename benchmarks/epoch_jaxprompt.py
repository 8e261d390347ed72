"""One side of epoch.py: jaxprompt's buckets, train step, contexts and generation."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import worker

from jaxprompt import contexts
from jaxprompt import data
from jaxprompt import decode
from jaxprompt import devices
from jaxprompt import optim
from jaxprompt import steps
from jaxprompt.lm import loading

PROMPT, NEW_TOKENS, GENERATED_BATCHES = 20, 32, 2


def read_rows(file):
  """Returns the rows of epoch.py's file, and the id of the end of text."""
  found = np.load(file)
  parts = [
    np.split(found[f'{name}_ids'], np.cumsum(found[f'{name}_lengths'])[:-1])
    for name in ('source', 'target')
  ]
  rows = [data.Row('', '', '', (), *ids) for ids in zip(*parts, strict=True)]
  return rows, int(found['eos_id'])


class Side:
  """The compiled programs, and how far training is."""

  def __init__(self, model, file, batch_size, batches, position):
    self._rows, self._eos_id = read_rows(file)
    self._batch_size, self._batches, self._position = batch_size, batches, position
    self._layout = devices.layout('jit', -1, 1)
    lm, params, _ = loading.load(model, 'float32')
    self._params = self._layout.place_params(lm, params)
    tx = optim.prompt_only(0.01, clip_norm=1.0)
    soft_prompt = lm.embed(params, jnp.arange(PROMPT))

    def step(state, params, rows):
      return steps.train_step(lm, tx, 1, state, params, *rows, axis_name=devices.DATA)

    def generate(params, soft_prompt, rows):
      return decode.generate(
        lm,
        params,
        soft_prompt,
        *rows,
        position=position,
        max_new_tokens=NEW_TOKENS,
        beams=1,
        eos_id=-1,  # never: both sides generate as many tokens
        axis_name=devices.DATA,
      )

    self._step = self._layout.spread(step, donate_argnums=0)
    self._generate = self._layout.gather(generate)
    state = jax.device_get(steps.init_state(soft_prompt, params, tx))
    self._state = self._layout.replicate(state)
    capacity = contexts.capacity(-1)
    self._contexts = contexts.Contexts(
      lm, self._params, self._layout, dtype='float32', capacity=capacity
    )

    lengths, targets = data.bucket_lengths(self._rows, position)
    self._shapes = data.shapes(lengths, targets, batch_size)
    suffix = position == 'suffix'
    self._plan = data.epoch_plan(
      lengths, self._shapes, batch_size, seed=0, epoch=1, together=suffix
    )
    self._next = 0

  def _load(self, indices, shape):
    """Returns a batch and its context as `train.Trainer` does."""
    rows = [self._rows[i] for i in indices]
    batch = data.collate(rows, shape, self._batch_size, self._eos_id, self._position)
    context = None
    if self._position == 'suffix':
      context = self._contexts.get(indices[0], batch.source_ids, batch.source_mask)
    return self._layout.place_rows(batch), context

  def _take(self, batches):
    for indices, shape in batches:
      rows = self._load(indices, shape)
      self._state, scalars = self._step(self._state, self._params, rows)
    jax.block_until_ready(scalars)

  def warm_up(self):
    """Compiles the step of every shape."""
    self._take({shape: (indices, shape) for indices, shape in self._plan}.values())
    return {'tokens': 0}

  def train(self):
    batches = self._plan[self._next : self._next + self._batches]
    self._next += self._batches
    if self._position == 'suffix':
      for indices, shape in batches:  # as the first epoch has done
        jax.block_until_ready(self._load(indices, shape))
    began = time.perf_counter()
    self._take(batches)
    seconds = time.perf_counter() - began
    tokens = sum(self._rows[i].length for indices, _ in batches for i in indices)
    return {'seconds': seconds, 'tokens': tokens}

  def generate(self):
    """Generates for the first batches, in their order, as evaluation does."""
    rows = self._rows[: GENERATED_BATCHES * self._batch_size]
    sources = [row.source_ids for row in rows]
    lengths = [len(ids) for ids in sources]
    shapes = data.shapes(lengths, lengths, self._batch_size)
    soft_prompt = np.asarray(self._state.soft_prompt)
    began = time.perf_counter()
    for indices, (length, _) in data.plan(lengths, shapes, self._batch_size):
      chosen = [sources[i] for i in indices]
      padded = data.pad(chosen, length, self._batch_size, self._eos_id)
      rows = self._layout.place_rows(padded)
      jax.block_until_ready(self._generate(self._params, soft_prompt, rows))
    seconds = time.perf_counter() - began
    return {'seconds': seconds, 'tokens': NEW_TOKENS * len(sources)}


def main(model, file, batch_size, batches, position):
  side = Side(model, file, int(batch_size), int(batches), position)
  turns = ('warm_up', 'train', 'generate')
  worker.answer({turn: getattr(side, turn) for turn in turns})


if __name__ == '__main__':
  main(*sys.argv[1:])
