"""GPT-2: the parameter tree of `FlaxGPT2LMHeadModel`, without dropout."""

import transformers

from jaxprompt import errors
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


def read_config(path, config):
  """Returns the `Spec` that a checkpoint's config.json asks for.

  Args:
    path: what the user calls the checkpoint.
    config: the content of config.json.

  Raises:
    UserError: if it asks for what is not honoured here.
  """
  config = transformers.GPT2Config.from_dict(config)
  if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
    raise errors.UserError(
      f'model.path {path!r} scales its attention by block '
      '(scale_attn_by_inverse_layer_idx, or no scale_attn_weights), which is not '
      'honoured here; use a checkpoint with the stock scaling'
    )
  if config.activation_function not in modules.ACTIVATIONS:
    raise errors.UserError(
      f'model.path {path!r} has activation_function {config.activation_function!r}; '
      f'expected one of {", ".join(modules.ACTIVATIONS)}'
    )
  return spec_of(config)


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
