"""Where a prompt stands: what comes before and after every row's source.

A row has, in this order: keys and values (`before`), virtual tokens (`prefix`), the
source, virtual tokens (`suffix`), keys and values (`after`), the target. Position ids
count through all of them. A begin-of-text token is the source's first one.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

POSITIONS = ('prefix', 'suffix')  # in front of the source, or between it and the target


class Context(NamedTuple):
  """The KV cache of S tokens, and its mask; of all rows alike, B is 1."""

  keys_values: tuple  # (keys, values) of every block, each [B, G, S, D]
  mask: jax.Array  # [B, S] bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placement:
  """What stands around the sources: the same for all rows, or each row's own.

  Virtual tokens for all rows are [P, H] and [Q, H], all real, with no masks. Each row's
  own are [B, P, H] and [B, Q, H], padded, and the masks are True at its real ones. P or
  Q may be 0. What no row has is None.
  """

  prefix: jax.Array | None = None  # before the source
  suffix: jax.Array | None = None  # after it
  prefix_mask: jax.Array | None = None  # [B, P] bool
  suffix_mask: jax.Array | None = None  # [B, Q] bool
  before: tuple[Context, ...] = ()  # before the source; nothing of them is run
  after: tuple[Context, ...] = ()  # before the source's last token, see `before_last`

  @property
  def splits_rows(self):
    """Whether the prompt stands between source and target, which are padded apart."""
    return self.suffix is not None or bool(self.after)


def place(soft_prompt, position):
  """Returns the `Placement` of virtual tokens for all rows.

  Args:
    soft_prompt: [P, H]; P may be 0.
    position: one of `POSITIONS`.
  """
  return Placement(**{position: soft_prompt})


def place_cache(keys_values, position):
  """Returns the `Placement` of keys and values for all rows.

  Args:
    keys_values: [blocks, 2, G, P, D]: of every block, keys and values.
    position: one of `POSITIONS`.
  """
  mask = np.ones((1, keys_values.shape[-2]), bool)
  cache = tuple((block[0][None], block[1][None]) for block in keys_values)
  where = {'prefix': 'before', 'suffix': 'after'}[position]
  return Placement(**{where: (Context(cache, mask),)})


def stack(placements):
  """Pads K placements to one with arrays [K, ...], of which each row takes its own."""

  def tokens(name):
    arrays = [getattr(each, name) for each in placements]
    return _padded([None if x is None else x[None] for x in arrays])

  def contexts(name):
    found = [getattr(each, name) for each in placements]
    if not any(found):
      return ()
    structure = jax.tree.structure(next(own for own in found if own)[0].keys_values)
    none = [None] * structure.num_leaves
    caches = [jax.tree.leaves(own[0].keys_values) if own else none for own in found]
    stacked = [_padded(arrays) for arrays in zip(*caches, strict=True)]
    keys_values = jax.tree.unflatten(structure, [array for array, _ in stacked])
    return (Context(keys_values, stacked[0][1]),)

  (prefix, prefix_mask), (suffix, suffix_mask) = tokens('prefix'), tokens('suffix')
  before, after = contexts('before'), contexts('after')
  return Placement(prefix, suffix, prefix_mask, suffix_mask, before, after)


def for_rows(stacked, batch):
  """Gives every row of a batch all K stacked placements, [B * K, ...]."""
  return jax.tree.map(lambda x: jnp.tile(x, (batch, *[1] * (x.ndim - 1))), stacked)


def _padded(arrays):
  """Pads K arrays [1, ..., P, X] to the longest P; where there is None, P is 0.

  Returns:
    [K, ..., P, X] float32 and the mask [K, P]; or None twice, if there is no array.
  """
  found = [x for x in arrays if x is not None]
  if not found:
    return None, None
  lengths = np.asarray([0 if x is None else x.shape[-2] for x in arrays])
  *outer, _, inner = found[0].shape[1:]
  padded = np.zeros((len(arrays), *outer, max(lengths), inner), np.float32)
  for row, array, length in zip(padded, arrays, lengths, strict=True):
    if length:
      row[..., :length, :] = array[0]
  return padded, np.arange(max(lengths)) < lengths[:, None]


def around(placement, embeds, mask):
  """Puts virtual tokens around the rows' sources.

  Args:
    placement: `Placement`.
    embeds: [B, T, H].
    mask: [B, T] bool.

  Returns:
    The prefix that all rows share and that is run once for them, [P, H], or None; the
    rows' own tokens [B, T', H] in the dtype of `embeds`; and their mask.
  """
  rows = _joined((embeds, mask), _suffix(placement, len(embeds)), embeds.dtype)
  if placement.prefix_mask is None:
    return placement.prefix, *rows
  return None, *_joined((placement.prefix, placement.prefix_mask), rows, embeds.dtype)


def before_targets(placement, embeds, mask):
  """Puts the suffix before targets whose sources are apart, like `around`."""
  return _joined(_suffix(placement, len(embeds)), (embeds, mask), embeds.dtype)


def before_last(context, after, last):
  """Puts keys and values between sources and their last tokens, which are run again.

  The last token of a source predicts the target's first one, so it has to see them.

  Args:
    context: the `Context` of the sources, the last tokens included.
    after: each `Context` that comes between.
    last: [B], the last tokens' slots in the context.

  Returns:
    Each `Context` that the last tokens see, in order.
  """
  others = jnp.arange(context.mask.shape[1]) != last[:, None]
  return context._replace(mask=context.mask & others), *after


def _suffix(placement, batch):
  """Returns the suffix of every row, [B, Q, H], and its mask; or None."""
  if placement.suffix is None:
    return None
  if placement.suffix_mask is not None:
    return placement.suffix, placement.suffix_mask
  length, width = placement.suffix.shape
  suffix = jnp.broadcast_to(placement.suffix, (batch, length, width))
  return suffix, jnp.ones((batch, length), bool)


def _joined(first, second, dtype):
  parts = [part for part in (first, second) if part is not None]
  embeds, masks = zip(*parts, strict=True)
  return (
    jnp.concatenate([x.astype(dtype) for x in embeds], axis=1),
    jnp.concatenate(masks, axis=1),
  )
