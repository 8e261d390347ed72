"""A checkpoint with a prompt in it is the prompted model, on the bare source."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import CHECKPOINT
from conftest import FIXTURES
from conftest import arguments
from conftest import write_data
from test_template import TOKENIZERS

import jaxprompt as jp
from jaxprompt import errors
from jaxprompt import flags
from jaxprompt import main
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import unchosen
from jaxprompt.lm import loading
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import merged
from jaxprompt.prompts import merged_tokenizer
from jaxprompt.prompts import model
from jaxprompt.prompts import placement
from jaxprompt.prompts import trained
from jaxprompt.runs import exports
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import steps

SOURCE = 'Who improved it?'
LENGTH = 13  # more than the fixtures' tables have rows to spare
POSITIONS = placement.POSITIONS


def _prompt(position, length=LENGTH, width=24):
  rng = np.random.default_rng(0)
  return trained.TrainedPrompt(
    arrays={'embeddings': rng.normal(size=(length, width)).astype(np.float32)},
    position=position,
    task=tasks.TASKS['qa'],
    max_source_tokens=90,
    max_new_tokens=5,
    beams=1,
    calibration='none',
  )


def _load(path):
  lm, params, tokenizer, _ = loading.load(str(path), 'float32')
  return lm, jax.device_put(params), template_lib.Template(tokenizer, lm.end_ids)


def _merge(directory, path, *prompts, unchosen=0):
  """Writes a checkpoint with prompts `a`, `b`, ...; returns what loads from both."""
  lm, params, template = _load(path)
  directory.mkdir()
  merged.write(
    directory,
    dict(zip('abc', prompts, strict=False)),
    path=str(path),
    lm=lm,
    template=template,
    unchosen=unchosen,
    texts=[SOURCE],
  )
  return (lm, params, template), _load(directory)


def _next_logits(lm, params, arm, ids):
  @jax.jit
  def compute(params, arm, ids):
    hidden, _ = model.prompted_source(lm, params, arm, ids, jnp.ones(ids.shape, bool))
    return hidden[0], lm.logits(params, hidden)[0]

  return compute(params, arm, jnp.asarray([ids]))


@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('family', ['gpt2', 'llama_untied', 'gemma', 'gemma3_text'])
def test_it_has_the_logits_of_the_prompted_model(tmp_path, family, position):
  prompt = _prompt(position)
  own, theirs = _merge(tmp_path / 'x', FIXTURES / family, prompt, unchosen=3)
  lm, params, template = own
  _, ids = template.source('', SOURCE, '', 99)
  _, expected = _next_logits(lm, params, prompt.placement, ids)
  bare = theirs[2].tokenizer(SOURCE)['input_ids']
  assert len(bare) == len(ids) + LENGTH
  nothing = placement.Placement(prefix=np.zeros((0, 24), np.float32))
  _, found = _next_logits(*theirs[:2], nothing, bare)
  size = lm.spec.vocab_size
  np.testing.assert_allclose(found[:size], expected, rtol=2e-4, atol=2e-4)
  virtual = [id for id in bare if id >= lm.tokens]
  assert len(found) == max(virtual) + 1 > size
  np.testing.assert_array_equal(found[size:], found[3])


@pytest.mark.parametrize('family', ['gpt2', 'llama', 'gemma'])
def test_one_checkpoint_holds_several_prompts(tmp_path, family):
  prompts = {'a': _prompt('prefix'), 'b': _prompt('suffix', length=5)}
  prompts['b'].arrays['embeddings'] *= -1
  own, (lm, params, template) = _merge(
    tmp_path / 'x', FIXTURES / family, *prompts.values()
  )
  nothing = placement.Placement(prefix=np.zeros((0, 24), np.float32))
  _, ids = own[2].source('', SOURCE, '', 99)
  start = own[2].tokenizer.decode(own[2].start_ids)
  written = {'a': f'<|a|>{start}{SOURCE}\n', 'b': f'{start}{SOURCE}\n<|b|>'}
  for name, prompt in prompts.items():
    _, expected = _next_logits(*own[:2], prompt.placement, ids)
    asked = template.tokenizer(written[name])['input_ids']
    assert len(asked) == len(ids) + len(prompt.arrays['embeddings'])
    _, found = _next_logits(lm, params, nothing, asked)
    np.testing.assert_allclose(
      found[: own[0].spec.vocab_size], expected, rtol=2e-4, atol=2e-4
    )
  card = (tmp_path / 'x' / 'README.md').read_text()
  assert all(repr(text.replace(SOURCE, 'SOURCE')) in card for text in written.values())


def test_the_source_checkpoint_is_as_it_was_but_for_table_and_head(tmp_path):
  _merge(tmp_path / 'x', FIXTURES / 'gpt2', _prompt('prefix'))
  before, after = (
    safetensors.numpy.load_file(folder / 'model.safetensors')
    for folder in (FIXTURES / 'gpt2', tmp_path / 'x')
  )
  table = before.pop('transformer.wte.weight')
  before.pop('lm_head.weight', None)
  for name, array in before.items():
    np.testing.assert_array_equal(after.pop(name), array)
  assert after.keys() == {'transformer.wte.weight', 'lm_head.weight'}
  np.testing.assert_array_equal(after['lm_head.weight'][: len(table)], table)
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  before = json.loads((FIXTURES / 'gpt2' / 'config.json').read_text())
  changed = {name for name in config if config[name] != before.get(name)}
  assert changed <= {'vocab_size', 'tie_word_embeddings'}
  assert config['vocab_size'] == len(after['lm_head.weight'])
  # The name that both lines of transformers know.
  stored = json.loads((tmp_path / 'x' / 'tokenizer_config.json').read_text())
  assert stored['tokenizer_class'] == 'PreTrainedTokenizerFast'


def test_shards_and_the_type_of_the_source_are_kept(tmp_path, monkeypatch):
  path = shutil.copytree(FIXTURES / 'llama', tmp_path / 'llama')
  arrays = safetensors.numpy.load_file(path / 'model.safetensors')
  arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
  safetensors.numpy.save_file(arrays, path / 'model.safetensors')
  _, whole = _merge(tmp_path / 'whole', path, _prompt('prefix'))
  monkeypatch.setattr(merged, '_SHARD', 8_000)
  _, sharded = _merge(tmp_path / 'sharded', path, _prompt('prefix'))
  jax.tree.map(np.testing.assert_array_equal, whole[1], sharded[1])
  files = sorted(file.name for file in (tmp_path / 'sharded').glob('*.safetensors'))
  assert len(files) > 2 and files[0] == f'model-00001-of-{len(files):05}.safetensors'
  for file in files:
    stored = safetensors.numpy.load_file(tmp_path / 'sharded' / file)
    assert {array.dtype for array in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_a_prompt_that_the_type_cannot_hold_is_refused(tmp_path):
  path = shutil.copytree(FIXTURES / 'gpt2', tmp_path / 'gpt2')
  arrays = safetensors.numpy.load_file(path / 'model.safetensors')
  arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
  safetensors.numpy.save_file(arrays, path / 'model.safetensors')
  prompt = _prompt('prefix')
  prompt.arrays['embeddings'][0] = 1e6
  with pytest.raises(errors.UserError, match='not finite in float16, the type of'):
    _merge(tmp_path / 'x', path, prompt)


def test_generation_ends_as_it_did_and_never_writes_a_virtual_token(tmp_path):
  path = shutil.copytree(FIXTURES / 'gpt2', tmp_path / 'gpt2')
  settings = {'eos_token_id': [5, 0], 'suppress_tokens': [7], 'do_sample': True}
  (path / 'generation_config.json').write_text(json.dumps(settings))
  (lm, *_), (theirs, *_) = _merge(tmp_path / 'x', path, _prompt('suffix'))
  found = json.loads((tmp_path / 'x' / 'generation_config.json').read_text())
  never = [7, *range(lm.tokens, theirs.spec.vocab_size)]
  assert len(never) == 1 + LENGTH
  assert found.pop('suppress_tokens') == never
  assert found.pop('max_new_tokens') == 5
  assert (found['eos_token_id'], found['do_sample']) == ([0, 5], True)
  assert theirs.end_ids == lm.end_ids


@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('name', TOKENIZERS)
def test_the_tokenizer_puts_the_prompt_around_a_text(name, position):
  template = template_lib.Template(TOKENIZERS[name]())
  adds_newline = template.closes('a.')
  prompt = _prompt(position, length=3)
  wrapped, tokens = merged_tokenizer.around(template, 'qa', prompt, adds_newline)
  text = 'The Rhine is a river in Europe.'
  _, source = template.source('', text, '', 99)
  virtual = wrapped.convert_tokens_to_ids(tokens)
  expected = {'prefix': [*virtual, *source], 'suffix': [*source, *virtual]}[position]
  given = text if adds_newline else f'{text}\n'
  assert wrapped(given)['input_ids'] == expected
  # Without them it is the tokenizer that it was, in chat for one.
  bare, _ = template_lib.encode(template.tokenizer, text)
  assert wrapped(text, add_special_tokens=False)['input_ids'] == bare
  assert wrapped.special_tokens_map == template.tokenizer.special_tokens_map
  shown = template.tokenizer.decode(source, skip_special_tokens=True)
  assert wrapped.decode(expected, skip_special_tokens=True) == shown


@pytest.mark.parametrize('name', TOKENIZERS)
def test_a_name_in_a_text_is_a_prompts_tokens(name):
  template = template_lib.Template(TOKENIZERS[name]())
  prompts = {'a': _prompt('suffix', length=3), 'a.b': _prompt('suffix', length=2)}
  text = 'The Rhine is a river in Europe.'
  wrapped, tokens, written = merged_tokenizer.by_name(template, prompts, [text])
  assert tokens == ['<|a:0|>', '<|a:1|>', '<|a:2|>', '<|a.b:0|>', '<|a.b:1|>']
  start = template.tokenizer.decode(template.start_ids)
  assert written['a.b'] == f'{start}SOURCE\n<|a.b|>'
  virtual = wrapped.convert_tokens_to_ids(tokens)
  _, source = template.source('', text, '', None)
  given = f'{start}{text}\n<|a.b|><|a|>'
  assert wrapped(given)['input_ids'] == [*source, *virtual[3:], *virtual[:3]]
  assert wrapped(f'{start}{text}\n')['input_ids'] == source


def test_names_and_tokenizers_that_cannot_be_had_are_refused():
  def made(name, *prompts):
    template = template_lib.Template(TOKENIZERS[name]())
    return merged_tokenizer.by_name(template, dict(prompts), ['Who?'])

  prompt = _prompt('prefix', length=3)
  for name in ('a b', 'a|>', ''):
    with pytest.raises(errors.UserError, match='cannot be the name of a prompt'):
      made('tiktoken', (name, prompt))
  # It puts a piece for a space before a text, and not before what follows a prompt.
  with pytest.raises(errors.UserError, match=r'beside <\|b\|> than alone; export each'):
    made('sentencepiece without BOS', ('a', _prompt('suffix')), ('b', prompt))


def test_a_newline_that_is_one_token_with_the_text_is_left_to_the_caller(tmp_path):
  template = template_lib.Template(TOKENIZERS['tiktoken']())
  assert template.closes('a') and not template.closes('Europe.')
  assert template_lib.Template(TOKENIZERS['sentencepiece']()).closes('Europe.')


def test_tokens_of_a_prompt_that_was_merged_before_are_not_taken(tmp_path):
  _merge(tmp_path / 'once', FIXTURES / 'gpt2', _prompt('prefix', length=2))
  _merge(tmp_path / 'twice', tmp_path / 'once', _prompt('prefix', length=3))
  tokenizer = _load(tmp_path / 'twice')[2].tokenizer
  found = tokenizer.convert_ids_to_tokens(tokenizer(SOURCE)['input_ids'])
  assert found[:3] == ['<|a-2:0|>', '<|a-2:1|>', '<|a-2:2|>']


def test_the_token_that_is_never_chosen_is_the_least_likely_at_all_rows():
  loaded = jp.load_model(str(FIXTURES / 'gpt2'))
  rows = [{'text': SOURCE, 'label': 'blue'}, {'text': 'Anna', 'label': 'no one'}]
  splits = dict.fromkeys(('train', 'validation', 'test'), rows)
  data = jp.load_data(splits, jp.Task('{text}', '{label}'), loaded)
  table, arm = data.validation.table, _prompt('prefix').placement
  found = unchosen.measure(
    loaded, [(arm, table)], batch_size=2, progress=lambda parts, _: parts
  )
  each = []
  for row in table:
    for n in range(len(row.target_ids)):
      ids = np.concatenate([row.source_ids, row.target_ids[:n]]).astype(int)
      _, logits = _next_logits(loaded.lm, loaded.params, arm, ids)
      each.append(jax.nn.log_softmax(logits))
  largest = np.max(each, axis=0)  # [V]
  assert found.token_id == largest.argmin()
  assert found.probability == pytest.approx(np.exp(largest.min()), rel=1e-4)
  assert found.tokens == len(each) > 2


@pytest.fixture(scope='module', params=POSITIONS)
def run(request, tmp_path_factory):
  """The workdir of a finished run."""
  folder = tmp_path_factory.mktemp(request.param)
  data = write_data(folder / 'data', 'qa')
  position = f'prompt.position={request.param}'
  settings = ('train.epochs=1', 'prompt.length=13', 'data.max_source_tokens=80')
  argv = arguments('qa', folder / 'run', data, position, *settings)
  assert main.main(argv) == 0
  return folder / 'run'


def _rows(workdir):
  lines = (workdir / 'predictions' / 'soft.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_runs_are_merged_by_name(run, tmp_path, capsys):
  export = ['jaxprompt', '--mode=export', f'--output={tmp_path / "x"}']
  both = [f'--prompt=a={run}', f'--prompt=b={run}']
  assert main.main([*export, *both]) == 2
  assert '--format=peft holds one prompt, and there are 2' in capsys.readouterr().err
  assert main.main([*export, *both, '--format=merged', f'--workdir={run}']) == 2
  assert '--workdir and --prompt are both given' in capsys.readouterr().err
  assert main.main([*export, *both, '--format=merged']) == 0
  tokenizer = _load(tmp_path / 'x')[2].tokenizer
  ids = tokenizer('<|b|><|a|>')['input_ids']
  found = tokenizer.convert_ids_to_tokens(ids)
  assert found == [f'<|{name}:{i}|>' for name in 'ba' for i in range(13)]


def _export(workdir, name):
  output = workdir / name
  flags = (f'--workdir={workdir}', f'--output={output}', f'--format={name}')
  assert main.main(['jaxprompt', '--mode=export', *flags]) == 0
  return output


def test_a_run_that_is_merged_has_its_losses_and_texts(run):
  lm, params, template = _load(_export(run, 'merged'))
  size = _load(CHECKPOINT)[0].spec.vocab_size
  nothing = placement.Placement(prefix=np.zeros((0, 24), np.float32))
  options = decode.Options(4, lm.end_ids)
  nats, counts = [], []
  for row in _rows(run):
    source = template.tokenizer(row['source'])['input_ids']
    target = template.target(row['target'], None)[1]
    ids = np.asarray([[*source, *target]], np.int32)
    positions = np.arange(len(source), ids.shape[1])[None]
    real = np.ones(ids.shape, bool)
    batch = batch_lib.Batch(ids, real, positions, np.ones(positions.shape, bool))
    logits = lm.logits(params, model.target_hidden(lm, params, nothing, batch))[0]
    own = jax.nn.log_softmax(logits[:, :size])[np.arange(len(target)), target]
    all_tokens, count = steps.row_losses(lm, params, nothing, batch)
    nats.append((-float(own.sum()), float(all_tokens[0])))
    counts.append(float(count[0]))
    asked = ids[:, : len(source)], real[:, : len(source)]
    (found,) = evaluate.until_end(
      decode.generate(lm, params, nothing, *asked, options), lm.end_ids
    )
    assert evaluate.text(template.tokenizer, found) == row['prediction']
  expected = json.loads((run / 'results.json').read_text())['test']['soft']['loss']
  own, all_tokens = np.sum(nats, axis=0) / sum(counts)
  np.testing.assert_allclose(own, expected, rtol=1e-4)
  # The virtual tokens have some of the probability, with random weights not little.
  assert 0 < all_tokens - own < 13 * 2 / lm.tokens


def test_embeddings_are_the_best_prompt_and_how_it_is_used(run):
  output = _export(run, 'embeddings')
  use = json.loads((output / 'prompt.json').read_text())
  stored = json.loads((run / 'config.json').read_text())
  assert use['position'] == stored['config']['prompt']['position']
  assert use['weights'] == stored['fingerprints']['weights']
  assert (use['length'], use['max_new_tokens']) == (13, 4)
  assert (use['source'], use['newline']) == ('{context}\n{question}', '\n')
  (array,) = safetensors.numpy.load_file(output / 'prompt.safetensors').values()
  assert array.shape == (13, 24) and array.dtype == np.float32


def test_formats_are_the_flags_and_a_deep_prompt_has_only_one(tmp_path, capsys):
  (field,) = (field for field in flags._FLAGS if field.name == 'format')
  assert field.choices == tuple(exports.FORMATS)
  data = write_data(tmp_path / 'data', 'qa')
  argv = arguments('qa', tmp_path / 'run', data, 'prompt.kind=deep', 'train.epochs=1')
  assert main.main(argv) == 0
  capsys.readouterr()
  export = [f'--workdir={tmp_path / "run"}', f'--output={tmp_path / "out"}']
  for name in ('merged', 'embeddings'):
    argv = ['jaxprompt', '--mode=export', *export, f'--format={name}']
    assert main.main(argv) == 2
    assert "prompt.kind is 'deep', keys and values" in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
