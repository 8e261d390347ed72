"""The fields and their checks; every config and preset instantiates and passes them."""

import math
import re
import runpy
import subprocess
import sys

import pytest
from conftest import CONFIGS

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import flags
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import products
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.runs import workdir
from jaxprompt.tasks import tasks
from jaxprompt.training import optim

FIELDS = {
  'model.path', 'model.dtype', 'data.path', 'data.subset', 'data.train_size',
  'data.validation_size', 'data.test_size', 'data.bad_rows', 'data.max_source_tokens',
  'data.max_target_tokens', 'data.sample', 'data.seed',
  'prompt.name', 'prompt.length', 'prompt.init',
  'prompt.text', 'prompt.position', 'hard_prompt', 'example.source', 'example.target',
  'example.cut', 'example.references', 'example.empty_target', 'example.labels',
  'metrics', 'eval.calibration', 'train.batch_size', 'train.epochs',
  'prompt.kind', 'train.steps', 'train.patience', 'eval.every_steps',
  'eval.validation_text',
  'train.accumulate', 'train.clip_norm', 'train.learning_rate', 'train.schedule',
  'train.optimizer', 'train.weight_decay', 'train.beta1', 'train.beta2',
  'train.warmup', 'train.context_cache_gb', 'train.context_dtype', 'eval.batch_size',
  'eval.max_new_tokens', 'eval.beams',
  'checkpoint.every_steps', 'checkpoint.keep', 'parallel.mode', 'parallel.data',
  'parallel.model', 'sweep.length', 'sweep.seed', 'sweep.init', 'sweep.learning_rate',
  'sweep.test', 'log.wandb', 'task', 'seed', 'arms', 'hard_prompts',
  'few_shot.examples', 'few_shot.draws', 'model.precision',
}  # fmt: skip


def _module(task):
  return runpy.run_path(CONFIGS / f'{task}.py')


def _config(task, preset=''):
  return _module(task)['get_config'](preset)


PRESETS = [
  (task, preset) for task in tasks.TASKS for preset in _module(task)['PRESETS']
]


@pytest.mark.parametrize('task, preset', PRESETS)
def test_a_preset_has_every_field_with_a_good_value(task, preset):
  config = _config(task, preset)
  config_lib.check(config)
  assert workdir.flatten(config.to_dict()).keys() == FIELDS
  assert (config.task, config.hard_prompt) == (task, tasks.TASKS[task].hard_prompt)


@pytest.mark.parametrize(
  'task, sizes',
  [
    ('summarization', (1000, 130, 110)),
    ('qa', (5000, 500, 500)),
    ('translation', (4800, 600, 600)),
  ],
)
def test_the_original_preset_is_the_original_experiments_settings(task, sizes):
  config = _config(task, 'original')
  data, train = config.data, config.train
  assert (data.train_size, data.validation_size, data.test_size) == sizes
  assert (train.batch_size, train.epochs, train.accumulate) == (1, 10, 1)
  assert (train.clip_norm, config.prompt.length) == (1.0, 1)
  assert data.sample == 'head'


def test_every_preset_fits_gpt2s_positions():
  for task, preset in PRESETS:
    config = _config(task, preset)
    if config.model.path == 'gpt2':
      after = max(config.data.max_target_tokens + 1, config.eval.max_new_tokens)
      longest = config.prompt.length + config.data.max_source_tokens + 1 + after
      assert longest <= 1024


def test_an_unknown_preset_lists_the_known_ones():
  with pytest.raises(errors.UserError, match=r"'huge' is unknown; .*'original'"):
    _config('qa', 'huge')


def test_the_fields_are_those_of_the_contract():
  assert config_lib.FIELDS.keys() == FIELDS


def test_a_choice_is_a_key_of_what_it_chooses_from():
  chooses = {
    'model.dtype': loading.DTYPES,
    'model.precision': products.PRECISIONS,
    'prompt.kind': kinds.KINDS,
    'prompt.position': placement.POSITIONS,
    'arms': arms.ARMS,
    'train.schedule': optim.SCHEDULES,
    'train.context_dtype': loading.DTYPES,
    'parallel.mode': devices.MODES,
  }
  for name, choices in chooses.items():
    assert config_lib.FIELDS[name].choices == tuple(choices), name


