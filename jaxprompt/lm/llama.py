"""Llama: the parameter tree of `FlaxLlamaForCausalLM`; a tied head has no weights."""

import transformers

from jaxprompt import errors
from jaxprompt.lm import modules
from jaxprompt.lm import spec


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `gpt2.read_config`."""
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
    f'hidden_act {config.hidden_act!r}': (config.hidden_act not in modules.ACTIVATIONS),
  }
  found = [name for name, is_so in refused.items() if is_so]
  if found:
    raise errors.UserError(
      f'model.path {path!r} has {" and ".join(found)}, which is not honoured here; '
      'use a checkpoint without'
    )
  return spec_of(config)


def spec_of(config):
  """Returns the `Spec` of a `LlamaConfig`."""
  return spec.Spec(
    vocab_size=config.vocab_size,
    width=config.hidden_size,
    blocks=config.num_hidden_layers,
    heads=config.num_attention_heads,
    kv_heads=config.num_key_value_heads,
    head_dim=config.head_dim,
    mlp_width=config.intermediate_size,
    max_positions=config.max_position_embeddings,
    norm='rms',
    epsilon=config.rms_norm_eps,
    activation=config.hidden_act,
    rope_theta=config.rope_theta,
    bias=False,
    tied=config.tie_word_embeddings,
    kernel_by_outputs=False,
  )
