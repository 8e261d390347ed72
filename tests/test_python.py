"""The Python API: it is the command's code, and its documentation runs."""

import ast
import contextlib
import dataclasses
import io
import re
import subprocess
import sys
import typing

import conftest
import jax
import numpy as np
import optax
import pytest

import jaxprompt as jp
from jaxprompt import arguments
from jaxprompt import fields
from jaxprompt import main
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.runs import trained_prompts
from jaxprompt.runs import workdir as workdir_lib

PAGE = (conftest.ROOT / 'docs' / 'python.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
TASK = jp.Task('{text}', '{answer}', metrics=('token_match',))
RANKED = jp.Task('{text}', '{answer}', labels=('yes', 'no'), metrics=('accuracy',))
SIZES = {'max_source_tokens': 40, 'max_target_tokens': 6}


def _rows(numbers, before=''):
  return [
    {'id': str(i), 'text': f'{before}The number is {i}.', 'answer': f'It is {i}.'}
    for i in numbers
  ]


def _data(model, task=TASK, before=''):
  rows = {
    'train': _rows(range(12), before),
    'validation': _rows(range(20, 25), before),
    'test': _rows(range(30, 37), before),
  }
  return jp.load_data(rows, task, model, **SIZES)


@pytest.fixture(scope='module')
def model():
  return jp.load_model(str(conftest.CHECKPOINT))


@pytest.fixture(scope='module')
def data(model):
  return _data(model)


@pytest.fixture(scope='module')
def run(model, data):
  soft = jp.Soft(length=3, init='Say it:')
  return jp.train(model, data, soft, steps=4, batch_size=4, validate_every=2)


def _loss(model, rows, prompt):
  return jp.compare(model, rows, {'it': prompt}, max_new_tokens=2).test['it']['loss']


def test_the_name_alone_imports_no_model_code():
  code = 'import sys, jaxprompt as jp; dir(jp); print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert 'jaxprompt' in done.stdout.split()
  assert not {'jax', 'jaxprompt.api', 'jaxprompt.config'} & set(done.stdout.split())


def test_a_type_checker_sees_the_names_that_there_are():
  tree = ast.parse((conftest.ROOT / 'jaxprompt' / '__init__.py').read_text())
  (block,) = [node for node in tree.body if isinstance(node, ast.If)]
  seen = {
    (line.module.removeprefix('jaxprompt.'), line.names[0].name) for line in block.body
  }
  assert seen == {(place, name) for name, place in jp._PLACE_OF.items()}
  assert all(hasattr(jp, name) for name in jp.__all__)
  with pytest.raises(AttributeError, match="no attribute 'tarin'"):
    jp.tarin  # noqa: B018


@pytest.mark.parametrize('kind', arguments.KINDS, ids=lambda kind: kind.__name__)
def test_an_argument_has_the_type_of_its_field(kind):
  known = fields.FIELDS | {field.name: field for field in fields.SAMPLING}
  hints = typing.get_type_hints(kind)
  for name, field in arguments.field_of(kind).items():
    assert hints[name] is type(known[field].default), name


def test_every_example_of_the_documentation_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {}
  for block in BLOCKS:
    with contextlib.redirect_stdout(io.StringIO()):
      exec(block, names)
  assert len(BLOCKS) > 5


def test_the_documentation_names_every_argument():
  named = set(re.findall(r'`(\w+)`', PAGE))
  for kind in arguments.KINDS:
    assert arguments.field_of(kind).keys() <= named


def test_training_is_the_commands(tmp_path):
  data = conftest.write_data(tmp_path / 'data', 'translation')
  given = conftest.arguments('translation', tmp_path / 'a', data, 'train.steps=5')
  assert main.main(given) == 0
  model = jp.load_model(str(conftest.CHECKPOINT))
  rows = jp.load_data(
    str(data),
    jp.TASKS['translation'],
    model,
    max_source_tokens=90,
    max_target_tokens=20,
  )
  settings = {'steps': 5, 'batch_size': 4, 'validation_batch_size': 4}
  run = jp.train(model, rows, jp.Soft(length=3), **settings)
  workdir = workdir_lib.resolve(tmp_path / 'a')
  expected, validated = trained_prompts.best_prompt(workdir)
  np.testing.assert_array_equal(run.prompt.params['embeddings'], expected['embeddings'])
  found = [each['validation_loss'] for each in run.history]
  assert found == [each['validation_loss'] for each in validated]
  results = workdir_lib.read_json(workdir / 'results.json')
  prompts = {'none': jp.Bare(), 'soft': run.prompt}
  measured = jp.compare(model, rows.test, prompts, max_new_tokens=4, batch_size=4)
  for arm in ('none', 'soft'):
    assert measured.test[arm] == results['test'][arm]


def test_a_workdir_is_gone_on_with_and_gives_its_prompt_back(
  model, data, tmp_path, run
):
  soft, settings = jp.Soft(length=3, init='Say it:'), {'steps': 4, 'batch_size': 4}
  kept = jp.train(
    model, data, soft, workdir=tmp_path / 'w', validate_every=2, **settings
  )
  again = jp.train(
    model, data, soft, workdir=tmp_path / 'w', validate_every=2, **settings
  )
  loaded = jp.load_prompt(tmp_path / 'w', model)
  for other in (kept.prompt, again.prompt, loaded):
    np.testing.assert_array_equal(
      other.params['embeddings'], run.prompt.params['embeddings']
    )
  assert [x['step'] for x in again.steps] == [1, 2, 3, 4]
  assert loaded.name == '[TEXT]' and run.workdir is None
  with pytest.raises(jp.UserError, match=r'^workdir .*: validate_every is 0, was 2'):
    jp.train(model, data, soft, workdir=tmp_path / 'w', steps=5, batch_size=4)


def test_the_loss_is_that_of_the_comparison_and_has_a_gradient(model, data, run):
  (batch,) = data.test.batches(8)
  value, gradient = jax.jit(jax.value_and_grad(jp.loss))(
    run.prompt.params, model, batch
  )
  assert value == pytest.approx(_loss(model, data.test, run.prompt), rel=1e-5)
  assert gradient['embeddings'].shape == (3, 24)
  assert np.abs(gradient['embeddings']).max() > 0


@pytest.mark.parametrize(
  'kind, position',
  [('embedding', 'suffix'), ('deep', 'prefix'), ('residual', 'prefix')],
)
def test_a_loop_of_ones_own_lowers_the_loss(model, data, kind, position):
  soft = jp.Soft(length=2, init='vocab', kind=kind, position=position)
  prompt = jp.init_prompt(model, data, soft, seed=3)
  tx = optax.adam(0.02)

  @jax.jit
  def step(params, state, batch):
    loss, gradient = jax.value_and_grad(jp.loss)(params, model, batch)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss

  params, state, losses = prompt.params, tx.init(prompt.params), []
  for _ in range(8):
    for batch in data.train.batches(12, position=position):
      params, state, loss = step(params, state, batch)
      losses.append(float(loss))
  assert losses[-1] < losses[0]
  (batch,) = data.train.batches(12, position=position)
  trained = prompt.replace(params)
  before, after = (jax.jit(jp.loss)(x, model, batch) for x in (params, trained.params))
  assert after == pytest.approx(float(before), rel=1e-5)


@pytest.mark.parametrize('kind', kinds.KINDS)
def test_a_prompt_of_examples_begins_at_the_loss_of_their_text(model, data, kind):
  """A shown row that is cut begins in the middle; the last one ends the text."""
  ids = arms.last_ids(model.template, data.train, 40, seed=5)
  whole = [[*row.source_ids, *row.target_ids] for row in data.train]
  assert any(ids[-len(each) :] == each for each in whole)
  assert arms.last_ids(model.template, data.train, 7, seed=5) == ids[-7:]
  text = {'embeddings': model.lm.embed(model.params, np.asarray(ids))}
  (batch,) = data.train.batches(12)
  begun = [
    jp.init_prompt(
      model, data, jp.Soft(40, 'examples', kind=kind, position=position), seed=5
    ).params
    for position in ('prefix', 'suffix')
  ]
  found, expected = (jax.jit(jp.loss)(x, model, batch) for x in (begun[0], text))
  assert found == pytest.approx(float(expected), rel=1e-5)
  jax.tree.map(np.testing.assert_array_equal, *begun)


def test_batches_hold_every_row_once(model, data):
  for seed in (None, 5):
    batches = list(data.train.batches(5, seed=seed))
    assert len(batches) == 3
    assert sum(int(batch.loss_mask.any(axis=1).sum()) for batch in batches) == 12


@pytest.mark.parametrize('family', ['gpt2', 'gemma'])
def test_a_text_in_front_is_a_source_that_begins_with_it(family):
  model = jp.load_model(str(conftest.FIXTURES / family))
  hard = jp.Hard('Say it:')
  measured = _loss(model, _data(model).test, hard)
  literal = _loss(model, _data(model, before='Say it: ').test, jp.Bare())
  assert measured == pytest.approx(literal, rel=1e-5)


def test_answers_are_those_of_the_comparison_whatever_shares_their_batch(
  model, data, run
):
  prompts = {
    'none': jp.Bare(),
    'hard': jp.Hard('Say it:'),
    'around': jp.Hard('Text: {source}\nAgain:'),
    'shots': jp.FewShot(data.train[2:4]),
    'soft': run.prompt,
  }
  found = jp.compare(model, data.test, prompts)
  asked = [(name, i) for i in range(len(data.test)) for name in prompts]
  answers = jp.generate(
    model,
    [prompts[name] for name, _ in asked],
    [data.test[i].source for _, i in asked],
    max_new_tokens=SIZES['max_target_tokens'],
  )
  for (name, i), answer in zip(asked, answers, strict=True):
    assert answer == found.predictions[name][i]['prediction'], name
  rows = _rows(range(30, 37))
  own = jp.generate(model, run.prompt, rows)
  assert own == [line['prediction'] for line in found.predictions['soft']]
  lines = [f' {row["text"]}\n' for row in rows]
  assert own == jp.generate(model, run.prompt, lines)
  drawn = {'temperature': 2.0, 'seed': 1}
  one, other = (jp.generate(model, run.prompt, rows, **drawn) for _ in range(2))
  assert one == other != own


def test_a_comparison_says_who_is_better(model, data, run):
  texts = ('Say it:', 'The end')
  found = jp.compare(
    model,
    data.test,
    {'best': jp.BestHard(texts, data.validation), 'soft': run.prompt},
    max_new_tokens=2,
  )
  assert found.tuning['best']['text'] in texts
  assert found.tuning['soft']['steps'] == 4 and found.tuning['soft']['rows'] == 12
  assert found.figures == ['loss', 'token_match']
  less = found.difference('soft', 'best', 'loss')
  loss = {name: entry['loss'] for name, entry in found.test.items()}
  assert less['difference'] == pytest.approx(loss['soft'] - loss['best'])
  assert found.difference('best', 'soft', 'loss')['ci95'] == [
    -x for x in reversed(less['ci95'])
  ]
  assert str(found).splitlines()[0].split() == ['arm', 'loss', '%', 'Exact', 'Match']


def test_a_prompt_begins_at_arrays(model, data, run):
  given = {'numpy': np.asarray, 'jax': jax.numpy.asarray}
  for make in given.values():
    begun = jp.init_prompt(
      model, data, jp.Soft(init=make(run.prompt.params['embeddings']))
    )
    np.testing.assert_array_equal(
      begun.params['embeddings'], run.prompt.params['embeddings']
    )
  same = jp.init_prompt(model, data, jp.Soft(init=run.prompt, kind='residual'))
  np.testing.assert_array_equal(
    same.replace(same.params).params['embeddings'], run.prompt.params['embeddings']
  )


def test_an_adapter_gives_the_prompt_back(model, run, tmp_path):
  run.prompt.export(tmp_path / 'adapter')
  found = jp.load_prompt(
    tmp_path / 'adapter', model, TASK, max_source_tokens=40, max_new_tokens=6
  )
  np.testing.assert_array_equal(
    found.params['embeddings'], run.prompt.params['embeddings']
  )
  sources = [row['text'] for row in _rows(range(3))]
  assert jp.generate(model, found, sources) == jp.generate(model, run.prompt, sources)
  with pytest.raises(jp.UserError, match=r'directory .* has an adapter; .*overwrite='):
    run.prompt.export(tmp_path / 'adapter')
  run.prompt.export(tmp_path / 'adapter', overwrite=True)


def test_a_prompt_is_merged_alone_or_with_others(model, data, run, tmp_path):
  sources = [row.source for row in data.test]
  expected = jp.generate(model, run.prompt, sources)
  run.prompt.export(tmp_path / 'one', format='merged', rows=data.validation)
  other = run.prompt.replace({'embeddings': -run.prompt.params['embeddings']})
  prompts, rows = {'a': run.prompt, 'b': other}, {'a': data.test, 'b': data.test}
  jp.merge(prompts, rows, tmp_path / 'two')
  merged = jp.load_model(str(tmp_path / 'one'))
  length = SIZES['max_target_tokens']
  assert jp.generate(merged, jp.Bare(), sources, max_new_tokens=length) == expected
  tokenizer = jp.load_model(str(tmp_path / 'two')).tokenizer
  found = tokenizer.convert_ids_to_tokens(tokenizer('<|b|>')['input_ids'])
  assert found == ['<|b:0|>', '<|b:1|>', '<|b:2|>']
  run.prompt.export(tmp_path / 'array', format='embeddings')
  assert (tmp_path / 'array' / 'prompt.safetensors').exists()
  with pytest.raises(jp.UserError, match=r'directory .* a merged checkpoint; .*overwr'):
    jp.merge(prompts, rows, tmp_path / 'two')


def test_labels_are_answered_by_the_likeliest(model):
  task = jp.Task('{text}', '{answer}', labels=('yes', 'no'), metrics=('accuracy',))
  answers = jp.generate(model, jp.Hard('Is it?'), ['It is 3.', '4'], task=task)
  assert set(answers) <= {'yes', 'no'}


MISTAKES = {
  'steps is -1; expected a whole number': lambda m, d: jp.train(m, d, steps=-1),
  "'stepz' is no argument here; expected one of steps": (
    lambda m, d: jp.train(m, d, stepz=1)
  ),
  'length is 0; expected': lambda m, d: jp.train(m, d, jp.Soft(length=0)),
  'kind is .flat.; expected one of embedding': (
    lambda m, d: jp.train(m, d, jp.Soft(kind='flat'))
  ),
  r'init has embeddings \(3, 5\); expected \(3, 24\)': (
    lambda m, d: jp.train(m, d, jp.Soft(init=np.ones((3, 5))))
  ),
  r"init is arrays of the shapes {'embeddings': \(3,\)}; expected": (
    lambda m, d: jp.train(m, d, jp.Soft(init=np.ones(3)))
  ),
  'length is 4, and init has 3 virtual tokens': (
    lambda m, d: jp.train(m, d, jp.Soft(length=4, init=np.ones((3, 24))))
  ),
  'length .600. and the longest row of train': (
    lambda m, d: jp.train(m, d, jp.Soft(length=600))
  ),
  'prompt is Bare.*; expected a jp.Soft': lambda m, d: jp.train(m, d, jp.Bare()),
  'path is 3; expected a text': lambda m, d: jp.load_model(3),
  'dtype is .int8.; expected one of float32': (
    lambda m, d: jp.load_model('tiny', dtype='int8')
  ),
  "the model '/nowhere' is not a directory": lambda m, d: jp.load_model('/nowhere'),
  "the data '/nowhere' is neither": lambda m, d: jp.load_data('/nowhere', TASK, m),
  'has no validation split': lambda m, d: jp.load_data({'train': _rows([1])}, TASK, m),
  "train row 0: column 'text' is missing": (
    lambda m, d: jp.load_data({'train': [{}], 'validation': _rows([1, 2])}, TASK, m)
  ),
  "source is 'x'; expected a template": lambda m, d: jp.Task('x', '{y}'),
  'labels is .*; expected several': lambda m, d: jp.Task('{x}', '{y}', labels=('a',)),
  'prompts: 0, rows: 7; expected at least one': lambda m, d: jp.compare(m, d.test, {}),
  'prompt has 1 for 2 sources': lambda m, d: jp.generate(m, [jp.Bare()], ['a', 'b']),
  'sources is .a.; expected a list': lambda m, d: jp.generate(m, jp.Bare(), 'a'),
  "source 1: column 'text' is missing": (
    lambda m, d: jp.generate(m, jp.Bare(), ['a', {}], task=TASK)
  ),
  'source 0: is 3, expected a text or a dict': (
    lambda m, d: jp.generate(m, jp.Bare(), [3])
  ),
  'a hard prompt is blank': lambda m, d: jp.generate(m, jp.Hard(' '), ['a']),
  'top_k and top_p are of sampling, which is off; set temperature': (
    lambda m, d: jp.generate(m, jp.Bare(), ['a'], top_k=3)
  ),
  'may have 9999 tokens, which leaves no room.* lower max_new_tokens': (
    lambda m, d: jp.generate(m, jp.Bare(), ['a'], max_new_tokens=9999)
  ),
  'format is .gguf.; expected one of peft, merged': (
    lambda m, d: jp.init_prompt(m, d).export('x', format='gguf')
  ),
  "rows is None, and format 'merged'; expected validation rows": (
    lambda m, d: jp.init_prompt(m, d).export('x', format='merged')
  ),
  "rows is Rows.0 of .*, and format 'merged'; expected validation rows": (
    lambda m, d: jp.init_prompt(m, d).export(
      'x', format='merged', rows=d.validation[:0]
    )
  ),
  'rows has ..b.., prompts has ..b..; .* and rows for each': (
    lambda m, d: jp.merge({'b': jp.init_prompt(m, d)}, {'b': d.validation[:0]}, 'x')
  ),
  "position is 'suffix'; PEFT knows only a prompt in front": (
    lambda m, d: jp.init_prompt(m, d, jp.Soft(position='suffix')).export('x')
  ),
  'rows has ..a.., prompts has ..b..; expected the same': (
    lambda m, d: jp.merge({'b': jp.init_prompt(m, d)}, {'a': d.validation}, 'x')
  ),
  "position is 'sufix'; expected one of": (
    lambda m, d: next(d.train.batches(4, position='sufix'))
  ),
  'batch_size is 0; expected': lambda m, d: next(d.train.batches(0)),
  'train is not as load_data has read it; .* or train_size': (
    lambda m, d: dataclasses.replace(d, train=d.train[:2])
  ),
  "texts is 'Is it\\?'; expected a list": lambda m, d: jp.BestHard('Is it?', d.test),
  r"prompts\['x'\] is 'Say'; expected .* jp.Hard": (
    lambda m, d: jp.compare(m, d.test, {'x': 'Say'})
  ),
  r"prompts\['b'\] is Hard.*; expected a soft one": (
    lambda m, d: jp.merge({'b': jp.Hard('Say')}, {'b': d.validation}, 'x')
  ),
  r"prompt\[0\] is 'Say'; expected .* jp.Hard": (
    lambda m, d: jp.generate(m, 'Say', ['a'])
  ),
  "'speed' is unknown; expected one of loss": (
    lambda m, d: jp.compare(m, d.test, {'rows': jp.Bare()}).table(['speed'])
  ),
  "'/nowhere' holds no trained prompt; expected": (
    lambda m, d: jp.load_prompt('/nowhere', m)
  ),
  'task is missing; .* is no run': (
    lambda m, d: jp.load_prompt(conftest.FIXTURES / 'peft_gpt2', m)
  ),
  'rows is Data.*; expected rows, such as data.test': (
    lambda m, d: jp.compare(m, d, {'bare': jp.Bare()})
  ),
  'prompts is .*Bare.*; expected {name: prompt}': (
    lambda m, d: jp.compare(m, d.test, [jp.Bare()])
  ),
  'data is Rows.*; expected what jp.load_data returns': (
    lambda m, d: jp.train(m, d.train)
  ),
  "source is .*; expected a path, or {'train'": (
    lambda m, d: jp.load_data([{'text': 'x'}], TASK, m)
  ),
  'rows is .*; expected rows, such as data.train': lambda m, d: jp.FewShot([{}]),
  'validation is Data.*; expected rows': lambda m, d: jp.BestHard(['Say'], d),
  'text is 3; expected a text': lambda m, d: jp.Hard(3),
  r'params has embeddings \(20, 7\); expected \(20, 24\)': (
    lambda m, d: jp.init_prompt(m, d).replace({'embeddings': np.ones((20, 7))})
  ),
  'params is array.*; expected the params of a prompt': (
    lambda m, d: jp.init_prompt(m, d).replace(np.ones((20, 24)))
  ),
  "init is 'text', which would be the words of the prompt": (
    lambda m, d: jp.train(m, d, jp.Soft(init='text'))
  ),
  "init is '.*/gpt2', which would be the words": (
    lambda m, d: jp.train(m, d, jp.Soft(init=str(conftest.FIXTURES / 'gpt2')))
  ),
  'temperature is of text that is generated': (
    lambda m, d: jp.generate(m, jp.Bare(), ['a'], task=RANKED, temperature=1.0)
  ),
  'the arm long with .* makes a row of': (
    lambda m, d: jp.compare(m, d.test, {'long': jp.Hard('word ' * 600)})
  ),
}


def test_nothing_to_answer_has_no_answers(model):
  assert jp.generate(model, jp.Bare(), []) == []


def test_a_prompt_begins_at_a_residual_one_before_its_training(model, data):
  begun = jp.init_prompt(model, data, jp.Soft(length=3, kind='residual'))
  found = jp.init_prompt(model, data, jp.Soft(init=begun))
  assert found.params['embeddings'].shape == (3, 24)


def test_a_number_of_numpys_is_a_number():
  found = arguments.check(arguments.Training, {'learning_rate': np.float64(0.5)})
  assert found == {'train.learning_rate': 0.5}


@pytest.mark.parametrize('message', MISTAKES)
def test_an_argument_that_cannot_be_used_is_named(model, data, message):
  with pytest.raises(jp.UserError, match=message):
    MISTAKES[message](model, data)


def test_what_is_of_another_model_is_refused(model, data):
  other = jp.load_model(str(conftest.FIXTURES / 'llama'))
  with pytest.raises(jp.UserError, match=r'data is of Model\(.*gpt2.*, not of Model'):
    jp.train(other, data)
  with pytest.raises(jp.UserError, match=r"prompts\['shots'\] is of Model"):
    jp.compare(other, _data(other).test, {'shots': jp.FewShot(data.train[:2])})
