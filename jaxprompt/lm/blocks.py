"""What the families share: the walk over a model's blocks, and its head."""

import functools

import jax
import jax.numpy as jnp


def run(block, method, params, x, *args, outputs, cache, cache_index):
  """Applies a model's blocks one by one.

  Args:
    block: the Flax module of a block.
    method: a function of the module, (block, x, *args, outputs, cache, cache_index) ->
      (x, (keys, values)).
    params: {'0': the weights of the first block, ...}.
    x: the residual stream, [B, T, H].
    *args: what every block takes besides, arrays.
    outputs, cache, cache_index: see `base.LanguageModel`; the outputs are those of the
      last block.

  Returns:
    x after the last block, [B, N, H] or [B, T, H]; keys and values of every block.
  """
  last = len(params) - 1
  new_cache = []
  for i in range(last + 1):
    x, keys_values = _run_one(
      block,
      method,
      params[str(i)],
      x,
      *args,
      outputs if i == last else None,
      cache and cache[i],
      cache_index,
    )
    new_cache.append(keys_values)
  return x, tuple(new_cache)


# The backward pass keeps the outputs of the weights' matrix products and computes the
# rest again (attention weights, activations, norms): a fifth less memory at the same
# speed.
@functools.partial(
  jax.checkpoint,
  static_argnums=(0, 1),
  policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
)
def _run_one(block, method, params, *args):
  return block.apply({'params': params}, *args, method=method)


def logits(params, embedding, hidden):
  """Applies the head, [..., H] -> [..., V] float32.

  Args:
    params: the model's weights; without `lm_head` the head is tied to the embeddings.
    embedding: [V, H].
    hidden: [..., H].
  """
  table = params['lm_head']['kernel'].T if 'lm_head' in params else embedding
  return jnp.einsum('...h,vh->...v', hidden, table, preferred_element_type=jnp.float32)
