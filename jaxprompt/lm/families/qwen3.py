"""Qwen 3: Llama with norms of queries and keys, and a width of its heads of its own."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec
from jaxprompt.lm.families import common
from jaxprompt.lm.families import qwen2

_HONOURED = {
  **keys.with_defaults(qwen2.HONOURED, head_dim=128),
  'attention_bias': keys.switch(False),
}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, _HONOURED, common.FIXED)
  bias = found['attention_bias']
  return common.spec(
    path,
    found,
    common.rotary(path, found),
    bias=spec.Biases(bias, bias),
    windows=qwen2.windows(path, found),
    names=spec.Names(query_norm='q_norm', key_norm='k_norm'),
  )
