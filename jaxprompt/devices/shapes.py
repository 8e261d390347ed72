"""Arguments of a layout's programs as shapes on its devices, which need not be there.

A program is lowered and compiled for them as for arrays; nothing is computed. They are
those of a layout over a mesh (`jit`), whose programs are `pmap`'s too.
"""

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxprompt.devices import devices


def everywhere(layout, tree):
  """Returns a tree of arrays or shapes as what `Layout.replicate` gives."""
  return jax.tree.map(lambda x: _on(layout, x, PartitionSpec()), tree)


def rows(layout, tree):
  """Returns the rows of a whole batch as what `Layout.place_rows` gives."""
  return jax.tree.map(lambda x: _on(layout, x, PartitionSpec(devices.DATA)), tree)


def params(layout, lm, tree):
  """Returns a model's weights as what `Layout.place_params` gives."""
  specs = layout.partition(lm, tree)
  return jax.tree.map(lambda spec, x: _on(layout, x, spec), specs, tree)


def _on(layout, x, spec):
  return jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=NamedSharding(layout.mesh, spec)
  )
