"""GPT-2 from embeddings, by walking the submodules of `FlaxGPT2LMHeadModel`.

The stock model takes only token ids, keeps one cache index per batch, and returns
logits at every position. Its blocks do the work here, applied one by one to their own
weights: layer norms and MLPs are transformers' own, and only the attention between them
is written out, so that prompt, mask and cache can be ours, and the products with the
weights, which are the time that a token takes.
Dropout is never active: the model is frozen and deterministic.
"""

import functools

import jax
import jax.numpy as jnp
import transformers
from flax import linen as nn
from jax.sharding import PartitionSpec
from transformers.models.gpt2 import modeling_flax_gpt2

from jaxprompt import errors
from jaxprompt.lm import base
from jaxprompt.lm import blocks
from jaxprompt.lm import weights


def load(path, config, dtype):
  """Reads a checkpoint.

  Args:
    path: a hub id or a local directory.
    config: the checkpoint's config, a dict.
    dtype: jnp.float32 or jnp.bfloat16, of the computation.

  Returns:
    A `base.LanguageModel`, and its weights as the checkpoint stores them.
  """
  config = transformers.GPT2Config.from_dict(config)
  if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
    raise errors.UserError(
      f'model.path {path!r} scales its attention by block '
      '(scale_attn_by_inverse_layer_idx, or no scale_attn_weights), which the Flax '
      'GPT-2 does not honour; use a checkpoint with the stock scaling'
    )
  return from_config(config, dtype), weights.read(path, _shapes(config))


def _shapes(config):
  """Returns the shapes of the weights; a tied head has none of its own."""
  module = modeling_flax_gpt2.FlaxGPT2LMHeadModule(config)
  ids = jnp.zeros((1, 1), jnp.int32)
  return jax.eval_shape(module.init, jax.random.key(0), ids, ids, ids)['params']


def from_config(config, dtype):
  """Returns the `base.LanguageModel` of a `GPT2Config`; weights apart."""
  module = modeling_flax_gpt2.FlaxGPT2Block(config, dtype=dtype)
  block = blocks.Block(module, modeling_flax_gpt2.FlaxConv1D, 0, _project, _finish)
  final_norm = nn.LayerNorm(epsilon=config.layer_norm_epsilon, dtype=dtype)
  return base.LanguageModel(
    embed=_embed,
    hidden_states=functools.partial(_hidden_states, block, final_norm),
    logits=_logits,
    vocab_size=config.vocab_size,
    width=config.n_embd,
    blocks=config.n_layer,
    heads=config.n_head,
    max_positions=config.n_positions,
    partition=_partition,
  )


def _partition(params, axis, size):
  """Cuts as Megatron-LM does (arXiv:1909.08053); Flax's kernels here are [out, in]."""
  cut = functools.partial(base.cut, axis, size)

  def spec(path, x):
    names = [key.key for key in path]
    if 'wte' in names:
      return cut(x, 0, 1)  # [V, H]
    if 'lm_head' in names:
      return cut(x, 1, 0)  # [H, V]
    if 'c_attn' in names or 'c_fc' in names:  # a block's first products: by the outputs
      return cut(x, 0)
    if 'c_proj' in names and names[-1] == 'kernel':  # its second: by the inputs
      return cut(x, 1)
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(spec, params)


def _embed(params, ids):
  return params['transformer']['wte']['embedding'][ids]


def _hidden_states(
  block,
  final_norm,
  params,
  embeds,
  position_ids,
  mask,
  soft_prompt=None,
  outputs=None,
  cache=None,
  cache_index=None,
):
  params = params['transformer']
  table = params['wpe']['embedding']
  x, keys_values = blocks.run(
    block,
    params['h'],
    [
      (embeds + table[positions],)
      for embeds, positions in blocks.streams(soft_prompt, embeds, position_ids)
    ],
    mask,
    outputs=outputs,
    cache=cache,
    cache_index=cache_index,
  )
  return final_norm.apply({'params': params['ln_f']}, x), keys_values


def _project(block, x):
  qkv = block.attn.c_attn(block.ln_1(x))  # [N, 3H]
  qkv = qkv.reshape(len(x), 3, block.attn.num_heads, -1)
  return qkv[:, 0], qkv[:, 1], qkv[:, 2]  # each [N, heads, D]


def _finish(block, x, attended):
  x = x + block.attn.c_proj(attended)
  return x + block.mlp(block.ln_2(x))


def _logits(params, hidden):
  return blocks.logits(params, params['transformer']['wte']['embedding'], hidden)
