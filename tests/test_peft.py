"""PEFT's adapters: the files as PEFT writes them, and those it would refuse."""

import dataclasses
import functools
import json
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from conftest import FAMILIES
from conftest import FIXTURES
from conftest import arguments
from conftest import write_data

from jaxprompt import errors
from jaxprompt import main
from jaxprompt.infer import decode
from jaxprompt.lm import loading
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import exported
from jaxprompt.prompts import kinds
from jaxprompt.prompts import peft
from jaxprompt.runs import exports
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint
from jaxprompt.training import steps

SPEC = loading.load(str(FIXTURES / 'gpt2'), 'float32').lm.spec
PROMPT = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
# What PEFT has saved, and what it is here.
FOLDERS = {
  'peft': 'embedding',
  'ptuning': 'embedding',
  'prefix': 'deep',
  'projected': 'deep',
}


def _write(directory):
  files = peft.files_of(
    {'embeddings': PROMPT},
    base='gpt2',
    weights='w',
    spec=SPEC,
    name='[QUESTIONANSWERING]',
    task='qa',
    template='{context}',
    ranked='',
  )
  exported.write(directory, files)
  return directory


def _read(directory, **changes):
  model = {'base': 'hub/gpt2', 'weights': 'w'}
  spec = {name: changes.pop(name) for name in [*changes] if name not in model}
  spec = dataclasses.replace(SPEC, **spec)
  return peft.read(directory, **model | changes, spec=spec)


def test_an_adapter_comes_back_as_it_was_written(tmp_path):
  found = _read(_write(tmp_path / 'a'))
  np.testing.assert_array_equal(found['embeddings'], PROMPT)


def _by_peft(folder, family, lm):
  """The prompt of the adapter that PEFT saved, and what PEFT computed with it."""
  folder = FIXTURES / f'{folder}_{family}'
  prompt = peft.read(folder, base=family, weights='w', spec=lm.spec)
  return prompt, np.load(folder / 'outputs.npz')


@pytest.mark.parametrize('family', FAMILIES[:2])
@pytest.mark.parametrize('folder', ['peft', 'prefix'])
def test_the_files_are_those_that_peft_writes(folder, family):
  lm = loading.load(str(FIXTURES / family), 'float32').lm
  prompt, _ = _by_peft(folder, family, lm)
  texts = dict.fromkeys(('name', 'task', 'template', 'ranked'), '')
  texts |= {'base': family, 'weights': 'w'}
  files = peft.files_of(prompt, spec=lm.spec, **texts)
  expected = FIXTURES / f'{folder}_{family}'
  assert files[peft.CONFIG] == (expected / peft.CONFIG).read_bytes()
  theirs = safetensors.numpy.load_file(expected / peft.WEIGHTS)
  own = safetensors.numpy.load(files[peft.WEIGHTS])
  assert own.keys() == theirs.keys()
  np.testing.assert_array_equal(own['prompt_embeddings'], theirs['prompt_embeddings'])
  assert b'"format":"pt"' in files[peft.WEIGHTS][:200]  # which PEFT asks for


@pytest.mark.parametrize('family', FAMILIES[:2])
@pytest.mark.parametrize('folder', FOLDERS)
def test_pefts_adapter_has_pefts_loss_and_greedy_text(folder, family):
  lm, params, tokenizer, _ = loading.load(str(FIXTURES / family), 'float32')
  params = jax.device_put(params)
  prompt, by_peft = _by_peft(folder, family, lm)
  found = peft.kind_and_length(FIXTURES / f'{folder}_{family}')
  assert found == (FOLDERS[folder], 4)
  ids, start = by_peft['input_ids'], int(by_peft['source_length'])
  real, positions = np.ones(ids.shape, bool), np.arange(start, ids.shape[1])[None]
  rows = batch_lib.Batch(ids, real, positions, np.ones(positions.shape, bool))
  placed = kinds.place(prompt, 'prefix')
  nats, count = jax.jit(steps.row_losses, static_argnums=0)(lm, params, placed, rows)
  np.testing.assert_allclose(nats[0] / count[0], by_peft['loss'], rtol=1e-5)
  options = decode.Options(by_peft['generated'].shape[1], (tokenizer.eos_token_id,))
  generate = functools.partial(decode.generate, lm, options=options)
  found = jax.jit(generate)(params, placed, ids[:, :start], real[:, :start])
  np.testing.assert_array_equal(found, by_peft['generated'])


