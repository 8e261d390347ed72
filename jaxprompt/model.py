"""The prompted model: soft prompt, token embeddings and frozen weights become logits.

All three arms of the comparison are this one model: `none` has a prompt of no rows,
`hard` the embeddings of its text, `soft` the trained matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprompt import prompt


class Context(NamedTuple):
  """A source that has been run, and that prompt and target look back at.

  No prompt stands before it, so it depends on the frozen weights alone: it is not
  differentiated, and can be kept from epoch to epoch.
  """

  keys_values: tuple  # of every block, each [B, heads, S, H / heads]
  mask: jax.Array  # [B, S] bool


def position_ids(attention_mask):
  """Numbers the real tokens of each row from 0; padding repeats a neighbour's number.

  Counting by the mask, not by the column, makes left padding harmless and never
  leaves the position table. Args and returns: [B, T].
  """
  return jnp.maximum(jnp.cumsum(attention_mask, axis=-1) - 1, 0)


def causal_mask(attention_mask):
  """Returns [B, T, T]: query t may look at real key s when s is not after t."""
  length = attention_mask.shape[-1]
  return jnp.tril(jnp.ones((length, length), bool)) & attention_mask[:, None, :]


def context(lm, params, source_ids, source_mask):
  """Runs a source that stands before the prompt, [B, S]; returns its `Context`."""
  no_prompt = jnp.zeros((0, lm.width))
  _, keys_values, mask = hidden_states(lm, params, no_prompt, source_ids, source_mask)
  return Context(keys_values, mask)


def hidden_states(lm, params, soft_prompt, input_ids, attention_mask, before=None):
  """Runs prompt and tokens through the frozen blocks.

  Args:
    lm: `base.LanguageModel`.
    params: its weights.
    soft_prompt: [P, H].
    input_ids: [B, T]; T may be 0.
    attention_mask: [B, T] bool.
    before: `Context` of S tokens that stand before the prompt, or None: then S is 0.

  Returns:
    Hidden states [B, P + T, H]; the keys and values of every block and their mask,
    over all S + P + T tokens.
  """
  embeds = lm.embed(params, input_ids)  # [B, T, H]
  embeds, mask = prompt.prepend(soft_prompt, embeds, attention_mask)  # [B, P + T, H]
  positions, visible = position_ids(mask), causal_mask(mask)
  if before is None:
    return *lm.hidden_states(params, embeds, positions, visible), mask
  batch, source = before.mask.shape
  length = mask.shape[1]
  positions += jnp.sum(before.mask, axis=1, keepdims=True)
  visible_before = jnp.broadcast_to(before.mask[:, None], (batch, length, source))
  visible = jnp.concatenate([visible_before, visible], axis=2)  # [B, P + T, S + P + T]
  room = [(0, 0), (0, 0), (0, length), (0, 0)]
  cache = jax.tree.map(
    lambda x: jnp.pad(x.astype(embeds.dtype), room), before.keys_values
  )
  hidden, keys_values = lm.hidden_states(
    params, embeds, positions, visible, cache, source
  )
  return hidden, keys_values, jnp.concatenate([before.mask, mask], axis=1)


def target_logits(lm, params, soft_prompt, batch, before=None):
  """Returns the logits that predict the target tokens alone, [B, N, V] float32.

  The head over the whole sequence would be the largest array of the program and
  most of it unused. A target token is predicted by the token before it; the newline
  after the source makes sure that there is one even without a prompt.

  Args:
    lm, params, soft_prompt: see `hidden_states`.
    batch: `batch.Batch`.
    before: the `Context` of the batch's source apart; computed here if it is None.
  """
  if before is None and batch.source_ids is not None:
    before = context(lm, params, batch.source_ids, batch.source_mask)
  hidden, _, _ = hidden_states(
    lm, params, soft_prompt, batch.input_ids, batch.attention_mask, before
  )
  predictors = soft_prompt.shape[0] + batch.target_positions - 1  # [B, N]
  at_target = jnp.take_along_axis(hidden, predictors[..., None], axis=1)  # [B, N, H]
  return lm.logits(params, at_target)


def target_ids(batch):
  """Returns the token ids at the target positions, [B, N]."""
  return jnp.take_along_axis(batch.input_ids, batch.target_positions, axis=1)
