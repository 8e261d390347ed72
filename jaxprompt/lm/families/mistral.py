"""Mistral: Llama with a sliding window, and a width of its heads of its own."""

from jaxprompt.lm import keys
from jaxprompt.lm.families import common

_HONOURED = keys.with_defaults(
  common.HONOURED,
  intermediate_size=14336,
  num_key_value_heads=8,
  max_position_embeddings=131072,
) | {'sliding_window': common.WINDOWS['sliding_window']}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, _HONOURED, common.FIXED)
  windows = (found['sliding_window'],) * found['num_hidden_layers']
  return common.spec(path, found, common.rotary(path, found), windows=windows)
