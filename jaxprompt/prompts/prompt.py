"""The soft prompt by itself: initialisers that return [P, H], and what it is near to.

Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"
(arXiv:2104.08691), compares the initialisers; text and vocabulary start on the
embedding table's own manifold, where small models train best.
"""

import jax
import jax.numpy as jnp


def from_text(table, length, *, text_ids):
  """Returns the embeddings of a text's tokens, cut or repeated to `length`.

  Args:
    table: embedding table, [V, H].
    length: P, the number of virtual tokens.
    text_ids: the text's token ids, a non-empty sequence.

  Returns:
    [P, H] float32.
  """
  ids = jnp.resize(jnp.asarray(text_ids, jnp.int32), (length,))
  return table[ids].astype(jnp.float32)


def from_vocab(table, length, *, rng):
  """Returns the embeddings of `length` token ids drawn uniformly, [P, H] float32."""
  ids = jax.random.randint(rng, (length,), 0, table.shape[0])
  return table[ids].astype(jnp.float32)


def from_normal(table, length, *, rng):
  """Returns normal noise with the table's own mean and deviation, [P, H] float32.

  The scale matters: unit noise is dozens of times larger than GPT-2's embeddings,
  and training then starts far from anything that the model has seen.
  """
  table = table.astype(jnp.float32)
  noise = jax.random.normal(rng, (length, table.shape[1]), jnp.float32)
  return table.mean(axis=0) + table.std(axis=0) * noise


def nearest_tokens(soft_prompt, table, count):
  """Reads a soft prompt: the vocabulary's embeddings that point the same way.

  Args:
    soft_prompt: [P, H].
    table: embedding table, [V, H].
    count: how many to name, K.

  Returns:
    Token ids [P, K], nearest first; their cosines [P, K]; and each virtual token's norm
    as a multiple of the table's mean norm, [P].
  """
  table = table.astype(jnp.float32)
  table_norms = jnp.linalg.norm(table, axis=1)  # [V]
  norms = jnp.linalg.norm(soft_prompt, axis=1)  # [P]
  floor = jnp.finfo(jnp.float32).tiny  # a row of zeros is near to nothing
  products = jnp.matmul(soft_prompt, table.T, precision='highest')  # [P, V]
  cosines = products / jnp.maximum(norms[:, None] * table_norms, floor)
  cosines, ids = jax.lax.top_k(cosines, count)
  return ids, cosines, relative_norms(soft_prompt, table)


def relative_norms(rows, table):
  """Returns the norms of rows [P, H] as multiples of the table's mean norm, [P]."""
  table_norms = jnp.linalg.norm(table.astype(jnp.float32), axis=1)  # [V]
  return jnp.linalg.norm(rows, axis=1) / jnp.mean(table_norms)