def _rewrite(directory, **arrays):
  safetensors.numpy.save_file(arrays, directory / peft.WEIGHTS)


def _edit(directory, **fields):
  config = json.loads((directory / peft.CONFIG).read_text())
  (directory / peft.CONFIG).write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda d: (d / peft.CONFIG).write_text('{'), 'cannot be read'),
    (lambda d: (d / peft.CONFIG).write_text('[1]'), 'cannot be read'),
    (lambda d: _edit(d, peft_type='LORA'), "'LORA'; expected PROMPT_TUNING or P_"),
    (lambda d: _edit(d, task_type='SEQ_2_SEQ_LM'), "'SEQ_2_SEQ_LM'; expected CAUSAL"),
    (lambda d: (d / peft.WEIGHTS).unlink(), 'cannot be read'),
    (lambda d: (d / peft.WEIGHTS).write_bytes(b'torn'), 'cannot be read'),
    (lambda d: _rewrite(d, other=PROMPT), r'holds other \(3, 24\); expected'),
    (lambda d: _rewrite(d, prompt_embeddings=PROMPT[0]), 'expected prompt_embeddings'),
    (lambda d: _rewrite(d, prompt_embeddings=PROMPT[:2]), r'expected .* \(3, 24\)'),
    (lambda d: _rewrite(d, prompt_embeddings=PROMPT * np.inf), 'not finite'),
    (lambda d: _edit(d, peft_type=['PROMPT_TUNING']), 'expected PROMPT_TUNING or P_'),
  ],
)
def test_an_adapter_that_is_none_is_refused(tmp_path, spoil, message):
  spoil(_write(tmp_path))
  with pytest.raises(errors.UserError, match=message):
    _read(tmp_path)


def test_the_kind_of_an_adapter_of_other_weights_is_refused(tmp_path):
  lora = {'peft_type': 'LORA', 'r': 8}
  (tmp_path / peft.CONFIG).write_text(json.dumps(lora))
  with pytest.raises(errors.UserError, match="has peft_type 'LORA'; expected PROMPT_"):
    peft.kind_and_length(tmp_path)


@pytest.mark.parametrize(
  'model, message',
  [
    ({'width': 36}, 'token_dim 24, the model has 36'),
    ({'blocks': 6}, 'num_layers 2, the model has 6'),
    ({'heads': 4}, 'num_attention_heads 3, the model has 4'),
    ({'weights': 'changed'}, "with other weights than those of 'hub/gpt2'"),
  ],
)
def test_an_adapter_of_another_model_is_refused(tmp_path, model, message):
  with pytest.raises(errors.UserError, match=message):
    _read(_write(tmp_path), **model)


def test_an_adapter_is_of_its_weights_whatever_they_are_called(tmp_path):
  found = _read(_write(tmp_path), base='/moved/to')
  np.testing.assert_array_equal(found['embeddings'], PROMPT)


def test_an_adapter_without_a_fingerprint_is_judged_by_sizes_and_name(
  tmp_path, caplog, monkeypatch
):
  _rewrite(_write(tmp_path), prompt_embeddings=PROMPT)
  monkeypatch.setattr(peft.log, 'handlers', [caplog.handler])
  np.testing.assert_array_equal(_read(tmp_path)['embeddings'], PROMPT)
  assert 'keeps no fingerprint' in caplog.text
  with pytest.raises(errors.UserError, match="of the model 'gpt2', not 'hub/other'"):
    _read(tmp_path, base='hub/other')


