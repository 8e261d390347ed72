"""What PyTorch computed with the checkpoints in fixtures/, and our model with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from conftest import FIXTURES

from jaxprompt.infer import decode
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import model
from jaxprompt.prompts import placement
from jaxprompt.training import steps


def stored(family):
  """Returns what `tools/make_torch_fixture.py` stored of a family."""
  return np.load(FIXTURES / family / 'torch_outputs.npz')


def rows(expected):
  """Returns the rows that PyTorch ran, all their tokens real."""
  ids = jnp.asarray(expected['input_ids'])
  count, length = ids.shape
  positions = np.arange(expected['source_length'], length)
  return batch_lib.Batch(
    ids,
    jnp.ones(ids.shape, bool),
    jnp.tile(positions, (count, 1)),
    jnp.ones((count, len(positions)), bool),
  )


def computed(lm, params, expected):
  """Returns the figures of `stored` as our model has them."""
  return _computed(
    lm,
    params,
    expected['soft_prompt'],
    rows(expected),
    source=int(expected['source_length']),
    new_tokens=expected['greedy_ids'].shape[1],
  )


@functools.partial(jax.jit, static_argnums=0, static_argnames=('source', 'new_tokens'))
def _computed(lm, params, soft_prompt, batch, *, source, new_tokens):
  """In one program: op by op, dozens would be compiled."""
  ids, real = batch.input_ids, batch.attention_mask
  tree = {'embeddings': soft_prompt}
  (nats, count), gradient = steps.prompt_gradient(lm, params, tree, batch, 1)
  bare, _ = model.hidden_states(lm, params, lm.embed(params, ids), real)
  placed = placement.place(soft_prompt, 'prefix')
  options = decode.Options(new_tokens, end_ids=(-1,))
  return {
    'loss': nats / count,
    'prompt_gradient': gradient['embeddings'] / count,
    'bare_logits': lm.logits(params, bare),
    'greedy_ids': decode.generate(
      lm, params, placed, ids[:, :source], real[:, :source], options
    ),
  }
