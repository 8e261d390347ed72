"""Reads a checkpoint's weights into a Flax module's own tree.

transformers' Flax models read no sharded safetensors, draw random weights first, keep
what a checkpoint lacks, and hold everything twice. Here the module's tree says what
there must be, and one array is read at a time.
"""

import contextlib
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import safetensors
import transformers
from flax import serialization

from jaxprompt import errors

_WHOLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_FLAX = 'flax_model.msgpack'


def read(path, shapes):
  """Reads the weights of a module: safetensors, whole or in shards, or Flax's msgpack.

  Args:
    path: a hub id or a local directory.
    shapes: the module's parameters as a nested dict of what has a shape.

  Returns:
    Such a dict of arrays on JAX's default device, in the dtypes of the files.

  Raises:
    UserError: names what is missing, torn or of another shape.
  """
  with _one_line(path):
    stored = _stored(path)

    def find(name):
      # A base model without its head has names without its own: the hub's GPT-2 does.
      return stored.get(name) or stored.get(name.partition('.')[2])

    names = [_name(keys) for keys, _ in jax.tree.leaves_with_path(shapes)]
    missing = [name for name in names if find(name) is None]
    if missing:
      raise errors.UserError(
        f'model.path {path!r} lacks weights that its config asks for: '
        f'{", ".join(missing):.200}; get the whole checkpoint'
      )

    def leaf(keys, expected):
      name = _name(keys)
      found = _turned(keys, find(name)())
      if found.shape != expected.shape:
        raise errors.UserError(
          f'model.path {path!r} has {name} of shape {found.shape}, its config asks for '
          f'{expected.shape}; put its own config.json there'
        )
      return jnp.array(found)

    return jax.tree.map_with_path(leaf, shapes)


@contextlib.contextmanager
def _one_line(path):
  """Turns what the readers raise for a torn file, each its own, into a `UserError`."""
  try:
    yield
  except (errors.UserError, OSError):
    raise
  except Exception as e:
    reason = ' '.join(str(e).split())
    raise errors.UserError(
      f'model.path {path!r} has weights that cannot be read: {reason}; get them again'
    ) from e


def _name(keys):
  """Returns PyTorch's name of a leaf: ('norm', 'scale') is stored as norm.weight."""
  *scope, last = (key.key for key in keys)
  return '.'.join([*scope, last if last == 'bias' else 'weight'])


def _turned(keys, x):
  """Turns a leaf as PyTorch stores it into Flax's, or back: kernels are transposed."""
  return x.T if keys[-1].key == 'kernel' else x


def _stored(path):
  """Returns {PyTorch's name: function that reads the array} of a checkpoint.

  Files are downloaded if need be.
  """
  if whole := _find(path, _WHOLE):
    files = [whole]
  elif index := _find(path, _INDEX):
    shards = json.loads(pathlib.Path(index).read_bytes())['weight_map'].values()
    files = [transformers.utils.cached_file(path, shard) for shard in set(shards)]
  else:
    return _msgpack(path)
  places = {}
  for file in files:
    with safetensors.safe_open(file, framework='numpy') as opened:
      places |= dict.fromkeys(opened.keys(), file)
  return {name: functools.partial(_tensor, file, name) for name, file in places.items()}


def _tensor(file, name):
  # Opened for each anew: while a file is open, all that was read of it is in memory.
  with safetensors.safe_open(file, framework='numpy') as opened:
    return opened.get_tensor(name)


def _msgpack(path):
  """Is `_stored` for what Flax itself has saved, which is read whole."""
  file = _find(path, _FLAX)
  if file is None:
    raise errors.UserError(
      f'model.path {path!r} has no {_WHOLE}, {_INDEX} or {_FLAX}; pickled weights can '
      'run code when they are read: convert them where torch is installed, by '
      'transformers.AutoModelForCausalLM.from_pretrained(PATH).save_pretrained(PATH)'
    )
  params = serialization.msgpack_restore(pathlib.Path(file).read_bytes())
  return {
    _name(keys): functools.partial(_turned, keys, x)
    for keys, x in jax.tree.leaves_with_path(params)
  }


def _find(path, name):
  return transformers.utils.cached_file(
    path, name, _raise_exceptions_for_missing_entries=False
  )
