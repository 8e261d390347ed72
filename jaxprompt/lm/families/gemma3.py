"""Gemma 3's text models: Gemma 2 with norms of queries and keys, and two rotary bases.

Blocks with a window turn by a base of their own, and of each six the last has none.
"""

from jaxprompt.lm import keys
from jaxprompt.lm.families import common
from jaxprompt.lm.families import gemma
from jaxprompt.lm.families import gemma2

_HONOURED = {
  **keys.with_defaults(
    gemma2.HONOURED,
    vocab_size=262208,
    max_position_embeddings=131072,
    rope_theta=1_000_000.0,
    final_logit_softcapping=None,
  ),
  'rope_local_base_freq': keys.number(10_000.0),
  'sliding_window_pattern': keys.count(6),
}
_SCORE_CAP = 'attn_logit_softcapping'  # which the model does not read
_ROPES = {'sliding_attention': keys.OBJECT, 'full_attention': keys.OBJECT}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  honoured = {key: _HONOURED[key] for key in _HONOURED if key != _SCORE_CAP}
  found = keys.read(path, config, honoured, gemma.FIXED)
  every = found['sliding_window_pattern']
  slides = common.slides(path, found, lambda i: (i + 1) % every != 0)
  ropes = keys.read(path, found['rope_parameters'] or {}, _ROPES, {})
  whole = ropes['full_attention'] or found['rope_scaling'] or {}
  local = ropes['sliding_attention'] or {}
  size = found['head_dim']
  whole = common.frequencies(path, whole, found['rope_theta'], size)
  local = common.frequencies(path, local, found['rope_local_base_freq'], size)
  return gemma.spec(
    path,
    found,
    tuple(local if each else whole for each in slides),
    activation=found['hidden_activation'],
    windows=tuple(found['sliding_window'] if each else None for each in slides),
    query_divisor=found['query_pre_attn_scalar'] ** 0.5,
    logit_cap=found['final_logit_softcapping'],
    names=gemma2.NAMES._replace(query_norm='q_norm', key_norm='k_norm'),
  )
