"""Llama, 1 to 3: the parameter tree of `FlaxLlamaForCausalLM`; a tied head has none."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

_HONOURED = {
  **common.HONOURED,
  'attention_bias': keys.switch(False),
  'mlp_bias': keys.switch(False),
}
_FIXED = {**common.FIXED, 'rope_interleaved': [False]}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, _HONOURED, _FIXED)
  attention = found['attention_bias']
  return common.spec(
    path,
    found,
    common.rotary(path, found),
    bias=spec.Biases(attention, attention, found['mlp_bias']),
  )
