"""Llama: the parameter tree of `FlaxLlamaForCausalLM`; a tied head has no weights."""

import transformers

from jaxprompt import errors
from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec

_HONOURED = {
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'max_position_embeddings',
  'rms_norm_eps',
  'rope_theta',
  'rope_parameters',
  'rope_scaling',
  'tie_word_embeddings',
}
_FIXED = {
  'hidden_act': modules.ACTIVATIONS,
  'attention_bias': [False],
  'mlp_bias': [False],
  'rope_interleaved': [False],
  'is_encoder_decoder': [False],
  'add_cross_attention': [False],
  'pruned_heads': [{}],
}
_FIXED_ROPE = {
  'rope_type': ['default'],
  'type': ['default'],
  'partial_rotary_factor': [1.0],
  'factor': [1.0],
}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `gpt2.read_config`."""
  keys.check(path, config, _HONOURED, _FIXED)
  # transformers 5 writes rope_theta into rope_parameters, where 4 does not look.
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  keys.check(path, rope, ('rope_theta',), _FIXED_ROPE)
  theta = rope.get('rope_theta', config.get('rope_theta', 10000.0))
  config = transformers.LlamaConfig.from_dict(
    {**config, 'rope_theta': theta, 'rope_scaling': None}
  )
  if config.num_attention_heads % config.num_key_value_heads:
    raise errors.UserError(
      f'model.path {path!r} has {config.num_attention_heads} heads, no multiple of its '
      f'{config.num_key_value_heads} key-value heads; correct its config.json'
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
