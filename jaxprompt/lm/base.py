"""What the rest of the package knows of a language model: a few pure functions."""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A causal language model without its weights, which each function takes first.

  Functions:
    embed: (params, ids [...]) -> embeddings [..., H] in `dtype`.
    hidden_states: (params, embeds [B, T, H], position_ids [B, T], mask [B, S],
      soft_prompt=None, outputs=None, cache=None, cache_index=None) -> (final hidden
      states, keys and values of every block, each [B, G, S, D] with G the heads that
      have their own). The mask is True at the keys of real tokens; a token sees those
      up to its own. A soft prompt [P, H] stands before every row, from position 0 on,
      and is run once for all of them: S = P + T. It goes with no cache.
      `outputs` [B, N] names the positions of T whose hidden states are wanted: those
      returned are [B, N, H], else [B, T, H]. With a cache, its keys and values stand
      before the new ones, which come after them (S = slots of the cache + T), or, with
      a `cache_index`, are written over the slots from there on: T is then 1, S the
      cache's length, and the mask is False at the slots after.
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


def cut(axis, size, x, *dimensions):
  """Returns the `PartitionSpec` that cuts a weight over the mesh's axis of that name.

  The first of the dimensions that `size` divides is cut; if there is none, the weight
  is whole everywhere. For an embedding table: the vocabulary, else the width.
  """
  for dimension in dimensions:
    if x.shape[dimension] % size == 0:
      return PartitionSpec(*[None] * dimension, axis)
  return PartitionSpec()
