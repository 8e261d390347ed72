"""The prompted model: soft prompt, token embeddings and frozen weights become logits.

All arms of the comparison are this one model: `none` has a prompt of no tokens, `hard`
the embeddings of its text, `soft` the trained ones.
"""

import jax
import jax.numpy as jnp

from jaxprompt.prompts import placement as placement_lib


def position_ids(attention_mask):
  """Numbers the real tokens of each row from 0; padding repeats a neighbour's number.

  Counting by the mask, not by the column, makes left padding harmless and never
  leaves the position table. Args and returns: [B, T].
  """
  return jnp.maximum(jnp.cumsum(attention_mask, axis=-1) - 1, 0)


def hidden_states(
  lm, params, embeds, attention_mask, prefix=None, contexts=(), outputs=None
):
  """Runs embeddings through the frozen blocks.

  Args:
    lm: `lm.model.LanguageModel`.
    params: its weights.
    embeds: [B, T, H].
    attention_mask: [B, T] bool.
    prefix: [P, H], which stands before every row and is run once for all; or None.
    contexts: each `placement.Context` that stands before these instead, in order, of S
      tokens in all.
    outputs: positions of T whose hidden states are wanted, [B, N]; or None for all.

  Returns:
    Hidden states [B, N, H] or [B, T, H], and the `placement.Context` of all P + T or
    S + T tokens.
  """
  positions, mask = position_ids(attention_mask), attention_mask
  if contexts:
    masks = [jnp.broadcast_to(x, (len(mask), x.shape[1])) for _, x in contexts]
    before = jnp.concatenate(masks, axis=1)  # [B, S]
    mask = jnp.concatenate([before, mask], axis=1)  # [B, S + T]
    positions += jnp.sum(before, axis=1, keepdims=True)
    caches = [context.keys_values for context in contexts]
    cache = jax.tree.map(lambda x: x.astype(embeds.dtype), caches)
    hidden, keys_values = lm.after(params, embeds, positions, mask, cache, outputs)
    return hidden, placement_lib.Context(keys_values, mask)
  if prefix is not None and len(prefix):
    mask = jnp.pad(mask, [(0, 0), (len(prefix), 0)], constant_values=True)  # [B, P + T]
    positions += len(prefix)
    prefix = prefix.astype(embeds.dtype)
  else:
    prefix = None
  hidden, keys_values = lm.sequence(params, embeds, positions, mask, prefix, outputs)
  return hidden, placement_lib.Context(keys_values, mask)


def source_context(lm, params, source_ids, source_mask):
  """Runs sources that stand before a suffix, [B, S]; returns their `placement.Context`.

  It depends on the frozen weights alone: it is not differentiated, and can be kept
  from epoch to epoch.
  """
  return hidden_states(lm, params, lm.embed(params, source_ids), source_mask)[1]


def prompted_source(lm, params, placement, source_ids, source_mask):
  """Runs sources with the prompt around them, as generation begins.

  Args:
    lm, params: see `hidden_states`.
    placement: `placement.Placement`.
    source_ids: [B, T] int32, padded on either side.
    source_mask: [B, T] bool.

  Returns:
    The hidden state of each row's last real token, [B, H], and the
    `placement.Context`.
  """
  embeds = lm.embed(params, source_ids)
  prefix, embeds, mask = placement_lib.around(placement, embeds, source_mask)
  last = _last(mask)
  hidden, context = hidden_states(
    lm,
    params,
    embeds,
    mask,
    prefix=prefix,
    contexts=placement.before,
    outputs=last[:, None],
  )
  if placement.after:
    first = context.mask.shape[1] - mask.shape[1]  # slot of the rows' own tokens
    contexts = placement_lib.before_last(context, placement.after, first + last)
    embeds = jnp.take_along_axis(embeds, last[:, None, None], axis=1)
    real = jnp.any(mask, axis=1, keepdims=True)
    hidden, context = hidden_states(lm, params, embeds, real, contexts=contexts)
  return hidden[:, 0], context


def _last(mask):
  """Returns where each row's last real token is, [B]."""
  return mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1)


