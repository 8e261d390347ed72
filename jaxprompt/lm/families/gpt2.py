"""GPT-2: the parameter tree of `FlaxGPT2LMHeadModel`, without dropout."""

from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

_HONOURED = {
  'vocab_size': keys.count(50257),
  'n_embd': keys.count(768),
  'n_layer': keys.count(12),
  'n_head': keys.count(12),
  'n_inner': keys.optional(keys.count(None)),  # null = 4 n_embd
  'n_positions': keys.count(1024),
  'n_ctx': keys.count(1024),  # an older name, of no effect
  'layer_norm_epsilon': keys.number(1e-5),
  'activation_function': keys.one_of(modules.ACTIVATIONS, 'gelu_new'),
  'tie_word_embeddings': keys.switch(True),
}
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
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  fixed = {'scale_attn_weights': [True], 'scale_attn_by_inverse_layer_idx': [False]}
  found = keys.read(path, config, _HONOURED, common.FIXED | fixed)
  width, heads, blocks = found['n_embd'], found['n_head'], found['n_layer']
  return spec.Spec(
    vocab_size=found['vocab_size'],
    width=width,
    blocks=blocks,
    heads=heads,
    kv_heads=heads,
    head_dim=common.head_dim(path, width, heads),
    mlp_width=found['n_inner'] or 4 * width,
    max_positions=found['n_positions'],
    norm='layer',
    epsilon=found['layer_norm_epsilon'],
    activation=found['activation_function'],
    rotary=(None,) * blocks,
    windows=(None,) * blocks,
    bias=spec.Biases(True, True, True),
    tied=found['tie_word_embeddings'],
    kernel_by_outputs=True,
    names=_NAMES,
  )