def test_the_card_names_no_path_of_this_machine(tmp_path):
  for base, shown in (('/home/me/models/mine', 'mine'), ('hub/mine', 'hub/mine')):
    texts = {
      'base': base,
      'weights': 'w',
      'name': 'n',
      'task': 't',
      'template': 'x</s>',
      'ranked': '',
    }
    files = peft.files_of({'embeddings': PROMPT}, spec=SPEC, **texts)
    card = files['README.md'].decode()
    assert f'for `{shown}`' in card and '/home' not in card and 'x</s>' in card


def test_pefts_adapter_is_measured_and_predicts_the_same(tmp_path, capsys):
  data, workdir = write_data(tmp_path / 'data', 'qa'), tmp_path / 'run'
  adapter = f'--prompt={FIXTURES / "peft_gpt2"}'
  given = [*arguments('qa', workdir, data, mode='eval'), adapter]
  assert main.main(given) == 0
  found = json.loads((workdir / 'results.json').read_text())
  assert (found['prompt']['length'], found['best_epoch']) == (4, 0)
  assert len({arm['loss'] for arm in found['test'].values()}) == 3
  assert (workdir / 'report.html').exists()
  config = [flag for flag in given if flag.startswith('--config')]
  source, output = data / 'test.jsonl', tmp_path / 'out.jsonl'
  files = [f'--input={source}', f'--output={output}']
  argv = ['jaxprompt', '--mode=predict', *config, adapter, *files]
  assert main.main(argv) == 0
  lines = (workdir / 'predictions' / 'soft.jsonl').read_text().splitlines()
  assert [json.loads(line)['prediction'] for line in lines] == [
    json.loads(line)['prediction'] for line in output.read_text().splitlines()
  ]
  capsys.readouterr()
  assert main.main([*given, '--prompt=b=b']) == 2
  assert (
    '--prompt is given 2 times; --mode=eval measures one' in capsys.readouterr().err
  )


def test_a_run_is_exported_and_its_adapter_starts_another(tmp_path, capsys):
  data = write_data(tmp_path / 'data', 'qa')
  one, two, adapter = tmp_path / 'one', tmp_path / 'two', tmp_path / 'adapter'
  assert main.main(arguments('qa', one, data, 'train.epochs=1')) == 0
  export = ['jaxprompt', '--mode=export', f'--output={adapter}']
  assert main.main([*export, f'--workdir={one}']) == 0
  best, _ = checkpoint.read_best(workdir_lib.resolve(one) / 'checkpoints')
  arrays = safetensors.numpy.load_file(adapter / peft.WEIGHTS)
  np.testing.assert_array_equal(arrays['prompt_embeddings'], best['embeddings'])
  before = arguments('qa', one, data, 'train.epochs=1', mode='eval')
  before += [f'--prompt={adapter}']
  assert main.main(before) == 2
  assert 'belongs to a different config: prompt.init is' in capsys.readouterr().err
  again = (f'prompt.init={adapter}', 'train.learning_rate=0.0', 'train.epochs=1')
  assert main.main(arguments('qa', two, data, *again)) == 0
  copied, _ = checkpoint.read_best(workdir_lib.resolve(two) / 'checkpoints')
  jax.tree.map(np.testing.assert_array_equal, copied, best)
  after = arguments(
    'qa', tmp_path / 'three', data, 'prompt.position=suffix', 'train.epochs=1'
  )
  assert main.main(after) == 0
  assert main.main([*export, f'--workdir={tmp_path / "three"}']) == 2
  assert 'only a prefix can be exported' in capsys.readouterr().err


@pytest.mark.parametrize('name', exports.FORMATS)
def test_a_deep_suffix_is_told_what_it_is_for(name):
  prompt = types.SimpleNamespace(position='suffix', arrays={'keys_values': None})
  with pytest.raises(errors.UserError, match=r'no format, it is for --mode=predict'):
    exports.FORMATS[name].refuse(prompt)
