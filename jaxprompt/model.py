"""The prompted model: soft prompt, token embeddings and frozen weights become logits.

All three arms of the comparison are this one model: `none` has a prompt of no rows,
`hard` the embeddings of its text, `soft` the trained matrix.
"""

import jax.numpy as jnp

from jaxprompt import prompt


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


def hidden_states(lm, params, soft_prompt, input_ids, attention_mask):
  """Runs prompt and tokens through the frozen blocks.

  Args:
    lm: `base.LanguageModel`.
    params: its weights.
    soft_prompt: [P, H].
    input_ids: [B, T].
    attention_mask: [B, T] bool.

  Returns:
    Hidden states [B, P + T, H]; the keys and values of every block; the mask
    [B, P + T] that covers the prompt as well.
  """
  embeds = lm.embed(params, input_ids)  # [B, T, H]
  embeds, mask = prompt.prepend(soft_prompt, embeds, attention_mask)  # [B, P + T, H]
  hidden, keys_values = lm.hidden_states(
    params, embeds, position_ids(mask), causal_mask(mask)
  )
  return hidden, keys_values, mask


def target_logits(lm, params, soft_prompt, batch):
  """Returns the logits that predict the target tokens alone, [B, N, V] float32.

  The head over the whole sequence would be the largest array of the program and
  most of it unused. A target token is predicted by the token before it; the newline
  after the source makes sure that there is one even without a prompt.
  """
  hidden, _, _ = hidden_states(
    lm, params, soft_prompt, batch.input_ids, batch.attention_mask
  )
  before = soft_prompt.shape[0] + batch.target_positions - 1  # [B, N]
  at_target = jnp.take_along_axis(hidden, before[..., None], axis=1)  # [B, N, H]
  return lm.logits(params, at_target)


def target_ids(batch):
  """Returns the token ids at the target positions, [B, N]."""
  return jnp.take_along_axis(batch.input_ids, batch.target_positions, axis=1)