def test_every_optimiser_has_a_learning_rate_for_every_kind_of_prompt():
  assert config_lib.RATES.keys() == optim.OPTIMIZERS.keys()
  for rates in config_lib.RATES.values():
    assert rates.keys() == kinds.KINDS.keys()


@pytest.mark.parametrize(
  'given, expected',
  [
    ({'optimizer': 'prodigy'}, 1.0),
    ({'optimizer': 'prodigy', 'learning_rate': 0.5}, 0.5),
    ({'learning_rate': 0.0}, 0.0),
    ({'optimizer': 'my:own', 'learning_rate': 0.2}, 0.2),
  ],
)
def test_a_learning_rate_that_is_not_given_is_the_optimisers_own(given, expected):
  config = _config('qa')
  config.train.update(given)
  assert config_lib.single_run(config).train.learning_rate == expected


def test_a_newline_in_a_flags_text_is_one():
  hard = r'--config.hard_prompts={source}\nTL;DR:'
  values, _ = flags.parse(['jaxprompt', '--config=qa', hard])
  assert values.config.hard_prompts == ('{source}\nTL;DR:',)
  values, _ = flags.parse(['jaxprompt', '--config=qa', r'--config.prompt.text=Say\tit'])
  assert values.config.prompt.text == 'Say\tit'


def test_each_kind_and_place_of_a_prompt_has_a_learning_rate_of_its_own():
  config, found = _config('qa'), []
  for kind, position in (
    ('deep', 'prefix'),
    ('deep', 'suffix'),
    ('embedding', 'prefix'),
  ):
    config.prompt.update(kind=kind, position=position)
    found.append(config_lib.single_run(config).train.learning_rate)
  assert tuple(found[:2]) == config_lib.RATES['adamw']['deep']
  assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(
  'given, message',
  [
    ({'optimizer': 'adam'}, "'adam'; expected one of adamw, adafactor, prodigy, or"),
    (
      {'optimizer': 'adafactor', 'beta1': 0.8},
      "beta1 is 0.8, which train.optimizer 'ad",
    ),
    ({'optimizer': 'my:own', 'weight_decay': 0.1}, 'weight_decay is 0.1, which'),
    ({'optimizer': 'my:own'}, "train.optimizer 'my:own' has none of its own; give one"),
  ],
)
def test_an_optimiser_that_cannot_be_used_is_one_line(given, message):
  config = _config('qa')
  config.train.update(given)
  with pytest.raises(errors.UserError, match=re.escape(message)):
    config_lib.check(config)
    config_lib.single_run(config)


def test_reading_a_config_imports_no_model_code():
  code = 'import sys, jaxprompt.flags as c; c.load("qa:tiny"); print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  loaded = set(done.stdout.split())
  assert 'jaxprompt.config' in loaded
  assert not {'jax', 'flax', 'optax', 'transformers', 'datasets'} & loaded


REFUSED = {
  'task': ['', ' ', 1],
  'seed': [-1, 2**32, 1.0, True],
  'hard_prompt': ['a\0b', '\udcff', None],
  'example.labels': ['a,b', [1], [' '], None],
  'metrics': ['bleu', ['a\0'], []],
  'eval.calibration': ['yes'],
  'arms': [[], ['soft', 'soft'], ['poem'], 'soft', [1]],
  'hard_prompts': [[' '], ['a', 'a'], None, {'a': 1}],
  'model.dtype': ['int8'],
  'model.precision': ['high'],
  'data.path': [''],
  'data.subset': ['\udcff', 0],
  'data.bad_rows': ['ignore'],
  'data.sample': ['first'],
  'data.seed': [-1, 2**32],
  'data.train_size': [-1, 2**31, 10**30],
  'data.max_source_tokens': [0, 10**12],
  'prompt.length': [0, 10**12, '4'],
  'train.batch_size': [0, 10**12, 2**16 + 1],
  'train.accumulate': [0, 10**12],
  'train.epochs': [0, 10**12, math.inf],
  'train.clip_norm': [-1.0, 1e-40, 1e38, math.nan],
  'train.learning_rate': [-0.1, 1e-40, 1e38, 10**400, math.nan, math.inf],
  'train.optimizer': ['', 1],
  'train.beta1': [-0.1, 1.0],
  'train.warmup': [-1, 10_000_000_000],
  'train.context_cache_gb': [-2.0, math.nan, math.inf],
  'eval.beams': [0, 10**9],
  'checkpoint.keep': [0],
  'parallel.data': [0, -2, 2**31],
  'sweep.seed': [0],
}


