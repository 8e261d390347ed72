"""Matrix products: how precise they are, and how a kind of device computes them."""

import functools
import math

import jax
import jax.numpy as jnp

# By `model.precision`. Left to themselves, TPUs round float32 to bfloat16 before they
# multiply, and GPUs to TF32.
PRECISIONS = {'highest': jax.lax.Precision.HIGHEST, 'default': None}
# Up to so many tokens, XLA for CPUs multiplies faster with the weight on the left.
_FEW_TOKENS = 100


def weight_left(
  x, weight, dimension_numbers, precision=None, preferred_element_type=None
):
  """Like `jax.lax.dot_general`, but of x [..., in] and a weight on a CPU.

  XLA for CPUs rearranges the operand on the right, which for the next token of eight
  rows takes as long as the product. A weight that is stored [out, in] can stand on the
  left, which takes half the time.
  """
  ((in_x,), (in_weight,)), _ = dimension_numbers
  if in_weight == 0 or math.prod(x.shape[:-1]) > _FEW_TOKENS:
    return jax.lax.dot_general(
      x, weight, dimension_numbers, precision, preferred_element_type
    )
  contracted = (((in_weight,), (in_x,)), ((), ()))
  y = jax.lax.dot_general(weight, x, contracted, precision, preferred_element_type)
  # Without a barrier XLA folds the transpose into the product, operands swapped.
  return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1)


_BY_PLATFORM = {'cpu': weight_left}


@functools.cache  # models that are alike have the same one, and so the same programs
def dot_general(platform, precision):
  """Returns the `jax.lax.dot_general` of tokens and a weight.

  Args:
    platform: 'cpu', 'gpu' or 'tpu'.
    precision: `jax.lax.Precision` or None.
  """
  function = _BY_PLATFORM.get(platform, jax.lax.dot_general)
  return functools.partial(function, precision=precision)
