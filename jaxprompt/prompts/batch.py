"""The arrays of one batch, as the train, loss and decode functions take them.

Letters used everywhere in this package: B rows, T tokens a row, N target tokens a
row, S tokens that stand before, P virtual tokens of the prompt, H the model's width,
V the vocabulary's size.
"""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of source and target tokens, padded to one shape; masks say what is real.

  Padding may stand on either side and hold any valid id: no id means "padding".

  The prompt stands in front of `input_ids`. If it is a suffix of the source, the
  source comes apart, as `source_ids`, and `input_ids` are those of the target.
  """

  input_ids: jax.Array  # [B, T] int32: (source, newline,) target, end of text
  attention_mask: jax.Array  # [B, T] bool: True at real tokens
  target_positions: jax.Array  # [B, N] int32: where in T the row's target tokens are
  loss_mask: jax.Array  # [B, N] bool: True at real target tokens
  source_ids: jax.Array | None = None  # [B, S] int32: source, newline
  source_mask: jax.Array | None = None  # [B, S] bool
