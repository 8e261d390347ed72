"""One side of versus_peft.py: jaxprompt's buckets, step, contexts and generation."""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import operations
import worker

from jaxprompt.data import buckets
from jaxprompt.data import collate
from jaxprompt.data import contexts
from jaxprompt.data import loader
from jaxprompt.data import rows as rows_lib
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.lm import loading
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import kinds
from jaxprompt.training import optim
from jaxprompt.training import steps

PROMPT, NEW_TOKENS, SAME_STEPS = 20, 32, 20


def read_rows(file, split):
  """Returns the rows of a split in versus_peft.py's file."""
  found = np.load(file)
  parts = [
    np.split(found[f'{name}_ids'], np.cumsum(found[f'{name}_lengths'])[:-1])
    for name in (f'{split}_source', f'{split}_target')
  ]
  return rows_lib.table(*parts)


class Side:
  """The compiled programs, and how far training is."""

  def __init__(self, model, file, batch_size, batches, position, kind):
    self._rows, self._held = read_rows(file, 'train'), read_rows(file, 'test')
    self._eos_id = int(np.load(file)['eos_id'])
    self._batch_size, self._batches, self._position = batch_size, batches, position
    self._layout = devices.layout('jit', -1, 1)
    lm, params, *_ = loading.load(model, 'float32')
    lm = lm.on(self._layout.platform, 'highest')
    self._lm, self._params = lm, self._layout.place_params(lm, params)
    tx = optim.prompt_only(0.01, clip_norm=1.0)
    embeddings = lm.embed(params, jnp.arange(PROMPT))
    prompt = kinds.KINDS[kind](lm, params, embeddings, jax.random.key(0))

    taking = steps.Options(1, devices.DATA, self._layout.tokens_at_a_time)

    def step(state, params, rows):
      return steps.train_step(lm, tx, taking, state, params, *rows)

    # No end of text: both sides generate as many tokens.
    options = decode.Options(NEW_TOKENS, end_ids=(-1,), axis_name=devices.DATA)

    def generate(params, prompt, rows):
      placed = kinds.place(prompt, position)
      return decode.generate(lm, params, placed, *rows, options)

    def losses(params, prompt, rows):
      placed = kinds.place(prompt, position)
      return steps.row_losses(lm, params, placed, *rows)

    self._step = self._layout.spread(step, donate_argnums=0)
    self._losses = self._layout.gather(losses)
    self._generate = self._layout.gather(generate)
    state = jax.device_get(steps.init_state(prompt, params, tx))
    self._state = self._layout.replicate(state)
    self._contexts = contexts.Contexts(
      lm,
      self._params,
      self._layout,
      dtype='float32',
      capacity=contexts.capacity(-1),
    )
    self._loader = self._load_rows(self._rows, self._contexts)
    self._plan = self._loader.epoch(0, 1)
    self._next = 0
    self._turns = {'evaluate': 0, 'generate': 0}

  def _load_rows(self, rows, kept=None):
    return loader.Loader(
      rows,
      self._layout,
      batch_size=self._batch_size,
      pad_id=self._eos_id,
      apart=self._position == 'suffix',
      contexts=kept,
    )

  def _take(self, batches):
    for indices, shape in batches:
      rows = self._loader.load(indices, shape)
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
        jax.block_until_ready(self._loader.load(indices, shape))
    began = time.perf_counter()
    self._take(batches)
    seconds = time.perf_counter() - began
    tokens = sum(self._rows[i].length for indices, _ in batches for i in indices)
    return {'seconds': seconds, 'tokens': tokens}

  def kept(self):
    """Returns the GB of `peak` that are sources before a suffix prompt."""
    return 0 if self._on_device() else self._contexts.kept_bytes / 1e9

  def peak(self):
    """Returns the peak memory of the device so far, of a CPU the process's, in GB."""
    found = self._on_device()
    return found['peak_bytes_in_use'] / 1e9 if found else worker.peak()

  def _on_device(self):
    return jax.local_devices()[0].memory_stats()  # None of a CPU

  def _turn(self, kind, batches):
    """Returns the (row indices, shape) of a turn: at first, one of every shape."""
    turn = self._turns[kind]
    self._turns[kind] += 1
    if turn == 0:
      return {shape: (indices, shape) for indices, shape in batches}.values()
    return worker.sample(batches, turn)

  def evaluate(self):
    held = self._load_rows(self._held)
    prompt = jax.device_get(self._state.prompt)
    tokens, began = 0, time.perf_counter()
    for indices, shape in self._turn('evaluate', held.in_order()):
      placed = held.load(indices, shape)
      jax.device_get(self._losses(self._params, prompt, placed))
      tokens += sum(self._held[i].length for i in indices)
    return {'seconds': time.perf_counter() - began, 'tokens': tokens}

  def losses(self):
    """Takes steps on rows in the file's order; returns the losses before each."""
    same = self._load_rows(self._rows)
    found = []
    for i in range(SAME_STEPS):
      indices = range(i * self._batch_size, (i + 1) * self._batch_size)
      batch = same.load(indices, same.shapes[-1])
      self._state, scalars = self._step(self._state, self._params, batch)
      found.append(float(scalars['loss']))
    return found

  def operations(self):
    """Counts the step's operations on two full rows, and times them.

    More are cut into parts, which are a loop, and XLA counts a loop's body once.

    Returns:
      Floating-point operations `compiled` and `least`, and how many a second, of the
      step and of a matrix product of a block's shapes.
    """
    rows, tokens, targets = 2, 256, 32
    ids = np.zeros((rows, tokens), np.int32)
    positions = np.arange(tokens - targets, tokens, dtype=np.int32)
    batch = batch_lib.Batch(
      input_ids=ids,
      attention_mask=np.ones(ids.shape, bool),
      target_positions=np.tile(positions, (rows, 1)),
      loss_mask=np.ones((rows, targets), bool),
    )
    arguments = self._params, self._layout.place_rows((batch, None))
    compiled = self._step.lower(self._state, *arguments).compile()
    flops = compiled.cost_analysis()['flops']

    def take_step():
      self._state, scalars = compiled(self._state, *arguments)
      return scalars

    left = jnp.ones((rows * tokens, self._lm.spec.width))
    right = jnp.ones((self._lm.spec.width, 4 * self._lm.spec.width))
    product = jax.jit(functools.partial(jnp.matmul, precision='highest'))
    product_flops = 2 * left.size * right.shape[1]
    return {
      'compiled': flops,
      'least': operations.least(self._lm, rows, tokens, targets, PROMPT),
      'step_flops': flops / _seconds(take_step, 3),
      'product_flops': product_flops / _seconds(lambda: product(left, right), 20),
    }

  def generate(self):
    sizes = [(len(row.source_ids), 0) for row in self._held]
    shapes = buckets.shapes(sizes, self._batch_size, self._layout.batches_per_shape)
    batches = self._turn('generate', buckets.plan(sizes, shapes, self._batch_size))
    prompt = jax.device_get(self._state.prompt)
    tokens, began = 0, time.perf_counter()
    for indices, (length, _) in batches:
      chosen = [self._held[i].source_ids for i in indices]
      padded = collate.pad(chosen, length, self._batch_size, self._eos_id)
      rows = self._layout.place_rows(padded)
      jax.block_until_ready(self._generate(self._params, prompt, rows))
      tokens += NEW_TOKENS * len(chosen)
    return {'seconds': time.perf_counter() - began, 'tokens': tokens}


def _seconds(call, times):
  """Returns the median time of a call, after one that is not counted."""
  jax.block_until_ready(call())
  found = []
  for _ in range(times):
    began = time.perf_counter()
    jax.block_until_ready(call())
    found.append(time.perf_counter() - began)
  return statistics.median(found)


def main(model, file, batch_size, batches, position, kind='embedding'):
  side = Side(model, file, int(batch_size), int(batches), position, kind)
  turns = (
    *('warm_up', 'train', 'peak', 'kept', 'evaluate', 'generate', 'losses'),
    'operations',
  )
  worker.answer({turn: getattr(side, turn) for turn in turns})


if __name__ == '__main__':
  main(*sys.argv[1:])
