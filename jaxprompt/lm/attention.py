"""Causal attention, over the keys and values of the same row or kept ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A block of queries looks at the keys up to its own last one, no further: a long row
# skips nearly half of the work. More and smaller blocks cost more than they skip.
_QUERIES_A_BLOCK = 128
# Two of them add up to a finite number: a query that sees no key gets a mean, not NaN.
_HIDDEN = 0.5 * float(jnp.finfo(jnp.float32).min)


class Rule(NamedTuple):
  """How a block's tokens look at each other."""

  divisor: float  # of the scores
  cap: float | None = None  # scores become cap * tanh(score / cap)
  window: int | None = None  # real tokens that one sees, its own the last; None = all


def append(cache, key, value):
  """Puts a block's new keys and values after those that it kept.

  Args:
    cache: (keys, values), each [B, G, S, D], or [1, G, S, D] if they are the same for
      all rows.
    key, value: the new ones, [B, G, T, D].

  Returns:
    (keys, values), each [B, G, S + T, D].
  """

  def join(old, new):
    old = jnp.broadcast_to(old, (len(new), *old.shape[1:]))
    return jnp.concatenate([old, new], axis=2)

  return tuple(map(join, cache, (key, value)))


def write(slot, cache, key, value):
  """Writes new keys and values [B, G, 1, D] over a slot of the cache [B, G, S, D]."""

  def update(old, new):
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=2)

  return tuple(map(update, cache, (key, value)))


def mix(streams, mask, cache, outputs, extend, rule):
  """Attends within each stream, and from the rows to a prompt that stands before them.

  Args:
    streams: query [b, heads, t, D], key and value [b, G, t, D] of each: of a prompt
      that all rows share (b is 1), if there is one, and of the B rows.
    mask: [B, S] bool: the keys that the rows may see, prompt and cache included.
    cache: keys and values of before, or None.
    outputs: [B, N], the tokens of the rows that are wanted; None = all of all streams.
    extend: `append` or a `write`: how the cache and the rows' keys become one.
    rule: `Rule`.

  Returns:
    What the wanted tokens attended to, [M, heads * D], stream after stream; the rows'
    keys and values, (each [B, G, S, D]).
  """
  *prompt, (query, key, value) = streams
  if prompt:
    ((prompt_query, *cache),) = prompt
  keys_values = extend(cache, key, value) if cache else (key, value)
  if outputs is not None:
    first = keys_values[0].shape[2] - query.shape[2]  # slot of the rows' first token
    query = jnp.take_along_axis(query, outputs[:, None, :, None], axis=2)
    attended = [attend(query, *keys_values, mask, rule, outputs + first)]
  else:
    attended = [attend(query, *keys_values, mask, rule)]
    if prompt:
      all_real = jnp.ones((1, prompt_query.shape[2]), bool)
      attended.insert(0, attend(prompt_query, *cache, all_real, rule))
  return jnp.concatenate([a.reshape(-1, a.shape[-1]) for a in attended]), keys_values


def attend(query, key, value, mask, rule, slots=None):
  """Softmax attention, its scores and softmax in float32.

  Args:
    query: [B, heads, T, D].
    key, value: [B, G, S, D]; each serves heads / G heads that follow each other.
    mask: [B, S] bool: the keys that hold a real token.
    rule: `Rule`.
    slots: [B, T] int32: the last key that each query may see; or None: the queries are
      those of the last T keys, and none sees beyond its own. One query sees all that
      the mask shows, wherever its own key was written.

  Returns:
    [B, T, heads * D].
  """
  batch, heads, length, width = query.shape
  groups, keys = key.shape[1:3]
  query = query.reshape(batch, groups, heads // groups, length, width)
  query = query / rule.divisor
  if slots is not None:
    later = jnp.arange(keys) > slots[:, None, None, :, None]  # [B, 1, 1, T, S]
    bias = _real(mask, slots, rule.window) + jnp.where(later, _HIDDEN, 0.0)
    out = _weigh(query, key, value, bias, rule.cap)
  else:
    blocks = max(1, round(length / _QUERIES_A_BLOCK))
    outs = []
    for rows in np.array_split(np.arange(length), blocks):
      own = rows + keys - length  # the slots of these queries
      seen = own[-1] + 1
      later = np.where(np.arange(seen) > own[:, None], np.float32(_HIDDEN), 0)
      outs.append(
        _weigh(
          query[..., rows[0] : rows[-1] + 1, :],
          key[:, :, :seen],
          value[:, :, :seen],
          _real(mask, own[None], rule.window)[..., :seen] + later,
          rule.cap,
        )
      )
    out = jnp.concatenate(outs, axis=-2)  # [B, G, heads / G, T, D]
  return (
    out.reshape(batch, heads, length, width)
    .swapaxes(1, 2)
    .reshape(batch, length, heads * width)
  )


def _real(mask, slots, window):
  """Returns the bias that hides padding, and what is before the window.

  Args:
    mask: [B, S] bool.
    slots: of the queries, [B, T] or [1, T].
    window: real tokens that a query sees, or None.

  Returns:
    [B, 1, 1, T or 1, S] float32.
  """
  seen = mask[:, None]  # [B, 1, S]
  if window is not None and window < mask.shape[1]:
    count = jnp.cumsum(mask, axis=1)  # of real tokens, up to each
    slots = jnp.broadcast_to(slots, (len(mask), slots.shape[1]))
    own = jnp.take_along_axis(count, slots, axis=1)  # [B, T]
    seen = seen & (count[:, None] > own[:, :, None] - window)
  return jnp.where(seen, 0.0, _HIDDEN)[:, None, None]


def _weigh(query, key, value, bias, cap):
  """Attention of a block of queries; returns [B, G, heads / G, T, D]."""
  scores = jnp.einsum(
    'bghtd,bgsd->bghts', query, key, preferred_element_type=jnp.float32
  )
  if cap is not None:
    scores = cap * jnp.tanh(scores / cap)
  weights = jax.nn.softmax(scores + bias, axis=-1).astype(value.dtype)
  return jnp.einsum('bghts,bgsd->bghtd', weights, value)
