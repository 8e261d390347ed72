"""What a family reads of a config.json, and what it refuses; nothing is computed."""

import json

import jax
import numpy as np
import pytest
from conftest import FAMILIES
from conftest import FIXTURES

from jaxprompt import errors
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model
from jaxprompt.lm import partition
from jaxprompt.lm.families import common

# Of public checkpoints: what their config.json says, as transformers 4 writes it, and
# how many parameters their model cards count.
_LLAMA_32 = {
  'hidden_size': 2048,
  'intermediate_size': 8192,
  'num_hidden_layers': 16,
  'num_attention_heads': 32,
  'num_key_value_heads': 8,
  'head_dim': 64,
  'vocab_size': 128256,
  'max_position_embeddings': 131072,
  'rope_theta': 500000.0,
  'rope_scaling': {
    'factor': 32.0,
    'high_freq_factor': 4.0,
    'low_freq_factor': 1.0,
    'original_max_position_embeddings': 8192,
    'rope_type': 'llama3',
  },
  'tie_word_embeddings': True,
}
_PUBLIC = {
  'pythia-70m': (
    'gpt_neox',
    {
      'hidden_size': 512,
      'intermediate_size': 2048,
      'num_hidden_layers': 6,
      'num_attention_heads': 8,
      'vocab_size': 50304,
      'rotary_emb_base': 10000,
      'rotary_pct': 0.25,
      'use_parallel_residual': True,
    },
    70_426_624,
  ),
  'Llama-3.2-1B': ('llama', _LLAMA_32, 1_235_814_400),
  'Mistral-7B-v0.1': (
    'mistral',
    {'max_position_embeddings': 32768, 'rms_norm_eps': 1e-5, 'sliding_window': 4096},
    7_241_732_096,
  ),
  'Qwen2.5-0.5B': (
    'qwen2',
    {
      'hidden_size': 896,
      'intermediate_size': 4864,
      'num_hidden_layers': 24,
      'num_attention_heads': 14,
      'num_key_value_heads': 2,
      'max_window_layers': 24,
      'sliding_window': 32768,
      'use_sliding_window': False,
      'use_mrope': False,
      'rope_theta': 1000000.0,
      'tie_word_embeddings': True,
    },
    494_032_768,
  ),
  'Qwen3-0.6B': (
    'qwen3',
    {
      'hidden_size': 1024,
      'intermediate_size': 3072,
      'num_hidden_layers': 28,
      'num_attention_heads': 16,
      'num_key_value_heads': 8,
      'head_dim': 128,
      'max_window_layers': 28,
      'sliding_window': None,
      'rope_scaling': None,
      'rope_theta': 1000000,
      'tie_word_embeddings': True,
    },
    596_049_920,
  ),
  'gemma-2b': (
    'gemma',
    {
      'hidden_size': 2048,
      'intermediate_size': 16384,
      'num_hidden_layers': 18,
      'num_attention_heads': 8,
      'num_key_value_heads': 1,
      'hidden_act': 'gelu',
      'hidden_activation': None,
    },
    2_506_172_416,
  ),
  'gemma-2-2b': (
    'gemma2',
    {'hidden_act': 'gelu_pytorch_tanh', 'cache_implementation': 'hybrid'},
    2_614_341_888,
  ),
  'gemma-3-1b-it': (
    'gemma3_text',
    {
      'hidden_size': 1152,
      'intermediate_size': 6912,
      'num_attention_heads': 4,
      'num_key_value_heads': 1,
      'vocab_size': 262144,
      'sliding_window': 512,
      'sliding_window_pattern': 6,
      'rope_local_base_freq': 10000,
      'rope_theta': 1000000,
      'attn_logit_softcapping': None,
    },
    999_885_952,
  ),
  'SmolLM3-3B': (
    'smollm3',
    {
      'layer_types': ['full_attention'] * 36,
      'no_rope_layers': [1, 1, 1, 0] * 9,
      'pretraining_tp': 2,
      'rope_theta': 5000000.0,
    },
    3_075_098_624,
  ),
  'Phi-3-mini-4k-instruct': (
    'phi3',
    {
      'attention_bias': False,
      'num_key_value_heads': 32,
      'original_max_position_embeddings': 4096,
      'sliding_window': 2047,
    },
    3_821_079_552,
  ),
}


