"""Gemma 2: Gemma with norms after attention and MLP, soft caps, every other window."""

from jaxprompt.lm import keys
from jaxprompt.lm import modules
from jaxprompt.lm import spec
from jaxprompt.lm.families import common
from jaxprompt.lm.families import gemma

HONOURED = {
  **keys.with_defaults(
    gemma.HONOURED,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
  ),
  **common.WINDOWS,
  'hidden_activation': keys.one_of(modules.ACTIVATIONS, gemma.GELU),
  'query_pre_attn_scalar': keys.number(256),
  'final_logit_softcapping': keys.optional(keys.number(30.0)),
  'attn_logit_softcapping': keys.optional(keys.number(50.0)),
}
NAMES = spec.Names(
  attention_out_norm='post_attention_layernorm',
  mlp_norm='pre_feedforward_layernorm',
  mlp_out_norm='post_feedforward_layernorm',
)


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  fixed = gemma.FIXED | {'sliding_window_size': [config.get('sliding_window')]}
  found = keys.read(path, config, HONOURED, fixed)
  slides = common.slides(path, found, lambda i: i % 2 == 0)
  return gemma.spec(
    path,
    found,
    common.rotary(path, found),
    activation=found['hidden_activation'],
    windows=tuple(found['sliding_window'] if each else None for each in slides),
    query_divisor=found['query_pre_attn_scalar'] ** 0.5,
    score_cap=found['attn_logit_softcapping'],
    logit_cap=found['final_logit_softcapping'],
    names=NAMES,
  )
