"""What the rest of the package knows of a language model: a few pure functions."""

import dataclasses
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A causal language model without its weights, which each function takes first.

  Functions:
    embed: (params, ids [...]) -> embeddings [..., H] in `dtype`.
    hidden_states: (params, embeds [B, T, H], position_ids [B, T], mask [B, T, S],
      cache=None, cache_index=0) -> (final hidden states [B, T, H], keys and values).
      Without a cache S is T and the keys and values are those of these T tokens.
      With one, they are written into its slots from `cache_index` on, and S is the
      cache's length. The mask is True where a query may look at a key.
    logits: (params, hidden states [..., H]) -> [..., V] float32.
    partition: (params, axis, size) -> a tree like `params` of `PartitionSpec`s: what is
      cut over `size` devices along the mesh's axis of that name; `size` divides the
      width. None if the family has no rules: all weights are whole on every device.
  """

  embed: Callable[..., jax.Array]
  hidden_states: Callable[..., tuple[jax.Array, tuple]]
  logits: Callable[..., jax.Array]
  vocab_size: int
  width: int
  blocks: int
  heads: int
  max_positions: int
  partition: Callable[..., dict] | None = None
