"""The soft prompt: initialisers that return [P, H], and how it joins the embeddings.

Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"
(arXiv:2104.08691), compares the initialisers; text and vocabulary start on the
embedding table's own manifold, where small models train best.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

POSITIONS = ('prefix', 'suffix')  # in front of the source, or between it and the target


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


def prepend(soft_prompt, embeds, attention_mask):
  """Puts the soft prompt in front of every row.

  Args:
    soft_prompt: [P, H]; P may be 0.
    embeds: token embeddings, [B, T, H].
    attention_mask: [B, T] bool.

  Returns:
    Embeddings [B, P + T, H] in the dtype of `embeds`, mask [B, P + T] bool.
  """
  batch, _, width = embeds.shape
  length = soft_prompt.shape[0]
  prompt = jnp.broadcast_to(soft_prompt.astype(embeds.dtype), (batch, length, width))
  prompt_mask = jnp.ones((batch, length), bool)
  return (
    jnp.concatenate([prompt, embeds], axis=1),  # [B, P + T, H]
    jnp.concatenate([prompt_mask, attention_mask], axis=1),  # [B, P + T]
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frames:
  """K prompts as what stands around a source, padded to one shape.

  P virtual tokens at most stand before it, Q after it; a prompt has one or the other.
  """

  before: jax.Array  # [K, P, H] float32
  before_mask: jax.Array  # [K, P] bool: True at the prompt's own tokens
  after: jax.Array  # [K, Q, H] float32
  after_mask: jax.Array  # [K, Q] bool


def frames(prompts):
  """Returns the `Frames` of (soft_prompt [P, H], 'prefix' or 'suffix') pairs."""
  sides = []
  for side in ('prefix', 'suffix'):
    lengths = [len(x) if position == side else 0 for x, position in prompts]
    stacked = np.zeros((len(prompts), max(lengths), prompts[0][0].shape[1]), np.float32)
    for row, length, (soft_prompt, _) in zip(stacked, lengths, prompts, strict=True):
      row[:length] = soft_prompt[:length]
    sides += [stacked, np.arange(max(lengths)) < np.asarray(lengths)[:, None]]
  return Frames(*sides)


def surround(frames, embeds, attention_mask):
  """Puts each row's own prompt around it.

  Args:
    frames: `Frames` of B prompts, one a row.
    embeds: [B, T, H].
    attention_mask: [B, T] bool.

  Returns:
    Embeddings [B, P + T + Q, H] in the dtype of `embeds`, and their mask.
  """
  parts = [
    frames.before.astype(embeds.dtype),
    embeds,
    frames.after.astype(embeds.dtype),
  ]
  masks = [frames.before_mask, attention_mask, frames.after_mask]
  return jnp.concatenate(parts, axis=1), jnp.concatenate(masks, axis=1)


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
  cosines = (soft_prompt @ table.T) / jnp.maximum(
    norms[:, None] * table_norms, floor
  )  # [P, V]
  cosines, ids = jax.lax.top_k(cosines, count)
  return ids, cosines, relative_norms(soft_prompt, table)


def relative_norms(rows, table):
  """Returns the norms of rows [P, H] as multiples of the table's mean norm, [P]."""
  table_norms = jnp.linalg.norm(table.astype(jnp.float32), axis=1)  # [V]
  return jnp.linalg.norm(rows, axis=1) / jnp.mean(table_norms)
