"""What the families share: the walk over a model's blocks, a product, and the head."""

import functools
import math

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


# Up to so many rows, XLA for CPUs multiplies faster with the weights on the left.
_FEW_ROWS = 100


def product(x, weight, preferred_element_type=None):
  """Multiplies rows by a weight that is stored by its outputs.

  XLA's products for CPUs rearrange the operand on the right. For the next token of
  eight rows that takes as long as the product: with the weight on the left, half of it.

  Args:
    x: [..., in].
    weight: [out, in].
    preferred_element_type: of the result; None is the operands' own.

  Returns:
    [..., out].
  """
  dot = functools.partial(
    jax.lax.dot_general, preferred_element_type=preferred_element_type
  )
  inputs = x.ndim - 1
  if jax.default_backend() != 'cpu' or math.prod(x.shape[:-1]) > _FEW_ROWS:
    return dot(x, weight, (((inputs,), (1,)), ((), ())))
  y = dot(weight, x, (((1,), (inputs,)), ((), ())))  # [out, ...]
  # Without a barrier XLA folds the transpose into the product, operands swapped.
  return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1)


def logits(params, embedding, hidden):
  """Applies the head, [..., H] -> [..., V] float32.

  Args:
    params: the model's weights; without `lm_head` the head is tied to the embeddings.
    embedding: [V, H].
    hidden: [..., H].
  """
  table = params['lm_head']['kernel'].T if 'lm_head' in params else embedding
  return product(hidden, table, preferred_element_type=jnp.float32)
