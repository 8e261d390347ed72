"""What a compiled program holds and computes on a device; nothing is run.

Where the number of a loop's rounds is not known before it runs, as that of generated
tokens, its body counts once.
"""

import math
from typing import NamedTuple

from jax.extend import core

from jaxprompt.devices import devices


class Memory(NamedTuple):
  """Bytes of one device."""

  held: int  # arguments: weights, state and batch
  peak: int  # with all that the program computes, and its code


def memory(compiled):
  """Returns the `Memory` of a compiled program."""
  found = compiled.memory_analysis()
  held = found.argument_size_in_bytes
  made = found.output_size_in_bytes - found.alias_size_in_bytes
  computed = found.temp_size_in_bytes + found.generated_code_size_in_bytes
  return Memory(held, held + made + computed)


def operations(traced, layout):
  """Returns the floating-point operations of a device's matrix products.

  Args:
    traced: a jitted function's `jax.stages.Traced`.
    layout: that it was made by.
  """
  # A jaxpr has a device's own rows, but weights that devices share are whole in it.
  return _operations(traced.jaxpr.jaxpr) // layout.mesh.shape[devices.MODEL]


def _operations(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      total += _product(*equation.invars, equation.params['dimension_numbers'])
    rounds = equation.params['length'] if equation.primitive.name == 'scan' else 1
    inner = core.jaxprs_in_params(equation.params)
    total += rounds * sum(map(_operations, inner))
  return total


def _product(left, right, dimension_numbers):
  (contracted, own_contracted), (_, batch) = dimension_numbers
  del contracted
  summed_or_shared = {*own_contracted, *batch}
  own = [n for i, n in enumerate(right.aval.shape) if i not in summed_or_shared]
  return 2 * left.aval.size * math.prod(own)
