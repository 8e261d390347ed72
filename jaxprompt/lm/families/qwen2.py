"""Qwen 2 and 2.5: Llama with biases of query, key and value."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

HONOURED = {
  **keys.with_defaults(
    common.HONOURED,
    vocab_size=151936,
    intermediate_size=22016,
    num_key_value_heads=32,
    max_position_embeddings=32768,
  ),
  **common.WINDOWS,
  'use_sliding_window': keys.switch(False),
  'max_window_layers': keys.whole(28),
}
_FIXED = {**common.FIXED, 'use_mrope': [False]}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, HONOURED, _FIXED)
  return common.spec(
    path,
    found,
    common.rotary(path, found),
    bias=spec.Biases(projections=True),
    windows=windows(path, found),
  )


def windows(path, found):
  """Returns the window of each block; only the later ones may have one."""
  window = found['sliding_window'] if found['use_sliding_window'] else None
  slides = common.slides(path, found, lambda i: i >= found['max_window_layers'])
  return tuple(window if each else None for each in slides)