@pytest.mark.parametrize(
  'name, value', [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_a_bad_value_is_named_with_what_was_expected(name, value):
  field = config_lib.FIELDS[name]
  with pytest.raises(errors.UserError) as e:
    field.check(value)
  assert str(e.value) == f'{name} is {value!r:.80}; expected {field.expected}'


ACCEPTED = {
  'seed': [0, 2**32 - 1],
  'data.subset': [''],
  'train.learning_rate': [0.0, 0, 1e-30, 1e30, -1],
  'train.beta2': [0.0, 0.999],
  'train.context_cache_gb': [-1.0, -1, 0.0, 0.5],
  'parallel.data': [-1, 1],
}


@pytest.mark.parametrize(
  'name, value',
  [(name, value) for name, values in ACCEPTED.items() for value in values],
)
def test_a_bound_itself_can_be_used(name, value):
  assert config_lib.FIELDS[name].check(value) == value


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Answer,  TL;DR:', ('Answer', 'TL;DR:')),
    ('["{source}\\nTL;DR:", "a, b"]', ('{source}\nTL;DR:', 'a, b')),
  ],
)
def test_several_texts_are_separated_by_commas_or_are_a_json_list(text, expected):
  assert config_lib.FIELDS['hard_prompts'].parse(text) == expected


@pytest.mark.parametrize('text', ['["a"', '[1]', '[]', '', 'a,,b'])
def test_a_list_of_texts_that_cannot_be_read_is_named(text):
  with pytest.raises(
    errors.UserError, match=r'metrics is .*; expected one or more texts'
  ):
    config_lib.FIELDS['metrics'].parse(text)


def test_arms_without_the_trained_prompt_are_refused():
  config = _config('qa')
  config.arms = ('none', 'hard')
  with pytest.raises(errors.UserError, match="'none,hard'; expected soft among them"):
    config_lib.check(config)


def test_the_built_in_tasks_have_eight_hard_prompts_their_own_among_them():
  for task in tasks.TASKS.values():
    assert len(set(task.hard_prompts)) == 8
    assert task.hard_prompt in task.hard_prompts


def test_all_micro_batches_of_a_step_together_have_a_bound():
  config = _config('qa')
  config.train.update(batch_size=2**12, accumulate=2**12)
  with pytest.raises(errors.UserError, match=r'\(4096\) is 16777216 rows an optimiser'):
    config_lib.check(config)


def test_more_steps_than_a_number_can_hold_are_refused():
  assert optim.schedule('linear', optim.pace_of(1.0, 2**24, 2**31 - 1))(0) > 0
  with pytest.raises(errors.UserError, match=r'2147483648 optimiser .* train\.epochs'):
    optim.pace_of(1.0, 0, 2**31)


def test_what_a_config_lacks_has_its_default():
  config = config_lib.complete({'task': 'qa', 'data': {'path': 'x'}}, 'here')
  assert (config.data.path, config.data.bad_rows) == ('x', 'error')
  assert config.hard_prompt == tasks.TASKS['qa'].hard_prompt


@pytest.mark.parametrize(
  'values, message',
  [
    ({}, 'here: task is missing; expected its name'),
    ({'task': 'qa', 'train': {'epocs': 1}}, "here: 'train.epocs' is no field; `python"),
    ({'task': 'qa', 'train': 3}, "here: 'train' is no field"),
    ({'task': {}}, 'here: task is missing'),
    ({'task': 'qa', 'train': {'epochs': '3'}}, "here: train.epochs is '3'; expected a"),
    ({'task': 'qa', 'seed': {'a': 1}}, "here: 'seed.a' is no field"),
    ({'task': 'qa'}, "here: data.path is ''; expected a text"),
  ],
)
def test_a_config_of_another_shape_is_named(values, message):
  with pytest.raises(errors.UserError) as e:
    config_lib.complete(values, 'here')
  assert str(e.value).startswith(message)
