"""Every config and preset instantiates, has the contract's fields, passes checks."""

import importlib.util

import pytest
from conftest import CONFIGS

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import tasks
from jaxprompt import workdir

FIELDS = {
  'model.path', 'model.dtype', 'data.path', 'data.subset', 'data.train_size',
  'data.validation_size', 'data.test_size', 'data.max_source_tokens',
  'data.max_target_tokens', 'data.bad_rows', 'prompt.name', 'prompt.length',
  'prompt.init',
  'prompt.text', 'prompt.position', 'hard_prompt', 'train.batch_size', 'train.epochs',
  'train.accumulate', 'train.clip_norm', 'train.learning_rate', 'train.schedule',
  'train.warmup', 'train.context_cache_gb', 'train.context_dtype', 'eval.batch_size',
  'eval.max_new_tokens', 'eval.beams',
  'checkpoint.every_steps', 'checkpoint.keep', 'parallel.mode', 'parallel.data',
  'parallel.model', 'sweep.length', 'sweep.seed', 'sweep.init', 'sweep.learning_rate',
  'task', 'seed',
}  # fmt: skip


def _module(task):
  spec = importlib.util.spec_from_file_location(task, CONFIGS / f'{task}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


PRESETS = [(task, preset) for task in tasks.TASKS for preset in _module(task).PRESETS]


@pytest.mark.parametrize('task, preset', PRESETS)
def test_a_preset_has_every_field_with_a_good_value(task, preset):
  config = _module(task).get_config(preset)
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
  config = _module(task).get_config('original')
  data, train = config.data, config.train
  assert (data.train_size, data.validation_size, data.test_size) == sizes
  assert (train.batch_size, train.epochs, train.accumulate) == (1, 10, 1)
  assert (train.clip_norm, config.prompt.length) == (1.0, 1)


def test_every_preset_fits_gpt2s_positions():
  for task, preset in PRESETS:
    config = _module(task).get_config(preset)
    if config.model.path == 'gpt2':
      after = max(config.data.max_target_tokens + 1, config.eval.max_new_tokens)
      longest = config.prompt.length + config.data.max_source_tokens + 1 + after
      assert longest <= 1024


def test_an_unknown_preset_lists_the_known_ones():
  with pytest.raises(errors.UserError, match=r"'huge' is unknown; .*'original'"):
    _module('qa').get_config('huge')


def test_no_check_is_of_a_field_that_does_not_exist():
  assert config_lib.CHECKS.keys() <= FIELDS
