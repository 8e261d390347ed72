"""Reads a checkpoint's weights into the tree of a model, one array at a time.

What is in the files is what is used: every array that the model needs is there, of its
shape, of a floating type and finite, and no array is left over that would matter.
"""

import functools
import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import serialization

from jaxprompt import errors
from jaxprompt.lm import files

_WHOLE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
_FLAX = 'flax_model.msgpack'
_FLOATING = ('F64', 'F32', 'F16', 'BF16')  # by safetensors' names
# What torch.compile, FSDP and DataParallel put into names.
_WRAPPERS = re.compile(r'^module\.|_orig_mod\.|_fsdp_wrapped_module\.')
# Masks and tables that older releases stored, and that follow from the config.
_NEEDLESS = re.compile(r'.*\b(attn|attention)\.(masked_)?bias|.*\brotary_emb\.inv_freq')


def read(path, shapes, names, dtype, place):
  """Reads the weights: safetensors, whole or in shards, or Flax's msgpack.

  Args:
    path: a hub id or a local directory.
    shapes: the model's parameters as a nested dict of what has a shape.
    names: the family's `spec.Names`.
    dtype: of the arrays to return.
    place: such a dict of functions that put an array of the host where it is to be.

  Returns:
    Such a dict of what `place` gave, and a fingerprint of what was read: a hash that is
    the same wherever the files are.

  Raises:
    UserError: names what is missing, left over, torn, not finite or of another shape.
  """
  stored, digests = readers(path, shapes, names), {}

  def leaf(keys, expected, place):
    name = _name(keys)
    array = stored[name]()
    _check(path, name, array, _turned(keys, expected).shape)
    digests[name] = _digest(array)
    with np.errstate(over='ignore'):  # what overflows is refused
      array = np.asarray(_turned(keys, array), dtype)
    if not np.isfinite(array).all():
      raise errors.UserError(
        f'model.path {path!r} has {name} with numbers that are not finite in '
        f'{np.dtype(dtype)}; get the checkpoint again'
      )
    return jax.block_until_ready(place(array))

  # The largest first: while one is read it is in memory two or three times.
  leaves, tree = jax.tree.flatten_with_path(shapes)
  puts = jax.tree.leaves(place)
  arrays = [None] * len(leaves)
  for i in sorted(range(len(leaves)), key=lambda i: leaves[i][1].size, reverse=True):
    arrays[i] = leaf(*leaves[i], puts[i])
  params = jax.tree.unflatten(tree, arrays)
  return params, hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()


def readers(path, shapes, names):
  """Returns {PyTorch's name of a weight: function that reads it as it is stored}.

  Arguments and errors are those of `read`.
  """
  stored = _stored(path)
  head, table = f'{names.head}.weight', f'{names.root}.{names.embedding}.weight'
  found = _found(path, stored, shapes, head)
  if head in stored and head not in found:
    _check_tied(path, head, *(_digest(stored[x]()) for x in (head, found[table])))
  return {name: stored[own] for name, own in found.items()}


def _found(path, stored, shapes, head):
  """Returns {name of a weight: its name in the checkpoint}; see `read`."""
  names = {_name(keys) for keys, _ in jax.tree.leaves_with_path(shapes)}
  # A base model without its head has names without its own: the hub's GPT-2 does.
  found = {name: name if name in stored else name.partition('.')[2] for name in names}
  missing = sorted(name for name in names if found[name] not in stored)
  if missing:
    raise errors.UserError(
      f'model.path {path!r} lacks weights that its config asks for: '
      f'{", ".join(missing):.200}; get the whole checkpoint'
    )
  left = sorted(stored.keys() - found.values() - {head})
  left = [name for name in left if not _NEEDLESS.fullmatch(name)]
  if left:
    raise errors.UserError(
      f'model.path {path!r} has weights that its model has no use for: '
      f'{", ".join(left):.200}; use a checkpoint of its model_type alone, not '
      'quantized, with adapters merged'
    )
  return found


def _check_tied(path, head, digest, expected):
  """Refuses a head that is stored though the model ties it, and is another."""
  # transformers 4 would take the table, transformers 5 the head.
  if digest != expected:
    raise errors.UserError(
      f'model.path {path!r} ties its head to the embeddings, by its config.json or by '
      f'default, but {head} is not their table; set tie_word_embeddings to false to '
      'use that head, or remove the head'
    )


