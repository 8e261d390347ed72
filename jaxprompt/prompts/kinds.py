"""Kinds of prompt: how each begins, and what of it stands with the rows.

A prompt is a dict of arrays, whose names say what it is:

  `embeddings` [P, H]: virtual tokens (Lester et al. 2021, arXiv:2104.08691).
  `keys_values` [blocks, 2, G, P, D]: those of virtual tokens in every block, of which
    nothing is run (Li and Liang 2021, arXiv:2101.00190). Keys are as the cache has
    them: rotated for positions 0 to P - 1, wherever the prompt stands.
  `mlp`: beside `embeddings`, a network of them while they are trained.
"""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.prompts import model
from jaxprompt.prompts import placement


def _embedding(lm, params, embeddings, rng):
  del lm, params, rng
  return {'embeddings': embeddings}


def _deep(lm, params, embeddings, rng):
  """Returns the virtual tokens' keys and values: the same prompt, to begin with."""
  del rng
  mask = jnp.ones((1, len(embeddings)), bool)
  tokens = embeddings[None].astype(lm.dtype)
  _, context = model.hidden_states(lm, params, tokens, mask)
  found = jnp.stack([jnp.stack(both) for both in context.keys_values])
  return {'keys_values': found[:, :, 0].astype(jnp.float32)}


def _residual(lm, params, embeddings, rng):
  """Adds the network of Razdaibiedina et al. 2023 (arXiv:2305.03937), half as wide.

  The scale of its norm begins at 0, not at 1: so the prompt begins at `embeddings`.
  """
  del lm, params
  width = embeddings.shape[1]
  down, up = jax.random.split(rng)
  inner = max(1, width // 2)
  mlp = {
    'down': jax.random.normal(down, (width, inner)) * width**-0.5,
    'up': jax.random.normal(up, (inner, width)) * inner**-0.5,
    'scale': jnp.zeros(width),
    'bias': jnp.zeros(width),
  }
  return {'embeddings': embeddings, 'mlp': mlp}


# From (lm, params, embeddings [P, H] float32, rng) to the arrays that are trained.
KINDS = {'embedding': _embedding, 'deep': _deep, 'residual': _residual}


def fold(prompt):
  """Returns the arrays that the model sees; what trains beside them is applied."""
  if 'mlp' not in prompt:
    return prompt
  embeddings, mlp = prompt['embeddings'], prompt['mlp']
  product = functools.partial(jnp.matmul, precision='highest')  # in float32 everywhere
  x = product(jax.nn.relu(product(embeddings, mlp['down'])), mlp['up'])  # [P, H]
  x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
  return {'embeddings': embeddings + x * mlp['scale'] + mlp['bias']}


def length(prompt):
  """Returns P, the number of virtual tokens."""
  array = prompt['embeddings'] if 'embeddings' in prompt else prompt['keys_values']
  return array.shape[-2]


def run_length(prompt):
  """Returns how many virtual tokens run through the model: P, or 0 of kept ones."""
  return len(prompt['embeddings']) if 'embeddings' in prompt else 0


def digest(prompt):
  """Returns a hash of the arrays."""
  content = b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(prompt))
  return hashlib.sha256(content).hexdigest()


def place(prompt, position):
  """Returns the `placement.Placement` of a prompt for all rows."""
  prompt = fold(prompt)
  if 'keys_values' in prompt:
    return placement.place_cache(prompt['keys_values'], position)
  return placement.place(prompt['embeddings'], position)
