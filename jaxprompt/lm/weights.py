"""Reads PyTorch's safetensors, whole or in shards, into a Flax module's own tree.

transformers' Flax models read no sharded safetensors, draw random weights first, and
keep what a checkpoint lacks. Here the module's tree says what there must be.
"""

import contextlib
import json

import jax
import safetensors
import transformers

from jaxprompt import errors

CONVERT = (
  'convert it where torch is installed: transformers.AutoModelForCausalLM.'
  'from_pretrained(PATH).save_pretrained(PATH, safe_serialization=True)'
)
_WHOLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'


def read(path, shapes):
  """Reads the weights of a module.

  Args:
    path: a hub id or a local directory.
    shapes: the module's parameters as a nested dict of what has a shape; a `kernel`
      is stored transposed, and all leaves under the name `weight`.

  Returns:
    Such a dict of numpy arrays, in the dtypes of the files.

  Raises:
    UserError: names what is missing or of another shape.
  """
  with contextlib.ExitStack() as stack:
    holders = {}  # {PyTorch's name: the open file that holds it}
    for file in _files(path):
      opened = stack.enter_context(safetensors.safe_open(file, framework='numpy'))
      holders |= dict.fromkeys(opened.keys(), opened)
    names = {_name(keys): keys for keys, _ in jax.tree.leaves_with_path(shapes)}
    missing = [name for name in names if name not in holders]
    if missing:
      raise errors.UserError(
        f'model.path {path!r} lacks weights that its config asks for: '
        f'{", ".join(missing):.200}; get the whole checkpoint'
      )

    def leaf(keys, expected):
      name = _name(keys)
      found = holders[name].get_tensor(name)
      found = found.T if keys[-1].key == 'kernel' else found
      if found.shape != expected.shape:
        raise errors.UserError(
          f'model.path {path!r} has {name} of shape {found.shape}, its config asks for '
          f'{expected.shape}; put its own config.json there'
        )
      return found

    return jax.tree.map_with_path(leaf, shapes)


def _name(keys):
  """Returns PyTorch's name of a leaf: ('norm', 'kernel') is stored as norm.weight."""
  return '.'.join([key.key for key in keys[:-1]] + ['weight'])


def _files(path):
  """Returns the paths of the safetensors files, downloaded if need be."""
  whole = _find(path, _WHOLE)
  if whole:
    return [whole]
  index = _find(path, _INDEX)
  if index is None:
    raise errors.UserError(
      f'model.path {path!r} has neither {_WHOLE} nor {_INDEX}; {CONVERT}'
    )
  with open(index) as f:
    shards = sorted(set(json.load(f)['weight_map'].values()))
  return [transformers.utils.cached_file(path, shard) for shard in shards]


def _find(path, name):
  return transformers.utils.cached_file(
    path, name, _raise_exceptions_for_missing_entries=False
  )