def target_hidden(lm, params, placement, batch, context=None):
  """Returns the hidden states that predict the target tokens alone, [B, N, H].

  A target token is predicted by the token before it; the newline after the source
  makes sure that there is one even without a prompt.

  Args:
    lm, params: see `hidden_states`.
    placement: `placement.Placement`, shared or of each row, then of one length; before
      a suffix, the source is apart.
    batch: `batch.Batch`.
    context: that of the batch's source apart; computed here if it is None.
  """
  embeds, mask = lm.embed(params, batch.input_ids), batch.attention_mask
  outputs = batch.target_positions - 1
  if batch.source_ids is None:
    prefix, embeds, mask = placement_lib.around(placement, embeds, mask)
    outputs += embeds.shape[1] - batch.input_ids.shape[1]  # of each row's own prefix
    return hidden_states(
      lm,
      params,
      embeds,
      mask,
      prefix=prefix,
      contexts=placement.before,
      outputs=outputs,
    )[0]
  context = context or source_context(lm, params, batch.source_ids, batch.source_mask)
  if placement.after:
    last = _last(batch.source_mask)
    contexts = placement_lib.before_last(context, placement.after, last)
    ids = jnp.take_along_axis(batch.source_ids, last[:, None], axis=1)
    real = jnp.any(batch.source_mask, axis=1, keepdims=True)
    embeds = jnp.concatenate([lm.embed(params, ids), embeds], axis=1)  # [B, 1 + T, H]
    mask = jnp.concatenate([real, mask], axis=1)
  else:
    contexts = [context]
    embeds, mask = placement_lib.before_targets(placement, embeds, mask)
  outputs += embeds.shape[1] - batch.input_ids.shape[1]
  return hidden_states(lm, params, embeds, mask, contexts=contexts, outputs=outputs)[0]


def target_ids(batch):
  """Returns the token ids at the target positions, [B, N]."""
  return jnp.take_along_axis(batch.input_ids, batch.target_positions, axis=1)


# The head over all targets would be the largest array of the program.
_HEAD_TOKENS = 256  # tokens the head is applied to at once


def token_losses(lm, params, hidden, ids):
  """Returns the negative log-likelihood of each token, in nats.

  The logits of some tokens exist at a time. Their gradient with respect to the hidden
  states is formed with them, so that the backward pass needs no logits.

  Args:
    lm, params: see `hidden_states`.
    hidden: the hidden states before the tokens, [B, N, H].
    ids: the tokens, [B, N].

  Returns:
    [B, N] float32.
  """
  parts = -(-ids.size // _HEAD_TOKENS)
  tokens = -(-ids.size // parts)  # of a part

  def split(x):  # [B, N, ...] -> [parts, tokens, ...]
    x = x.reshape(ids.size, *x.shape[2:])
    x = jnp.pad(x, [(0, parts * tokens - ids.size), *[(0, 0)] * (x.ndim - 1)])
    return x.reshape(parts, tokens, *x.shape[1:])

  split_ids = split(ids)

  @jax.custom_vjp
  def losses(hidden):
    def part(arguments):
      hidden, ids = arguments
      return _cross_entropy(lm.logits(params, hidden), ids)[0]

    return jax.lax.map(part, (hidden, split_ids))

  def forward(hidden):
    def part(arguments):
      hidden, ids = arguments
      logits, pull = jax.vjp(lambda hidden: lm.logits(params, hidden), hidden)
      nats, slopes = _cross_entropy(logits, ids)
      return nats, pull(slopes)[0]

    return jax.lax.map(part, (hidden, split_ids))

  def backward(gradients, cotangents):
    return (gradients * cotangents[..., None].astype(gradients.dtype),)

  losses.defvjp(forward, backward)
  return losses(split(hidden)).reshape(-1)[: ids.size].reshape(ids.shape)


def _cross_entropy(logits, ids):
  """Returns -log softmax(logits) at ids [C], and its gradient by the logits [C, V]."""
  own = jnp.take_along_axis(logits, ids[:, None], axis=-1)  # [C, 1]
  nats = jax.nn.logsumexp(logits, axis=-1, keepdims=True) - own
  # With `own + nats` in it, this reads the logits last, so that XLA can write the
  # gradient over them.
  probabilities = jnp.exp(logits - (own + nats))
  is_own = jnp.arange(logits.shape[-1]) == ids[:, None]
  return nats[:, 0], probabilities - is_own
