"""What the families share: the walk over a model's blocks, a product, and the head."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import ad_checkpoint

from jaxprompt.lm import attention
from jaxprompt.lm import choice

_PRODUCT = 'product'  # the name of what `jax.checkpoint` keeps
# Fewer blocks are no larger a program one by one.
_LOOPED_FROM = 8


class Block(NamedTuple):
  """A family's block, but for the attention in its middle.

  Attributes:
    module: the Flax module.
    linear: the type of those of its layers that multiply by a matrix, `kernel`.
    outputs_axis: the axis of the outputs in a kernel, 0 or 1.
    project: (module, x [N, H], *extra [N, ...]) -> query [N, heads, D], key and value
      [N, G, D] of N tokens, of whatever rows.
    finish: (module, x [N, H], attended [N, heads * D]) -> x after the block, [N, H].
  """

  module: nn.Module
  linear: type
  outputs_axis: int
  project: Callable
  finish: Callable


def streams(soft_prompt, embeds, position_ids):
  """Lists what goes through the blocks side by side, with its position ids.

  Args:
    soft_prompt: [P, H], what stands before every row; or None.
    embeds, position_ids: of the rows, [B, T, H] and [B, T].

  Returns:
    A list of (embeddings [1, P, H], positions [1, P]), if there is a prompt, and that
    of the rows.
  """
  rows = embeds, position_ids
  if soft_prompt is None:
    return [rows]
  return [(soft_prompt[None], jnp.arange(len(soft_prompt))[None]), rows]


def run(block, params, inputs, mask, *, outputs, cache, cache_index):
  """Applies a model's blocks, one by one or in a loop.

  A prompt that stands before all rows is run once for them, and in the same products
  as their tokens: the weights are read once, and the program is a third shorter.

  Args:
    block: `Block`.
    params: {'0': the weights of the first block, ...}.
    inputs: of each of the `streams`, a tuple of x [b, t, H] and the block's extra
      arguments, each [b, t, ...].
    mask, outputs, cache, cache_index: see `base.LanguageModel`; the outputs are those
      of the last block.

  Returns:
    x after the last block, [B, N, H] or [B, T, H]; keys and values of every block.
  """
  shapes = tuple(x.shape[:2] for x, *_ in inputs)
  # The first block takes the streams apart: what the prompt does not reach there is not
  # differentiated. From then on the tokens of all of them are one long row.
  parts = [
    jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), stream) for stream in inputs
  ]
  extra = [
    jnp.concatenate(each) for each in zip(*(part[1:] for part in parts), strict=True)
  ]
  # The backward pass keeps the outputs of the weights' matrix products and computes the
  # rest again (attention weights, activations, norms): a fifth less memory at the same
  # speed. Made anew for every program: JAX holds what it traces of a function as long
  # as there is the function.
  run_one = jax.checkpoint(
    functools.partial(_run_one, block, shapes),
    policy=jax.checkpoint_policies.save_only_these_names(_PRODUCT),
  )

  def step(own, parts, outputs=None):
    weights, kept = own
    x, keys_values = run_one(weights, parts, mask, outputs, kept, cache_index)
    return [(x, *extra)], keys_values

  *own, last = zip(
    [params[str(i)] for i in range(len(params))],
    cache or [None] * len(params),
    strict=True,
  )
  if _looped(len(params)) and outputs is not None:
    parts, first = step(own[0], parts)
    parts, found = choice.loop(step, own[1:], parts)
    found = [first, *found]
  else:
    found = []
    for each in own:
      parts, keys_values = step(each, parts)
      found.append(keys_values)
  ((x, *_),), keys_values = step(last, parts, outputs)
  batch, length = shapes[-1] if outputs is None else outputs.shape
  x = x[-batch * length :].reshape(batch, length, -1)
  return x, (*found, keys_values)


def _looped(blocks):
  """Says whether so many blocks are run by a loop, but for the first and the last.

  On a CPU, GPT-2 small's step is then a program of half the memory, at 0.96 to 1.02 of
  the speed. A GPU would wait for the host at every choice of weights.
  """
  return (
    blocks >= _LOOPED_FROM
    and jax.default_backend() == 'cpu'
    # Several are weights that XLA may have cut, or stand for accelerators.
    and jax.device_count() == 1
  )


def _run_one(block, shapes, params, parts, mask, outputs, cache, cache_index):
  """Applies one block; returns x [N, H] and its keys and values."""
  apply = functools.partial(_apply, block, params)
  projected = [apply(*part, method=block.project) for part in parts]
  x = _joined([x for x, *_ in parts])
  *prompt, (query, key, value) = _by_stream(projected, shapes)
  if prompt:
    (prompt,) = prompt
    cache = prompt[1:]
  key, value = attention.extend(cache, key, value, cache_index)
  if outputs is None:
    attended = [attention.attend(query, key, value, mask)]
    if prompt:
      all_real = jnp.ones(shapes[0], bool)
      attended = [attention.attend(*prompt, all_real), *attended]
  else:
    batch, length = shapes[-1]
    x = x[-batch * length :].reshape(batch, length, -1)
    x, query, slots = attention.select(x, query, outputs, key.shape[2])
    x = x.reshape(-1, x.shape[-1])
    attended = [attention.attend(query, key, value, mask, slots)]
  attended = _joined([a.reshape(-1, a.shape[-1]) for a in attended])
  return apply(x, attended, method=block.finish), (key, value)


def _apply(block, params, *args, method):
  """Applies a method of a `Block`, its products with the weights by `product`."""

  def multiply(call, args, kwargs, context):
    layer = context.module
    if not isinstance(layer, block.linear):
      return call(*args, **kwargs)
    (x,) = args
    y = product(x, layer.get_variable('params', 'kernel'), block.outputs_axis)
    return y + layer.get_variable('params', 'bias') if layer.use_bias else y

  with nn.intercept_methods(multiply):
    return block.module.apply({'params': params}, *args, method=method)


def _joined(arrays):
  return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)


def _by_stream(projected, shapes):
  """Returns query, key and value of each stream, [b, heads, t, D]."""
  if len(projected) != len(shapes):
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    (projected,) = projected
    projected = zip(*(jnp.split(each, ends) for each in projected), strict=True)
  return [
    [each.reshape(*shape, *each.shape[1:]).swapaxes(1, 2) for each in parts]
    for parts, shape in zip(projected, shapes, strict=True)
  ]


# Up to so many rows, XLA for CPUs multiplies faster with the weights on the left.
_FEW_ROWS = 100


def product(x, weight, outputs_axis=0, preferred_element_type=None):
  """Multiplies rows by a weight.

  XLA's products for CPUs rearrange the operand on the right. For the next token of
  eight rows that takes as long as the product: a weight that is stored by its outputs
  goes to the left, which takes half of it.

  Args:
    x: [..., in].
    weight: [out, in] or, if `outputs_axis` is 1, [in, out]; or a `choice.Choice`.
    preferred_element_type: of the result; None is the operands' own.

  Returns:
    [..., out].
  """
  weight_left = (
    outputs_axis == 0
    and math.prod(x.shape[:-1]) <= _FEW_ROWS
    and jax.default_backend() == 'cpu'
  )

  def dot(x, weight):
    operands = [(x, x.ndim - 1), (weight, 1 - outputs_axis)]
    if weight_left:
      operands.reverse()
    (left, i), (right, j) = operands
    contracted = (((i,), (j,)), ((), ()))
    return jax.lax.dot_general(
      left, right, contracted, preferred_element_type=preferred_element_type
    )

  y = choice.apply(dot, x, weight)
  y = ad_checkpoint.checkpoint_name(y, _PRODUCT)
  if not weight_left:
    return y
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
