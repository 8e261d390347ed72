"""Where a prompt stands: its virtual tokens before and after every row's source."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

POSITIONS = ('prefix', 'suffix')  # in front of the source, or between it and the target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placement:
  """Virtual tokens around the sources: the same for all rows, or each row's own.

  The same are [P, H] and [Q, H], all real, with no masks. Each row's own are [B, P, H]
  and [B, Q, H], padded, and the masks are True at the row's real ones. P or Q may be 0.
  """

  prefix: jax.Array  # before the source
  suffix: jax.Array  # after it
  prefix_mask: jax.Array | None = None  # [B, P] bool
  suffix_mask: jax.Array | None = None  # [B, Q] bool

  @property
  def is_shared(self):
    return self.prefix_mask is None

  @property
  def splits_rows(self):
    """Whether the prompt stands between source and target, which are padded apart."""
    return self.suffix.shape[-2] > 0


def place(soft_prompt, position):
  """Returns the `Placement` of one prompt for all rows.

  Args:
    soft_prompt: [P, H]; P may be 0.
    position: one of `POSITIONS`.
  """
  none = soft_prompt[:0]
  if position == 'suffix':
    return Placement(none, soft_prompt)
  return Placement(soft_prompt, none)


def stack(placements):
  """Pads K shared placements to one of arrays [K, P, H], of which a row takes one."""

  def pad(arrays):
    lengths = [len(x) for x in arrays]
    width = arrays[0].shape[1]
    stacked = np.zeros((len(arrays), max(lengths), width), np.float32)
    for row, array in zip(stacked, arrays, strict=True):
      row[: len(array)] = array
    return stacked, np.arange(max(lengths)) < np.asarray(lengths)[:, None]

  prefix, prefix_mask = pad([x.prefix for x in placements])
  suffix, suffix_mask = pad([x.suffix for x in placements])
  return Placement(prefix, suffix, prefix_mask, suffix_mask)


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
  rows = after(placement, embeds, mask)
  if placement.is_shared:
    return placement.prefix, *rows
  return None, *_joined((placement.prefix, placement.prefix_mask), rows, embeds.dtype)


def after(placement, embeds, mask):
  """Puts the suffix after the rows' sources; arguments and rows as of `around`."""
  return _joined((embeds, mask), _rows(placement, len(embeds)), embeds.dtype)


def before_targets(placement, embeds, mask):
  """Puts the suffix before targets whose sources are apart, like `after`."""
  return _joined(_rows(placement, len(embeds)), (embeds, mask), embeds.dtype)


def _rows(placement, batch):
  """Returns the suffix of every row, [B, Q, H], and its mask."""
  if not placement.is_shared:
    return placement.suffix, placement.suffix_mask
  length, width = placement.suffix.shape
  suffix = jnp.broadcast_to(placement.suffix, (batch, length, width))
  return suffix, jnp.ones((batch, length), bool)


def _joined(first, second, dtype):
  embeds, masks = zip(first, second, strict=True)
  return (
    jnp.concatenate([x.astype(dtype) for x in embeds], axis=1),
    jnp.concatenate(masks, axis=1),
  )
