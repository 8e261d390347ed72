"""The Llama family's door: what its config says, and what is refused."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
from conftest import FIXTURES

from jaxprompt import errors
from jaxprompt.lm import loading
from jaxprompt.prompts import model


@pytest.fixture
def folder(tmp_path):
  """A copy of the tied checkpoint to edit."""
  return shutil.copytree(FIXTURES / 'llama', tmp_path / 'models' / 'llama')


def _edit(folder, **fields):
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps({**config, **fields}))


def _logits(folder):
  lm, params, *_ = loading.load(str(folder), 'float32')
  ids = jnp.asarray([[7, 81, 300, 12, 45]])
  embeds = lm.embed(params, ids)
  hidden, _ = model.hidden_states(lm, params, embeds, jnp.ones(ids.shape, bool))
  return lm.logits(params, hidden)


def test_rope_theta_is_read_where_either_release_of_transformers_writes_it(folder):
  expected = _logits(folder)
  _edit(folder, rope_parameters=None, rope_theta=500.0)
  np.testing.assert_array_equal(_logits(folder), expected)
  _edit(folder, rope_theta=10000.0)
  assert not np.allclose(_logits(folder), expected, atol=1e-3)


def test_a_tied_head_that_is_not_the_embeddings_is_refused(folder):
  expected = _logits(folder)
  file = folder / 'model.safetensors'
  arrays = safetensors.flax.load_file(file)
  head = arrays['model.embed_tokens.weight']
  safetensors.flax.save_file({**arrays, 'lm_head.weight': head}, file)
  np.testing.assert_array_equal(_logits(folder), expected)
  safetensors.flax.save_file({**arrays, 'lm_head.weight': head + 1}, file)
  with pytest.raises(errors.UserError, match=r'lm_head.weight is not their table'):
    _logits(folder)
  _edit(folder, tie_word_embeddings=False)
  assert not np.allclose(_logits(folder), expected, atol=1e-3)


def test_the_tokenizers_end_of_text_may_be_one_of_several(folder):
  _edit(folder, eos_token_id=[5, 0])
  loading.load(str(folder), 'float32')
  _edit(folder, eos_token_id=[5, 6])
  with pytest.raises(errors.UserError, match='correct the one that is wrong'):
    loading.load(str(folder), 'float32')


@pytest.mark.parametrize(
  'fields, message',
  [
    (
      {'rope_parameters': {'rope_type': 'yarn', 'factor': 4.0}},
      "rope_type 'yarn' and factor 4.0",
    ),
    (
      {'rope_parameters': None, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}},
      "has type 'dynamic' and factor 2.0 in config.json, which is not honoured here",
    ),
    (
      {'rope_parameters': {'partial_rotary_factor': 0.5}},
      'has partial_rotary_factor 0.5',
    ),
    (
      {'rope_parameters': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1}},
      'lacks high_freq_factor and original_max_position_embeddings in config.json',
    ),
    ({'attention_bias': True}, r'lacks weights that .*k_proj.bias'),
    ({'head_dim': 8}, r'self_attn.\w_proj.weight of shape'),
    ({'num_key_value_heads': 4}, '6 heads, no multiple of its 4 key-value heads'),
    ({'hidden_act': 'xielu'}, "hidden_act 'xielu'"),
    (
      {'num_hidden_layers': 3},
      r'lacks weights that .*: model.layers.2.input_layernorm',
    ),
    ({'tie_word_embeddings': False}, 'lacks weights that .*: lm_head.weight; get'),
    ({'intermediate_size': 41}, r'has model.layers.0.mlp.down_proj.weight of shape'),
  ],
)
def test_what_cannot_be_honoured_is_refused(folder, fields, message):
  _edit(folder, **fields)
  with pytest.raises(errors.UserError, match=message):
    loading.load(str(folder), 'float32')