def _check(path, name, array, shape):
  if array.shape != shape:
    raise errors.UserError(
      f'model.path {path!r} has {name} of shape {array.shape}, its config asks for '
      f'{shape}; put its own config.json there'
    )
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise errors.UserError(
      f'model.path {path!r} has {name} of type {array.dtype}, which are the codes of a '
      'quantized weight; use a checkpoint of float32, float16 or bfloat16'
    )


def _digest(array):
  """Returns a hash of an array's type, shape and bytes."""
  head = f'{array.dtype} {array.shape} '.encode()
  data = np.ascontiguousarray(array).view(np.uint8)
  digest = hashlib.sha256(head)
  digest.update(data)
  return digest.hexdigest()


def _name(keys):
  """Returns PyTorch's name of a leaf: ('norm', 'scale') is stored as norm.weight."""
  *scope, last = (key.key for key in keys)
  return '.'.join([*scope, last if last == 'bias' else 'weight'])


def _turned(keys, x):
  """Turns a leaf as PyTorch stores it into Flax's, or back: kernels are transposed."""
  if keys[-1].key != 'kernel':
    return x
  if isinstance(x, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(x.shape[::-1], x.dtype)
  return x.T


def _stored(path):
  """Returns {PyTorch's name, without wrappers: function that reads the array}."""
  stored = {}
  for name, reader in _files(path).items():
    if stored.setdefault(_WRAPPERS.sub('', name), reader) is not reader:
      raise errors.UserError(
        f'model.path {path!r} has {name} twice, with and without a wrapper in its '
        'name; keep one'
      )
  return stored


def _files(path):
  """Returns {name: function that reads the array} of a checkpoint's files."""
  if whole := files.find(path, _WHOLE):
    shards = [whole]
  elif index := files.read_json(path, _INDEX):
    places = index.get('weight_map')
    if not isinstance(places, dict) or not all(type(x) is str for x in places.values()):
      raise errors.UserError(
        f'model.path {path!r} has an {_INDEX} without the file of every weight; get it '
        'again'
      )
    shards = [_shard(path, shard) for shard in sorted(set(places.values()))]
  else:
    return _msgpack(path)
  found = {}
  for file in shards:
    with errors.reading(file), safetensors.safe_open(file, framework='numpy') as opened:
      names = opened.keys()
      types = {name: opened.get_slice(name).get_dtype() for name in names}
    found |= {name: (file, kind) for name, kind in types.items()}
  return {
    name: functools.partial(_tensor, file, name, kind)
    for name, (file, kind) in found.items()
  }


def _shard(path, name):
  file = files.find(path, name)
  if file is None:
    raise errors.UserError(
      f'model.path {path!r} has no {name}, which its {_INDEX} names; get the whole '
      'checkpoint'
    )
  return file


def _tensor(file, name, kind):
  if kind not in _FLOATING:  # some of which numpy does not know
    raise errors.UserError(
      f'{file} has {name} of type {kind}, which are the codes of a quantized weight; '
      f'use a checkpoint of one of {", ".join(_FLOATING)}'
    )
  # Opened for each anew: while a file is open, all that was read of it is in memory.
  with errors.reading(file), safetensors.safe_open(file, framework='numpy') as opened:
    return opened.get_tensor(name)


def _msgpack(path):
  """Returns the same of the one file that Flax saves, which is read whole."""
  file = files.find(path, _FLAX)
  if file is None:
    raise errors.UserError(
      f'model.path {path!r} has no {_WHOLE}, {_INDEX} or {_FLAX}; pickled weights can '
      'run code when they are read: convert them where torch is installed, by '
      'transformers.AutoModelForCausalLM.from_pretrained(PATH).save_pretrained(PATH)'
    )
  with errors.reading(file):
    params = serialization.msgpack_restore(file.read_bytes())
  if not isinstance(params, dict):
    raise errors.UserError(f'{file} holds no parameters; get it again')
  return {
    _name(keys): functools.partial(_turned, keys, np.asarray(x))
    for keys, x in jax.tree.leaves_with_path(params)
  }