@pytest.mark.parametrize('name', _PUBLIC)
def test_a_public_checkpoint_has_the_parameters_that_its_card_counts(name):
  family, config, parameters = _PUBLIC[name]
  spec = loading.FAMILIES[family](name, config)
  shapes = model.shapes(model.LanguageModel(spec, np.float32))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def _spec(name):
  family, config, _ = _PUBLIC[name]
  return loading.FAMILIES[family](name, config)


def test_windows_and_rotary_bases_are_each_blocks_own():
  mistral, gemma2 = _spec('Mistral-7B-v0.1'), _spec('gemma-2-2b')
  assert set(mistral.windows) == {4096}
  assert set(_spec('Qwen2.5-0.5B').windows) == {None}
  assert gemma2.windows == (4096, None) * 13
  gemma3 = _spec('gemma-3-1b-it')
  assert gemma3.windows[:7] == (512,) * 5 + (None, 512)
  local, whole = gemma3.rotary[0], gemma3.rotary[5]
  assert gemma3.rotary[:7] == (local,) * 5 + (whole, local)
  # The slowest of 128 pairs: base ** -(254 / 256).
  assert local[-1] == pytest.approx(1e4 ** -(254 / 256), rel=1e-6)
  assert whole[-1] == pytest.approx(1e6 ** -(254 / 256), rel=1e-6)
  smollm3 = _spec('SmolLM3-3B')
  assert [i for i in range(36) if smollm3.rotary[i] is None] == [*range(3, 36, 4)]


def test_llama_3s_scaling_keeps_the_fast_pairs_and_slows_the_slow_ones():
  plain = 500000.0 ** -(np.arange(32) / 32)
  ratio = np.asarray(_spec('Llama-3.2-1B').rotary[0]) / plain
  turns = 8192 * plain / (2 * np.pi)  # over the positions of the original training
  np.testing.assert_allclose(ratio[turns > 4], 1, rtol=1e-5)
  np.testing.assert_allclose(ratio[turns < 1], 1 / 32, rtol=1e-5)
  between = ratio[(turns > 1) & (turns < 4)]
  assert len(between) and (np.diff(between) < 0).all()


