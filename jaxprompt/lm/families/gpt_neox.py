"""GPT-NeoX, such as Pythia: attention and MLP side by side, a part of a head turned."""

from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

_HONOURED = {
  'vocab_size': keys.count(50432),
  'hidden_size': keys.count(6144),
  'intermediate_size': keys.count(24576),
  'num_hidden_layers': keys.count(44),
  'num_attention_heads': keys.count(64),
  'hidden_act': keys.one_of(modules.ACTIVATIONS, 'gelu'),
  'max_position_embeddings': keys.count(2048),
  'layer_norm_eps': keys.number(1e-5),
  'rotary_emb_base': keys.number(10000),
  'rotary_pct': keys.number(0.25),
  'rope_scaling': keys.OBJECT,
  'rope_parameters': keys.OBJECT,
  'use_parallel_residual': keys.switch(True),
  'attention_bias': keys.switch(True),
  'tie_word_embeddings': keys.switch(False),
}
_NAMES = spec.Names(
  root='gpt_neox',
  embedding='embed_in',
  attention='attention',
  projections=('query_key_value',),
  attention_out='dense',
  gate=None,
  up='dense_h_to_4h',
  down='dense_4h_to_h',
  final_norm='final_layer_norm',
  head='embed_out',
)


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  rope = common.mapping(config.get('rope_parameters'))
  own = {'rope_theta': 'rotary_emb_base', 'partial_rotary_factor': 'rotary_pct'}
  both = {name: [config.get(key), rope.get(name)] for name, key in own.items()}
  found = keys.read(path, config, _HONOURED, common.FIXED | both)
  found |= {'num_key_value_heads': None, 'head_dim': None}
  found |= {'rms_norm_eps': found['layer_norm_eps']}
  found |= {'rope_theta': found['rotary_emb_base']}
  bias = found['attention_bias']
  return common.spec(
    path,
    found,
    common.rotary(path, found, partial=found['rotary_pct']),
    norm='layer',
    bias=spec.Biases(bias, bias, True),
    by_head=True,
    parallel=found['use_parallel_residual'],
    names=_NAMES,
  )
