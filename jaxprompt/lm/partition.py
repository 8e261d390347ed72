"""How weights are cut over devices: as in Megatron-LM (arXiv:1909.08053).

A block's first products are cut by their outputs, its second by their inputs; the
embedding table and the head by the vocabulary, or else by the width.
"""

import jax
from jax.sharding import PartitionSpec


def partition(spec, params, axis, size):
  """Returns a tree like `params` of `PartitionSpec`s.

  Args:
    spec: `spec.Spec`.
    params: the weights, or their shapes.
    axis: the mesh's axis of the devices that share the weights.
    size: the number of devices on it; a weight that it does not divide stays whole.
  """
  names = spec.names
  outputs, inputs = (0, 1) if spec.kernel_by_outputs else (1, 0)  # a kernel's axes
  first = {*names.projections, names.gate, names.up}
  # Of each layer, the axes to cut if the size divides them, in order of preference.
  wanted = {
    **{(name, 'kernel'): [outputs] for name in first},
    **{(name, 'bias'): [0] for name in first},
    (names.attention_out, 'kernel'): [inputs],
    (names.down, 'kernel'): [inputs],
    (names.embedding, 'embedding'): [0, 1],
    (names.head, 'kernel'): [1, 0],
  }

  def cut(path, x):
    for dimension in wanted.get(tuple(key.key for key in path[-2:]), ()):
      if x.shape[dimension] % size == 0:
        return PartitionSpec(*[None] * dimension, axis)
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(cut, params)
