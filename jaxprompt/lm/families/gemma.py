"""Gemma: Llama with scaled embeddings, norms of 1 + weight, and GELU."""

from jaxprompt.lm import keys
from jaxprompt.lm import spec as spec_lib
from jaxprompt.lm.families import common

GELU = 'gelu_pytorch_tanh'
HONOURED = {
  **keys.with_defaults(
    common.HONOURED,
    vocab_size=256000,
    hidden_size=3072,
    intermediate_size=24576,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=16,
    hidden_act=GELU,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
  ),
  'head_dim': keys.even(256),
  'attention_bias': keys.switch(False),
}
FIXED = {**common.FIXED, 'use_bidirectional_attention': [False]}
_GELUS = {
  # The first release says gelu here, and means its approximation. transformers 4.57
  # would take it at its word, and does not read `hidden_activation`.
  'hidden_act': keys.one_of([GELU, 'gelu'], GELU),
  'hidden_activation': keys.optional(keys.one_of([GELU], GELU)),
}


def read_config(path, config):
  """Returns the `Spec` of a config.json; see `loading.FAMILIES`."""
  found = keys.read(path, config, HONOURED | _GELUS, FIXED)
  return spec(path, found, common.rotary(path, found), activation=GELU)


def spec(path, found, rotary, **own):
  """Returns the `Spec` of what all Gemmas have; `own` is what one has besides."""
  return common.spec(
    path,
    found,
    rotary,
    norm='offset_rms',
    embedding_scale=found['hidden_size'] ** 0.5,
    bias=spec_lib.Biases(found['attention_bias'], found['attention_bias']),
    **own,
  )
