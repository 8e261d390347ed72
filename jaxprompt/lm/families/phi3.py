"""Phi 3 and 4: Llama with one weight for query, key and value, one for gate and up."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

_HONOURED = {
  **keys.with_defaults(
    common.HONOURED,
    vocab_size=32064,
    hidden_size=3072,
    intermediate_size=8192,
    max_position_embeddings=4096,
    rms_norm_eps=1e-5,
  ),
  'sliding_window': keys.optional(keys.count(None)),
  'partial_rotary_factor': keys.number(1.0),
  'original_max_position_embeddings': keys.count(4096),  # of a scaling only
}
_FIXED = {
  **common.FIXED,
  'attention_bias': [False],
  'mlp_bias': [False],
  'lm_head_bias': [False],
  'full_attn_mod': [1],
  'interpolate_factor': [1],
}
_NAMES = spec.Names(projections=('qkv_proj',), gate='gate_up_proj', up='gate_up_proj')


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, _HONOURED, _FIXED)
  return common.spec(
    path,
    found,
    common.rotary(path, found, partial=found['partial_rotary_factor']),
    windows=(found['sliding_window'],) * found['num_hidden_layers'],
    names=_NAMES,
  )
