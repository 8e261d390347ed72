"""Products of tokens with a weight, by the kind of device that they run on."""

import math

import jax
import jax.numpy as jnp

# Up to so many tokens, XLA for CPUs multiplies faster with the weight on the left.
_FEW_TOKENS = 100


def weight_left(x, weight, dimension_numbers, preferred_element_type=None):
  """Is `jax.lax.dot_general` of x [..., in] and a weight for a CPU.

  XLA for CPUs rearranges the operand on the right, which for the next token of eight
  rows takes as long as the product. A weight that is stored [out, in] can stand on the
  left, which takes half the time.
  """
  ((in_x,), (in_weight,)), _ = dimension_numbers
  if in_weight == 0 or math.prod(x.shape[:-1]) > _FEW_TOKENS:
    return jax.lax.dot_general(
      x, weight, dimension_numbers, preferred_element_type=preferred_element_type
    )
  contracted = (((in_weight,), (in_x,)), ((), ()))
  y = jax.lax.dot_general(
    weight, x, contracted, preferred_element_type=preferred_element_type
  )
  # Without a barrier XLA folds the transpose into the product, operands swapped.
  return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1)


_BY_PLATFORM = {'cpu': weight_left}


def dot_general(platform):
  """Returns the `jax.lax.dot_general` to use on 'cpu', 'gpu' or 'tpu'."""
  return _BY_PLATFORM.get(platform, jax.lax.dot_general)
