"""A decoder's block in thin Flax modules, whose parameters are named by the `Spec`.

A block works on tokens of whatever rows, [N, H]; which token sees which is the business
of the function that it is given for the middle of its attention.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from jaxprompt.lm import rotary
from jaxprompt.lm import spec as spec_lib

PRODUCT = 'product'  # the name of a weight's product, for `jax.checkpoint`

ACTIVATIONS = {
  'gelu': functools.partial(nn.gelu, approximate=False),
  'gelu_fast': functools.partial(nn.gelu, approximate=True),
  'gelu_new': functools.partial(nn.gelu, approximate=True),
  'gelu_pytorch_tanh': functools.partial(nn.gelu, approximate=True),
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'relu': nn.relu,
  'silu': nn.silu,
  'swish': nn.silu,
}


class Linear(nn.Module):
  """A product with a kernel, and a bias; as `nn.Dense` or transformers' `Conv1D`."""

  features: int
  use_bias: bool
  by_outputs: bool  # the kernel is [out, in], else [in, out]
  dtype: Any
  dot_general: Callable

  @nn.compact
  def __call__(self, x):
    """Returns [N, out] of x [N, in]."""
    shape = (x.shape[-1], self.features)
    shape = shape[::-1] if self.by_outputs else shape
    kernel = self.param('kernel', nn.initializers.normal(0.02), shape)
    axis = 1 if self.by_outputs else 0
    contracted = (((x.ndim - 1,), (axis,)), ((), ()))
    y = self.dot_general(x, kernel.astype(self.dtype), contracted)
    y = ad_checkpoint.checkpoint_name(y, PRODUCT)
    if not self.use_bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return y + bias.astype(self.dtype)


class RMSNorm(nn.Module):
  """Zhang and Sennrich 2019 (arXiv:1910.07467), in float32; its scale is `weight`."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    weight = self.param('weight', nn.initializers.ones, (x.shape[-1],))
    normed = _by_root_mean_square(x, self.epsilon)
    return weight.astype(self.dtype) * normed.astype(self.dtype)


class OffsetRMSNorm(nn.Module):
  """The same with a scale of 1 + `weight`, which is multiplied in float32, too."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    weight = self.param('weight', nn.initializers.zeros, (x.shape[-1],))
    normed = _by_root_mean_square(x, self.epsilon)
    return ((1 + weight.astype(jnp.float32)) * normed).astype(self.dtype)


def _by_root_mean_square(x, epsilon):
  wide = x.astype(jnp.float32)
  variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  return wide / jnp.sqrt(variance + epsilon)


NORMS = {'layer': nn.LayerNorm, 'rms': RMSNorm, 'offset_rms': OffsetRMSNorm}


def norm(spec, dtype, name=None):
  """Returns the module of a `Spec`'s norm."""
  return NORMS[spec.norm](epsilon=spec.epsilon, dtype=dtype, name=name)


def _norm_if_named(spec, dtype, name):
  return norm(spec, dtype, name) if name else lambda x: x


class Attention(nn.Module):
  """Query, key and value of tokens, and what comes after they have been mixed."""

  spec: spec_lib.Spec
  dtype: Any
  dot_general: Callable

  @nn.compact
  def __call__(self, parts, mix):
    """Arguments and results are those of `Block`, x being normed."""
    spec, names = self.spec, self.spec.names
    linear = functools.partial(
      Linear,
      by_outputs=spec.kernel_by_outputs,
      dtype=self.dtype,
      dot_general=self.dot_general,
    )
    heads = (spec.heads, spec.kv_heads, spec.kv_heads)
    widths = [n * spec.head_dim for n in heads]
    in_one = len(names.projections) == 1
    layers = [
      linear(width, use_bias=spec.bias.projections, name=name)
      for width, name in zip(
        [sum(widths)] if in_one else widths, names.projections, strict=True
      )
    ]
    query_norm = _norm_if_named(spec, self.dtype, names.query_norm)
    key_norm = _norm_if_named(spec, self.dtype, names.key_norm)

    def project(x, angles):
      found = [layer(x) for layer in layers]
      if in_one and spec.by_head:
        found = jnp.split(found[0].reshape(len(x), spec.heads, -1), 3, axis=-1)
      elif in_one:
        found = jnp.split(found[0], (widths[0], widths[0] + widths[1]), axis=-1)
      query, key, value = (
        y.reshape(len(x), n, spec.head_dim) for y, n in zip(found, heads, strict=True)
      )
      query, key = query_norm(query), key_norm(key)
      if angles is not None:
        query, key = rotary.turn(query, angles), rotary.turn(key, angles)
      return query, key, value

    attended, keys_values = mix([project(*part) for part in parts])
    out = linear(spec.width, use_bias=spec.bias.attention_out, name=names.attention_out)
    return out(attended), keys_values


class MLP(nn.Module):
  """Up, activation and down; with a gate if the `Spec` names one."""

  spec: spec_lib.Spec
  dtype: Any
  dot_general: Callable

  @nn.compact
  def __call__(self, x):
    spec, names = self.spec, self.spec.names

    def linear(features, name):
      return Linear(
        features,
        spec.bias.mlp,
        spec.kernel_by_outputs,
        self.dtype,
        self.dot_general,
        name=name,
      )

    activate = ACTIVATIONS[spec.activation]
    if names.gate == names.up:
      gate, up = jnp.split(linear(2 * spec.mlp_width, names.up)(x), 2, axis=-1)
      up = up * activate(gate)
    elif names.gate:
      up = linear(spec.mlp_width, names.up)(x)
      up = up * activate(linear(spec.mlp_width, names.gate)(x))
    else:
      up = activate(linear(spec.mlp_width, names.up)(x))
    return linear(spec.width, names.down)(up)


class Block(nn.Module):
  """Attention and MLP, each after a norm and added to the residual stream."""

  spec: spec_lib.Spec
  dtype: Any
  dot_general: Callable

  @nn.compact
  def __call__(self, parts, mix, keep):
    """Applies the block to N tokens.

    Args:
      parts: a list of (x [n, H], angles [n, pairs] or None): the tokens, apart where
        some of them are not to be differentiated.
      mix: from (query [n, heads, D], key and value [n, G, D]) of each part to what the
        M tokens that are kept have attended to, [M, heads * D], and the keys and values
        to keep.
      keep: from [N, H] to the M tokens that are kept, [M, H].

    Returns:
      x [M, H], and the keys and values.
    """
    spec, names = self.spec, self.spec.names
    own = (spec, self.dtype, self.dot_general)
    attention_norm = norm(spec, self.dtype, names.attention_norm)
    normed = [(attention_norm(x), angles) for x, angles in parts]
    attended, keys_values = Attention(*own, name=names.attention)(normed, mix)
    attended = _norm_if_named(spec, self.dtype, names.attention_out_norm)(attended)
    entered = keep(joined([x for x, _ in parts]))
    x = entered + attended
    normed = norm(spec, self.dtype, names.mlp_norm)(entered if spec.parallel else x)
    added = MLP(*own, name=names.mlp)(normed)
    added = _norm_if_named(spec, self.dtype, names.mlp_out_norm)(added)
    return x + added, keys_values


def joined(arrays):
  """Concatenates arrays, or trees of arrays, along their first axis."""
  if len(arrays) == 1:
    return arrays[0]
  return jax.tree.map(lambda *each: jnp.concatenate(each), *arrays)
