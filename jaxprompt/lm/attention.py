"""Causal attention over keys and values that may come from before: for every family."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.lm import choice

# A block of queries looks at the keys up to its own last one, no further: a long row
# skips nearly half of the work. More and smaller blocks cost more than they skip.
_QUERIES_A_BLOCK = 128
# Two of them add up to a finite number: a query that sees no key gets a mean, not NaN.
_HIDDEN = 0.5 * float(jnp.finfo(jnp.float32).min)


def extend(cache, key, value, cache_index):
  """Joins a block's kept keys and values with new ones.

  Args:
    cache: (keys, values) of before, each [B, G, S, D], or [1, G, S, D] if they are the
      same for all rows; or None. If they grow, they may be `choice.Choice`s of those.
    key, value: the new ones, [B, G, T, D].
    cache_index: the first slot of the cache to write them into, or None: they come
      after the cache, which grows.

  Returns:
    (keys, values), [B, G, S, D] or [B, G, S + T, D].
  """
  if cache is None:
    return key, value
  if cache_index is None:
    return tuple(
      choice.apply(_append, new, old)
      for old, new in zip(cache, (key, value), strict=True)
    )
  at = (0, 0, cache_index, 0)
  return tuple(
    jax.lax.dynamic_update_slice(old, new, at)
    for old, new in zip(cache, (key, value), strict=True)
  )


def _append(new, old):
  old = jnp.broadcast_to(old, (len(new), *old.shape[1:]))
  return jnp.concatenate([old, new], axis=2)


def select(x, query, outputs, keys):
  """Keeps the tokens whose output a block is wanted for, and says what they may see.

  Args:
    x: the residual stream, [B, T, H].
    query: [B, heads, T, D].
    outputs: [B, N] int32, positions of T; or None: all.
    keys: S, the number of keys, of which the last T are these tokens'.

  Returns:
    x, query and the `slots` of `attend`.
  """
  if outputs is None:
    return x, query, None
  slots = outputs + keys - x.shape[1]
  x = jnp.take_along_axis(x, outputs[:, :, None], axis=1)  # [B, N, H]
  query = jnp.take_along_axis(query, outputs[:, None, :, None], axis=2)
  return x, query, slots


def attend(query, key, value, mask, slots=None):
  """Softmax attention, its scores and softmax in float32.

  Args:
    query: [B, heads, T, D].
    key, value: [B, G, S, D]; each serves heads / G heads that follow each other.
    mask: [B, S] bool: the keys that hold a real token.
    slots: [B, T] int32: the last key that each query may see; or None: the queries are
      those of the last T keys, and none sees beyond its own. One query sees all that
      the mask shows, wherever its own key was written.

  Returns:
    [B, T, heads * D].
  """
  batch, heads, length, width = query.shape
  groups, keys = key.shape[1:3]
  query = query.reshape(batch, groups, heads // groups, length, width)
  query = query / width**0.5
  real = jnp.where(mask, 0.0, _HIDDEN)[:, None, None, None]  # [B, 1, 1, 1, S]
  if slots is not None:
    later = jnp.arange(keys) > slots[:, None, None, :, None]  # [B, 1, 1, T, S]
    out = _weigh(query, key, value, real + jnp.where(later, _HIDDEN, 0.0))
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
          real[..., :seen] + later,
        )
      )
    out = jnp.concatenate(outs, axis=-2)  # [B, G, heads / G, T, D]
  return (
    out.reshape(batch, heads, length, width)
    .swapaxes(1, 2)
    .reshape(batch, length, heads * width)
  )


def _weigh(query, key, value, bias):
  """Attention of a block of queries; returns [B, G, heads / G, T, D]."""
  scores = jnp.einsum(
    'bghtd,bgsd->bghts', query, key, preferred_element_type=jnp.float32
  )
  weights = jax.nn.softmax(scores + bias, axis=-1).astype(value.dtype)
  return jnp.einsum('bghts,bgsd->bghtd', weights, value)
