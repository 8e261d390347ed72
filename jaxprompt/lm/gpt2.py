"""GPT-2: the parameter tree of `FlaxGPT2LMHeadModel`, without dropout."""

import transformers

from jaxprompt import errors
from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec

_NAMES = spec.Names(
  root='transformer',
  embedding='wte',
  positions='wpe',
  blocks='h',
  attention_norm='ln_1',
  attention='attn',
  projections=('c_attn',),
  attention_out='c_proj',
  mlp_norm='ln_2',
  gate=None,
  up='c_fc',
  down='c_proj',
  final_norm='ln_f',
)


_HONOURED = {
  'vocab_size': keys.COUNT,
  'n_embd': keys.COUNT,
  'n_layer': keys.COUNT,
  'n_head': keys.COUNT,
  'n_inner': keys.optional(keys.COUNT),
  'n_positions': keys.COUNT,
  'n_ctx': keys.COUNT,
  'layer_norm_epsilon': keys.NUMBER,
  'tie_word_embeddings': keys.SWITCH,
  'hidden_size': keys.COUNT,
  'num_hidden_layers': keys.COUNT,
  'num_attention_heads': keys.COUNT,
  'max_position_embeddings': keys.COUNT,
}
_FIXED = {
  'activation_function': modules.ACTIVATIONS,
  'scale_attn_weights': [True],
  'scale_attn_by_inverse_layer_idx': [False],
  'add_cross_attention': [False],
  'is_encoder_decoder': [False],
  'pruned_heads': [{}],
}


def read_config(path, config):
  """Returns the `Spec` that a checkpoint's config.json asks for.

  Args:
    path: what the user calls the checkpoint.
    config: the content of config.json.

  Raises:
    UserError: if it asks for what is not honoured here.
  """
  keys.check(path, config, _HONOURED, _FIXED)
  # Of training and tools, transformers would check what does not matter here.
  read = {key: config[key] for key in config if key in {**_HONOURED, **_FIXED}}
  found = spec_of(transformers.GPT2Config.from_dict(read))
  if found.width % found.heads:
    raise errors.UserError(
      f'model.path {path!r} has the width {found.width}, no multiple of its '
      f'{found.heads} heads; correct its config.json'
    )
  return found


def spec_of(config):
  """Returns the `Spec` of a `GPT2Config`."""
  return spec.Spec(
    vocab_size=config.vocab_size,
    width=config.n_embd,
    blocks=config.n_layer,
    heads=config.n_head,
    kv_heads=config.n_head,
    head_dim=config.n_embd // config.n_head,
    mlp_width=config.n_inner or 4 * config.n_embd,
    max_positions=config.n_positions,
    norm='layer',
    epsilon=config.layer_norm_epsilon,
    activation=config.activation_function,
    rope_theta=None,
    bias=True,
    tied=config.tie_word_embeddings,
    kernel_by_outputs=True,
    names=_NAMES,
  )
