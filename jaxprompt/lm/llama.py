"""Llama: the parameter tree of `FlaxLlamaForCausalLM`; a tied head has no weights."""

import transformers

from jaxprompt import errors
from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec

_HONOURED = {
  'vocab_size': keys.COUNT,
  'hidden_size': keys.COUNT,
  'intermediate_size': keys.COUNT,
  'num_hidden_layers': keys.COUNT,
  'num_attention_heads': keys.COUNT,
  'num_key_value_heads': keys.optional(keys.COUNT),
  'head_dim': keys.optional(keys.EVEN),
  'max_position_embeddings': keys.COUNT,
  'rms_norm_eps': keys.NUMBER,
  'rope_theta': keys.NUMBER,
  'rope_parameters': keys.optional(keys.OBJECT),
  'rope_scaling': keys.optional(keys.OBJECT),
  'tie_word_embeddings': keys.SWITCH,
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
  keys.check(path, rope, {'rope_theta': keys.NUMBER}, _FIXED_ROPE)
  theta = rope.get('rope_theta', config.get('rope_theta', 10000.0))
  read = {key: config[key] for key in config if key in {**_HONOURED, **_FIXED}}
  read = {**read, 'rope_theta': theta, 'rope_scaling': None, 'rope_parameters': None}
  config = transformers.LlamaConfig.from_dict(read)
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