# A key of each family's own that cannot be honoured, and keys that none knows.
_REFUSED = {
  'gpt2': ({'scale_attn_by_inverse_layer_idx': True}, 'by_inverse_layer_idx True'),
  'gpt_neox': ({'rotary_pct': 0.27}, 'rotary embedding of 25 places of a head'),
  'llama': ({'rope_interleaved': True}, 'rope_interleaved True'),
  'mistral': ({'layer_types': ['sliding_attention']}, 'has layer_types '),
  'qwen2': ({'use_mrope': True}, 'use_mrope True'),
  'qwen3': (
    {'layer_types': ['chunked_attention']},
    'layer_types .* expected a li',
  ),
  'gemma': (
    {'hidden_act': 'relu'},
    "hidden_act 'relu' .* expected one of gelu_",
  ),
  'gemma2': ({'use_bidirectional_attention': True}, 'bidirectional_attention True'),
  'gemma3_text': ({'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping 50.0'),
  'smollm3': (
    {'no_rope_layers': [1, 0]},
    'no_rope_layers of 2 blocks, but num_hid',
  ),
  'phi3': ({'rope_scaling': {'type': 'longrope'}}, "has type 'longrope'"),
}


@pytest.mark.parametrize('family', loading.FAMILIES)
def test_a_key_that_a_family_cannot_honour_is_refused_by_name(family):
  fields, message = _REFUSED[family]
  read = loading.FAMILIES[family]
  read('x', {})
  for wrong, expected in [
    (fields, message),
    ({'unheard_of': 1}, 'has unheard_of 1 in config.json, which is not honoured here'),
    ({'quantization_config': {'bits': 4}}, "has quantization_config {'bits': 4} in"),
  ]:
    with pytest.raises(errors.UserError, match=expected):
      read('x', wrong)


_ROPE = {'rope_type': 'default', 'rope_theta': 1e4}
_ROPES = {'full_attention': _ROPE, 'sliding_attention': _ROPE}


@pytest.mark.parametrize('parameters', [_ROPE, _ROPES])
def test_keys_of_the_rotary_embedding_may_be_said_twice_if_alike(parameters):
  common.check_rope('x', {'rope_parameters': parameters, 'rope_theta': 1e4})


@pytest.mark.parametrize(
  'parameters, key, value, differing',
  [
    (_ROPE, 'rope_scaling', {'rope_type': 'linear', 'factor': 4}, 'rope_type, factor'),
    (_ROPES, 'rope_scaling', {'rope_type': 'linear', 'factor': 4}, 'rope_type, factor'),
    (_ROPE, 'rope_theta', 5e5, 'rope_theta'),
    (_ROPES, 'rope_theta', 5e5, 'rope_theta'),
    (_ROPE, 'rotary_emb_base', 5e5, 'rotary_emb_base'),
    (_ROPES, 'rotary_emb_base', 5e5, 'rotary_emb_base'),
    (_ROPES, 'rope_local_base_freq', 5e5, 'rope_local_base_freq'),
  ],
)
def test_two_keys_of_the_rotary_embedding_may_not_differ(
  parameters, key, value, differing
):
  with pytest.raises(errors.UserError, match=f'other keys there in {differing};'):
    common.check_rope('x', {'rope_parameters': parameters, key: value})


@pytest.mark.parametrize('family', ['llama', 'gpt_neox', 'gemma3_text'])
def test_rope_parameters_that_are_no_object_are_one_line(family):
  common.check_rope('x', {'rope_parameters': [1]})
  with pytest.raises(errors.UserError, match=r'has rope_parameters .1. .* an object'):
    loading.FAMILIES[family]('x', {'rope_parameters': [1]})


def test_the_rotary_embedding_may_be_said_twice_alike():
  scaling = {'rope_type': 'linear', 'factor': 4.0}
  both = {'rope_scaling': scaling, 'rope_parameters': scaling | {'rope_theta': 1e4}}
  common.check_rope('x', both)
  read = loading.FAMILIES['llama']
  assert read('x', both) == read('x', {'rope_scaling': scaling, 'rope_theta': 1e4})


def test_pythias_keys_may_have_been_renamed_by_both_lines_of_transformers():
  own = {'rope_theta': 5e3, 'partial_rotary_factor': 0.5}
  both = own | {'rope_parameters': own}
  common.check_rope('x', both)
  read = loading.FAMILIES['gpt_neox']
  assert read('x', both) == read('x', {'rotary_emb_base': 5e3, 'rotary_pct': 0.5})


def test_gemma_with_the_exact_gelu_is_refused():
  with pytest.raises(errors.UserError, match="has hidden_activation 'gelu'"):
    loading.FAMILIES['gemma']('x', {'hidden_activation': 'gelu'})


def test_qwens_windows_may_begin_at_the_first_block():
  config = {'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 0}
  assert set(loading.FAMILIES['qwen2']('x', config).windows) == {8}


def _as_transformers_4(config):
  """Returns a config.json with the rotary embedding as transformers 4 writes it."""
  config = dict(config)
  rope = config.pop('rope_parameters', None)
  if rope is None:
    return config
  if near := rope.get('sliding_attention'):
    config['rope_local_base_freq'] = near['rope_theta']
    rope = rope['full_attention']
  rope = dict(rope)
  neox = config['model_type'] == 'gpt_neox'
  theta, share = rope.pop('rope_theta'), rope.pop('partial_rotary_factor', None)
  config['rotary_emb_base' if neox else 'rope_theta'] = theta
  if share is not None:
    config['rotary_pct' if neox else 'partial_rotary_factor'] = share
  config['rope_scaling'] = None if rope['rope_type'] == 'default' else rope
  return config


@pytest.mark.parametrize('name', FAMILIES)
def test_both_lines_of_transformers_write_the_same_model(name):
  config = json.loads((FIXTURES / name / 'config.json').read_text())
  read = loading.FAMILIES[config['model_type']]
  assert read('x', _as_transformers_4(config)) == read('x', config)


@pytest.mark.parametrize('name', FAMILIES)
def test_two_devices_hold_half_of_every_familys_matrices(name):
  config = json.loads((FIXTURES / name / 'config.json').read_text())
  spec = loading.FAMILIES[config['model_type']]('x', config)
  shapes = model.shapes(model.LanguageModel(spec, np.float32))
  cut = partition.partition(spec, shapes, devices.MODEL, 2)
  whole = {
    jax.tree_util.keystr(path, simple=True, separator='.')
    for path, x in jax.tree.leaves_with_path(shapes)
    if x.ndim == 2 and devices.MODEL not in cut_of(cut, path)
  }
  assert whole == ({'transformer.wpe.embedding'} if name == 'gpt2' else set())


def cut_of(cut, path):
  for key in path:
    cut = cut[key.key]
  return cut
