"""What is loaded is what was asked for; what cannot be is refused in one line."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import transformers
from conftest import FAMILIES
from conftest import FIXTURES

from jaxprompt import errors
from jaxprompt.infer import evaluate
from jaxprompt.lm import loading
from jaxprompt.tasks import template

LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n'


@pytest.fixture(params=['gpt2', 'llama'])
def folder(request, tmp_path):
  """A copy of a checkpoint to spoil."""
  return shutil.copytree(FIXTURES / request.param, tmp_path / request.param)


def _edit(folder, file='config.json', **fields):
  content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
  (folder / file).write_text(json.dumps({**content, **fields}))


def _edit_weights(folder, edit):
  file = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  edit(arrays)
  safetensors.numpy.save_file(arrays, file)


def _refused(folder, message):
  with pytest.raises(errors.UserError, match=message) as e:
    loading.load(str(folder), 'float32')
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'quantization_config': {'load_in_8bit': True}}, 'has quantization_config '),
    ({'sliding_window': 9}, 'has sliding_window 9 in config.json, which is not hon'),
    ({'attention_multiplier': 2.0, 'logit_scale': 3}, 'multiplier 2.0 and logit_scale'),
    ({'pruned_heads': {'0': [1]}}, 'has pruned_heads'),
    ({'is_encoder_decoder': True}, 'has is_encoder_decoder True'),
    (
      {'model_type': 'mamba'},
      "has model_type 'mamba'; expected one of gemma, gemm",
    ),
    (
      {'eos_token_id': 7},
      r'end of text 0 .* by eos_token in tokenizer_config.json, \[',
    ),
  ],
)
def test_a_key_that_changes_the_mathematics_is_refused(folder, fields, message):
  _edit(folder, **fields)
  _refused(folder, message)


@pytest.mark.parametrize('name', ['gelu_10', 'relu2', 'unheard_of'])
def test_an_activation_that_is_not_known_is_refused(folder, name):
  key = {'gpt2': 'activation_function', 'llama': 'hidden_act'}[folder.name]
  _edit(folder, **{key: name})
  _refused(folder, f'has {key} {name!r} in config.json')


@pytest.mark.parametrize(
  'family, fields, message',
  [
    ('gpt2', {'layer_norm_epsilon': 0}, 'has layer_norm_epsilon 0 .* a number above 0'),
    ('gpt2', {'n_head': 5}, 'has the width 24, no multiple of its 5 heads'),
    ('llama', {'rope_scaling': 'linear'}, "has rope_scaling 'linear' .* an object"),
    ('llama', {'num_key_value_heads': 0}, 'has num_key_value_heads 0 in config.json'),
    (
      'llama',
      {'head_dim': 5},
      'has head_dim 5 in config.json; expected an even',
    ),
  ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path, family, fields, message):
  folder = shutil.copytree(FIXTURES / family, tmp_path / family)
  _edit(folder, **fields)
  _refused(folder, message)


def test_keys_that_cannot_matter_to_the_logits_do_not(folder):
  expected = loading.load(str(folder), 'float32')
  _edit(
    folder,
    _name_or_path='x',
    unsloth_version='1',
    torch_dtype='float16',
    task_specific_params={'text-generation': {'do_sample': True, 'max_length': 50}},
    auto_map={'AutoModel': 'code.Model'},
    id2label={'0': 'a'},
    author='somebody',
    use_cache=False,
    temperature=0.7,
    pruned_heads={},
    cross_attention_hidden_size=None,
    sliding_window=None,
  )
  found = loading.load(str(folder), 'float32')
  assert found.lm == expected.lm and found.fingerprint == expected.fingerprint


def _int8(arrays):
  name = next(
    name for name in arrays if name.endswith('mlp.c_fc.weight') or 'up' in name
  )
  arrays[name] = np.ones(arrays[name].shape, np.int8)


def _scales(arrays):
  arrays['model.layers.0.mlp.up_proj.SCB'] = np.ones(3, np.float32)


def _nan(arrays):
  name = sorted(arrays)[0]
  arrays[name] = np.full_like(arrays[name], np.nan)


def _twice(arrays):
  name = sorted(arrays)[0]
  arrays[f'module.{name}'] = arrays[name] + 1


def _overflows(arrays):
  name = sorted(arrays)[0]
  arrays[name] = np.full(arrays[name].shape, 1e300)


def _head_bias(arrays):
  arrays['lm_head.bias'] = np.ones(320, np.float32)


@pytest.mark.parametrize(
  'edit, message',
  [
    (_int8, 'of type I8, which are the codes of a quantized weight'),
    (_scales, 'that its model has no use for: model.layers.0.mlp.up_proj.SCB; use'),
    (_head_bias, 'that its model has no use for: lm_head.bias; use'),
    (_nan, 'with numbers that are not finite in float32; get the checkpoint again'),
    (_overflows, 'with numbers that are not finite in float32; get the checkpoint'),
    (_twice, 'twice, with and without a wrapper in its name; keep one'),
  ],
)
def test_weights_that_are_not_the_models_are_refused(folder, edit, message):
  _edit_weights(folder, edit)
  _refused(folder, message)


def test_masks_and_tables_that_older_releases_stored_are_needless(folder):
  def add(arrays):
    arrays['transformer.h.0.attn.bias'] = np.ones((1, 1, 4, 4), np.uint8)
    arrays['h.1.attn.masked_bias'] = np.ones((), np.float32)
    arrays['model.layers.0.self_attn.rotary_emb.inv_freq'] = np.ones(2, np.float32)
    arrays['lm_head.weight'] = arrays.get(
      'model.embed_tokens.weight', arrays.get('transformer.wte.weight')
    )

  expected = loading.load(str(folder), 'float32').fingerprint
  _edit_weights(folder, add)
  assert loading.load(str(folder), 'float32').fingerprint == expected


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module.', 'module._orig_mod.'])
def test_names_that_wrappers_made_are_read(folder, prefix):
  def rename(arrays):
    for name in list(arrays):
      arrays[prefix + name] = arrays.pop(name)

  expected = loading.load(str(folder), 'float32').fingerprint
  _edit_weights(folder, rename)
  assert loading.load(str(folder), 'float32').fingerprint == expected


@pytest.mark.parametrize(
  'file, text, message',
  [
    ('config.json', '', 'config.json cannot be read: Expecting value'),
    ('config.json', '{"model_type": "gp', 'config.json cannot be read: Untermin'),
    ('config.json', '[1]', r'config.json holds \[1\]; expected a JSON object'),
    ('config.json', LFS, 'is a Git LFS pointer, not the file itself; .* git lfs pull'),
    ('model.safetensors', LFS, 'model.safetensors is a Git LFS pointer'),
    ('model.safetensors', 'x' * 100, 'model.safetensors cannot be read: '),
    ('model.safetensors', '', 'model.safetensors cannot be read: '),
    ('tokenizer.json', LFS, 'tokenizer.json is a Git LFS pointer'),
    ('tokenizer.json', '', 'tokenizer.json cannot be read: Expecting value'),
    ('tokenizer.json', '{"version": "1.0"', 'tokenizer.json cannot be read: Expect'),
    (
      'tokenizer.json',
      '{"version": "1.0", "model": {"type": "Newer"}}',
      'tokenizer.json cannot be read: .*; tokenizers .* may be older than the file: up',
    ),
    ('tokenizer_config.json', '{"tokenizer', 'tokenizer_config.json cannot be read'),
  ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_remedy(
  folder, file, text, message
):
  (folder / file).write_text(text)
  _refused(folder, message)


def _empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def _deepen(folder):
  key = {'gpt2': 'n_layer', 'llama': 'num_hidden_layers'}[folder.name]
  _edit(folder, **{key: 3})


def _rename_weights(folder):
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')


@pytest.mark.parametrize(
  'spoil, message',
  [
    (shutil.rmtree, 'is not a directory; expected a checkpoint directory or the id'),
    (_empty, 'has no config.json'),
    (_rename_weights, 'pickled weights can run code when they are read'),
    (_deepen, 'lacks weights that its config asks for'),
    (lambda f: _edit(f, vocab_size=321), r'its config asks for \(321, 24\)'),
    (lambda f: _edit(f, vocab_size=100), "put the model's own tokenizer there"),
  ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(folder, spoil, message):
  spoil(folder)
  _refused(folder, message)


def test_a_missing_tokenizer_is_named(folder):
  (folder / 'tokenizer.json').unlink()
  _refused(folder, r'has no tokenizer.json; put the one of the model there')


def test_a_tokenizer_without_an_end_of_text_names_the_key_to_set(folder):
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  config = {k: v for k, v in config.items() if 'token' not in k or k.endswith('class')}
  config |= {'tokenizer_class': 'PreTrainedTokenizerFast'}
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  _refused(folder, 'without an end of text; set eos_token in its tokenizer_config')


def _add_token(folder, special):
  """Adds a token after the table of 320 embeddings."""
  file = folder / 'tokenizer.json'
  content = json.loads(file.read_text())
  added = {**content['added_tokens'][0], 'id': 320, 'content': '<x>'}
  content['added_tokens'].append({**added, 'special': special})
  # tokenizers gives an added token the next free id, unless the vocabulary has it.
  content['model']['vocab']['<x>'] = 320
  file.write_text(json.dumps(content))


@pytest.mark.parametrize(
  'special, fields, refused',
  [
    (False, {}, True),
    (True, {}, False),  # a text that spells it stays text
    (True, {'chat_template': '<x>{{ messages[0].content }}'}, True),
    (True, {'eos_token': '<x>'}, True),
  ],
)
def test_a_token_beyond_the_embeddings_is_refused_if_a_text_becomes_it(
  folder, special, fields, refused
):
  _add_token(folder, special)
  _edit(folder, 'tokenizer_config.json', **fields)
  _edit(folder, eos_token_id=None)
  if refused:
    _refused(
      folder, 'tokens <x> have no row in the 320 embeddings of its model; put the'
    )
    return
  model = loading.load(str(folder), 'float32')
  ids, _ = template.encode(model.tokenizer, 'a <x>')
  assert max(ids) < 320


def test_no_end_of_text_in_the_config_is_the_tokenizers(folder):
  _edit(folder, eos_token_id=None)
  loading.load(str(folder), 'float32')
  _edit(folder, 'generation_config.json', eos_token_id=[5, 6])
  _refused(folder, r'\[5, 6\] by eos_token_id in config.json and generation_config')


def test_code_in_a_checkpoint_is_refused_and_never_asked_about(folder, monkeypatch):
  def ask(*_):
    raise AssertionError('asked')

  monkeypatch.setattr('builtins.input', ask)
  (folder / 'code.py').write_text('raise SystemExit("run")')
  for auto_map in ({'AutoTokenizer': ['code.T', None]}, ['code.T', None]):
    _edit(folder, 'tokenizer_config.json', auto_map=auto_map)
    _refused(folder, r'has a tokenizer that is code of its own .* which is never run')


def test_a_bug_of_ours_is_no_mistake_of_the_users(folder, monkeypatch):
  def broken(*_):
    raise ValueError('ours')

  monkeypatch.setitem(loading.FAMILIES, folder.name, broken)
  with pytest.raises(ValueError, match=r'^ours$') as e:
    loading.load(str(folder), 'float32')
  assert not isinstance(e.value, errors.UserError)


def test_a_fingerprint_is_of_the_content_wherever_it_lies(folder, tmp_path):
  expected = loading.load(str(folder), 'float32').fingerprint
  moved = shutil.copytree(folder, tmp_path / 'elsewhere')
  assert loading.load(str(moved), 'bfloat16').fingerprint == expected

  def change(arrays):
    arrays[sorted(arrays)[0]][..., 0] += 1

  _edit_weights(moved, change)
  changed = loading.load(str(moved), 'float32').fingerprint
  assert changed['weights'] != expected['weights']
  assert changed['tokenizer'] == expected['tokenizer']
  # What no weight tells of counts, too.
  epsilon = {'gpt2': 'layer_norm_epsilon', 'llama': 'rms_norm_eps'}[folder.name]
  _edit(folder, **{epsilon: 0.01})
  other = loading.load(str(folder), 'float32').fingerprint
  assert other['weights'] != expected['weights']


@pytest.mark.parametrize('name', FAMILIES)
def test_the_tokenizer_is_its_file_whatever_class_the_config_names(name):
  own = tokenizers.Tokenizer.from_file(str(FIXTURES / name / 'tokenizer.json'))
  model = loading.load(str(FIXTURES / name), 'float32')
  assert model.tokenizer.backend_tokenizer.to_str() == own.to_str()
  # By every release: a run that began with one of them goes on with another.
  assert model.fingerprint['tokenizer'].startswith('c840e56f0d51')


@pytest.mark.parametrize('name', ['TokenizersBackend', 'GPT2Tokenizer'])
def test_a_tokenizer_that_transformers_5_saved_is_read_by_both_lines(folder, name):
  expected = loading.load(str(folder), 'float32')
  for file in ('special_tokens_map.json', 'vocab.json', 'merges.txt'):
    (folder / file).unlink(missing_ok=True)
  content = {
    'backend': 'tokenizers',
    'eos_token': '<|endoftext|>',
    'extra_special_tokens': ['<|endoftext|>'],
    'is_local': True,
    'model_max_length': 192,
    'tokenizer_class': name,
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(content))
  found = loading.load(str(folder), 'float32')
  assert found.fingerprint == expected.fingerprint
  assert found.lm.end_ids == expected.lm.end_ids


def test_what_the_tokenizers_file_puts_before_a_text_is_all_that_is(folder):
  _edit(
    folder,
    'tokenizer_config.json',
    tokenizer_class='LlamaTokenizerFast',
    add_bos_token=True,
  )
  model = loading.load(str(folder), 'float32')
  assert template.Template(model.tokenizer).start_ids == ()


def _sentencepiece():
  """A tokenizer as Llama 2's: a word's space is a part of its piece."""
  pieces = [('<unk>', 0.0), ('</s>', 0.0), ('▁the', -1.0), ('▁', -3.0)]
  pieces += [(c, -5.0) for c in 'thecats']
  backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  backend.decoder = tokenizers.decoders.Metaspace()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token='</s>', unk_token='<unk>'
  )


def test_a_piece_keeps_the_space_that_it_begins_with(gpt2):
  tokenizer = _sentencepiece()
  (the,) = tokenizer('the', add_special_tokens=False)['input_ids']
  assert evaluate.piece(tokenizer, the) == ' the'
  assert evaluate.piece(tokenizer, tokenizer.convert_tokens_to_ids('c')) == 'c'
  byte_level = gpt2[2]
  for token_id in byte_level(' a the', add_special_tokens=False)['input_ids'][:1]:
    assert evaluate.piece(byte_level, token_id).startswith(' ')
