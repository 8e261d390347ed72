"""SmolLM3: Llama of which every fourth block has no rotary embedding."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec
from jaxprompt.lm.families import common

_HONOURED = {
  **keys.with_defaults(
    common.HONOURED | common.WINDOWS,
    vocab_size=128256,
    hidden_size=2048,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=4,
    max_position_embeddings=32768,
    rope_theta=2_000_000.0,
    tie_word_embeddings=True,
    sliding_window=None,
  ),
  'attention_bias': keys.switch(False),
  'mlp_bias': keys.switch(False),
  'use_sliding_window': keys.switch(False),
  'max_window_layers': keys.whole(28),  # of no effect
  'no_rope_layers': keys.list_of((0, 1)),  # 1 = with rotary embedding
  'no_rope_layer_interval': keys.count(4),
}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, _HONOURED, common.FIXED)
  blocks = found['num_hidden_layers']
  if found['no_rope_layers'] is None:
    every = found['no_rope_layer_interval']
    found['no_rope_layers'] = [(i + 1) % every for i in range(blocks)]
  common.check_blocks(path, found, 'no_rope_layers')
  turns = found['no_rope_layers']
  rotary = common.rotary(path, found)
  slides = common.slides(path, found, lambda i: not turns[i])
  window = found['sliding_window'] if found['use_sliding_window'] else None
  attention = found['attention_bias']
  return common.spec(
    path,
    found,
    tuple(rotary[i] if turns[i] else None for i in range(blocks)),
    windows=tuple(window if each else None for each in slides),
    bias=spec.Biases(attention, attention, found['mlp_bias']),
  )
