"""Causal attention, over the keys and values of the same row or kept ones."""

import functools
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
  precision: jax.lax.Precision | None = None  # of the products


def append(cache, key, value):
  """Puts a block's new keys and values after those that it kept.

  Args:
    cache: parts of S tokens in all, each (keys, values) [B, G, s, D], or [1, G, s, D]
      if they are the same for all rows.
    key, value: the new ones, [B, G, T, D].

  Returns:
    The parts of all S + T tokens.
  """
  return [*cache, (key, value)]


def write(slot, cache, key, value):
  """Writes new keys and values [B, G, 1, D] over a slot of the cache's one part."""

  def update(old, new):
    return jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=2)

  (part,) = cache
  return [tuple(map(update, part, (key, value)))]


def _joined(parts):
  """Returns (keys, values) of all parts, each [B, G, S, D]."""
  if len(parts) == 1:
    return parts[0]
  rows = len(parts[-1][0])

  def join(*arrays):
    return jnp.concatenate([_repeated(x, rows) for x in arrays], axis=2)

  return jax.tree.map(join, *parts)


def _repeated(x, rows):
  """Gives every row [1, G, s, D], or returns each row's own [B, G, s, D].

  In float32, for the backward pass: it sums the gradient of what rows share over them.
  """
  if len(x) == rows:
    return x
  wide = x.astype(jnp.float32)
  return jnp.broadcast_to(wide, (rows, *x.shape[1:])).astype(x.dtype)


def mix(streams, mask, cache, outputs, extend, rule):
  """Attends within each stream, and from the rows to a prompt that stands before them.

  Args:
    streams: query [b, heads, t, D], key and value [b, G, t, D] of each: of a prompt
      that all rows share (b is 1), if there is one, and of the B rows.
    mask: [B, S] bool: the keys that the rows may see, prompt and cache included.
    cache: parts of before, see `append`.
    outputs: [B, N], the tokens of the rows that are wanted; None = all of all streams.
    extend: `append` or a `write`: how the cache and the rows' keys become one.
    rule: `Rule`.

  Returns:
    What the wanted tokens attended to, [M, heads * D], stream after stream; the rows'
    keys and values, (each [B, G, S, D]).
  """
  *prompt, (query, key, value) = streams
  if prompt:
    ((prompt_query, *own),) = prompt
    cache = [tuple(own)]
  parts = extend(cache, key, value)
  keys_values = _joined(parts)
  if outputs is not None:
    first = keys_values[0].shape[2] - query.shape[2]  # slot of the rows' first token
    query = jnp.take_along_axis(query, outputs[:, None, :, None], axis=2)
    attended = [attend(query, parts, mask, rule, outputs + first)]
  else:
    attended = [attend(query, parts, mask, rule)]
    if prompt:
      all_real = jnp.ones((1, prompt_query.shape[2]), bool)
      attended.insert(0, attend(prompt_query, cache, all_real, rule))
  return jnp.concatenate([a.reshape(-1, a.shape[-1]) for a in attended]), keys_values


def attend(query, parts, mask, rule, slots=None):
  """Softmax attention, its scores and softmax in float32.

  Args:
    query: [B, heads, T, D].
    parts: of S tokens in all, each (keys, values) [B, G, s, D], the last one with those
      of the queries; each head of G serves heads / G that follow each other.
    mask: [B, S] bool: the keys that hold a real token.
    rule: `Rule`.
    slots: [B, T] int32: the last key that each query may see; or None: the queries are
      those of the last T keys, and none sees beyond its own. One query sees all that
      the mask shows, wherever its own key was written.

  Returns:
    [B, T, heads * D].
  """
  batch, heads, length, width = query.shape
  groups, new = parts[-1][0].shape[1:3]
  keys = sum(x.shape[2] for x, _ in parts)
  # To join the parts is to copy keys and values; to keep them apart, the scores, in a
  # longer program, for which few keys before the queries' own are not worth it.
  if keys < 2 * new or heads * length > 2 * groups * width:
    parts = [_joined(parts)]
  *before, (key, value) = parts
  first = keys - key.shape[2]
  query = query.reshape(batch, groups, heads // groups, length, width)
  query = query / rule.divisor
  if slots is not None:
    later = jnp.arange(keys) > slots[:, None, None, :, None]  # [B, 1, 1, T, S]
    bias = _real(mask, slots, rule.window) + jnp.where(later, _HIDDEN, 0.0)
    out = _weigh(query, parts, bias, rule)
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
          [*before, (key[:, :, : seen - first], value[:, :, : seen - first])],
          _real(mask, own[None], rule.window)[..., :seen] + later,
          rule,
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


def _weigh(query, parts, bias, rule):
  """Attention of a block of queries; returns [B, G, heads / G, T, D]."""

  def rows(x):  # those of a part that is the same for all rows have no axis B
    return (x[0], 'gsd') if len(x) < len(query) else (x, 'bgsd')

  einsum = functools.partial(jnp.einsum, precision=rule.precision)
  scores = []
  for key, _ in parts:
    key, axes = rows(key)
    product = f'bghtd,{axes}->bghts'
    scores.append(einsum(product, query, key, preferred_element_type=jnp.float32))
  scores = jnp.concatenate(scores, axis=-1)
  if rule.cap is not None:
    scores = rule.cap * jnp.tanh(scores / rule.cap)
  weights = jax.nn.softmax(scores + bias, axis=-1).astype(query.dtype)
  ends = np.cumsum([value.shape[2] for _, value in parts])[:-1]
  out = 0
  for own, (_, value) in zip(jnp.split(weights, ends, axis=-1), parts, strict=True):
    value, axes = rows(value)
    out += einsum(f'bghts,{axes}->bghtd', own, value)
  return out
