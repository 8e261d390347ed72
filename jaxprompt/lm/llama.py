"""Llama from embeddings, by walking the submodules of `FlaxLlamaForCausalLM`.

As with GPT-2, the blocks' projections, norms and MLPs are transformers' own, and only
the attention between them is written out. The stock attention could not be used even
with ids: it turns by 10,000 whatever the checkpoint's `rope_theta` is, and the stock
head is never tied to the embeddings.
"""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from flax import linen as nn
from jax.sharding import PartitionSpec
from transformers.models.llama import modeling_flax_llama

from jaxprompt import errors
from jaxprompt.lm import base
from jaxprompt.lm import blocks
from jaxprompt.lm import weights


def load(path, config, dtype):
  """Reads a checkpoint; arguments and results are those of `gpt2.load`.

  Raises:
    UserError: if the checkpoint asks for what is not honoured here.
  """
  config = _checked(path, config)
  return from_config(config, dtype), weights.read(path, _shapes(config))


def _checked(path, config):
  """Returns the `LlamaConfig` of a config.json."""
  # transformers 5 writes rope_theta into rope_parameters, where 4 does not look.
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  theta = rope.get('rope_theta', config.get('rope_theta', 10000.0))
  config = transformers.LlamaConfig.from_dict(
    {**config, 'rope_theta': theta, 'rope_scaling': None}
  )
  heads, width = config.num_attention_heads, config.hidden_size
  refused = {
    'rope scaling': rope.get('rope_type', rope.get('type', 'default')) != 'default',
    'a rope over a part of each head': rope.get('partial_rotary_factor', 1.0) != 1.0,
    'attention_bias': config.attention_bias,
    'mlp_bias': config.mlp_bias,
    'a head_dim that is not hidden_size / heads': config.head_dim * heads != width,
    'heads that are no multiple of the key-value heads': (
      heads % config.num_key_value_heads
    ),
    f'hidden_act {config.hidden_act!r}': (
      config.hidden_act not in modeling_flax_llama.ACT2FN
    ),
  }
  found = [name for name, is_so in refused.items() if is_so]
  if found:
    raise errors.UserError(
      f'model.path {path!r} has {" and ".join(found)}, which the Flax Llama does not '
      'honour; use a checkpoint without'
    )
  return config


def _shapes(config):
  """Returns the shapes of the weights; a tied head has none of its own."""
  module = modeling_flax_llama.FlaxLlamaForCausalLMModule(_without_tables(config))
  ids = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), ids, ids, ids)['params']
  if config.tie_word_embeddings:
    del shapes['lm_head']
  return shapes


def _without_tables(config):
  """Returns the config for stock modules whose masks and rope tables are not used.

  They hold all positions by all positions, for every block.
  """
  config = copy.copy(config)
  config.max_position_embeddings = 2 * config.head_dim  # fewer cannot be traced
  return config


def from_config(config, dtype):
  """Returns the `base.LanguageModel` of a `LlamaConfig`; weights apart."""
  stock = _without_tables(config)
  module = modeling_flax_llama.FlaxLlamaDecoderLayer(stock, dtype=dtype)
  block = blocks.Block(module, nn.Dense, 1, _project, _finish)
  final_norm = modeling_flax_llama.FlaxLlamaRMSNorm(stock, dtype=dtype)
  frequencies = config.rope_theta ** -(
    np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
  )  # [D / 2]
  return base.LanguageModel(
    embed=_embed,
    hidden_states=functools.partial(_hidden_states, block, final_norm, frequencies),
    logits=_logits,
    vocab_size=config.vocab_size,
    width=config.hidden_size,
    blocks=config.num_hidden_layers,
    heads=config.num_attention_heads,
    max_positions=config.max_position_embeddings,
    partition=_partition,
  )


def _partition(params, axis, size):
  """Cuts as Megatron-LM does (arXiv:1909.08053); kernels are [in, out]."""
  cut = functools.partial(base.cut, axis, size)

  def spec(path, x):
    names = [key.key for key in path]
    if 'embed_tokens' in names:
      return cut(x, 0, 1)  # [V, H]
    if 'lm_head' in names:
      return cut(x, 1, 0)  # [H, V]
    if 'o_proj' in names or 'down_proj' in names:
      return cut(x, 0)  # a block's second products: by the inputs
    if x.ndim == 2:
      return cut(x, 1)  # its first: by the outputs
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(spec, params)


def _embed(params, ids):
  return params['model']['embed_tokens']['embedding'][ids]


def _hidden_states(
  block,
  final_norm,
  frequencies,
  params,
  embeds,
  position_ids,
  mask,
  soft_prompt=None,
  outputs=None,
  cache=None,
  cache_index=None,
):
  params = params['model']
  x, keys_values = blocks.run(
    block,
    params['layers'],
    [
      (embeds, positions[..., None] * frequencies)  # angles [b, t, D / 2] float32
      for embeds, positions in blocks.streams(soft_prompt, embeds, position_ids)
    ],
    mask,
    outputs=outputs,
    cache=cache,
    cache_index=cache_index,
  )
  return final_norm.apply({'params': params['norm']}, x), keys_values


def _project(block, x, angles):
  own = block.self_attn
  normed = block.input_layernorm(x)  # [N, H]
  query = own.q_proj(normed).reshape(len(x), own.num_heads, -1)
  key = own.k_proj(normed).reshape(len(x), own.num_key_value_heads, -1)
  value = own.v_proj(normed).reshape(key.shape)
  return _turn(query, angles), _turn(key, angles), value


def _finish(block, x, attended):
  x = x + block.self_attn.o_proj(attended)
  return x + block.mlp(block.post_attention_layernorm(x))


def _turn(x, angles):
  """Turns [N, heads, D] by the positions' angles [N, D / 2], in float32.

  Su et al. 2021 (arXiv:2104.09864); a pair is a place of the head's first half and
  the same place of its second.
  """
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]  # [N, 1, D / 2]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _logits(params, hidden):
  return blocks.logits(params, params['model']['embed_tokens']['embedding'], hidden)
