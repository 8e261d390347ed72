"""The config's fields with their defaults, and what values they may have."""

import math

from ml_collections import config_dict

from jaxprompt import contexts
from jaxprompt import devices
from jaxprompt import errors
from jaxprompt import optim
from jaxprompt import placement
from jaxprompt import tasks
from jaxprompt.lm import loading


def default(task):
  """Returns the config of a task, its data to be set by its file in configs/."""
  c = config_dict.ConfigDict()
  c.task = task  # summarization, qa or translation
  c.seed = 0  # of the prompt's initialisation, the order of the data, the bootstrap
  c.hard_prompt = tasks.TASKS[task].hard_prompt  # text of the hard arm

  c.model = config_dict.ConfigDict()
  c.model.path = 'gpt2'  # hub id, local checkpoint directory, or tiny
  c.model.dtype = 'float32'  # of frozen weights and compute: float32 or bfloat16

  c.data = config_dict.ConfigDict()
  c.data.path = ''  # hub id, directory of train, validation and test files, or tiny
  c.data.subset = ''  # the hub data set's configuration
  c.data.train_size = 0  # rows, from the split's beginning; 0 = all
  c.data.validation_size = 0  # rows; 0 = all
  c.data.test_size = 0  # rows; 0 = all
  c.data.bad_rows = 'error'  # of rows that cannot be used: error, or skip and count
  c.data.max_source_tokens = 512  # tokens; longer sources are cut (a question never)
  c.data.max_target_tokens = 128  # tokens; longer targets are cut

  c.prompt = config_dict.ConfigDict()
  c.prompt.name = tasks.TASKS[task].prompt_name  # for people; not tokenised
  c.prompt.length = 20  # P, virtual tokens
  c.prompt.init = 'text'  # text, vocab, random, or the directory of a trained prompt
  c.prompt.text = ''  # text of init=text; '' = the hard prompt's
  c.prompt.position = 'prefix'  # prefix = before the source, suffix = after it

  c.train = config_dict.ConfigDict()
  c.train.batch_size = 8  # rows a micro-batch, over all devices
  c.train.epochs = 10  # passes over the training rows
  c.train.accumulate = 1  # micro-batches an optimiser step
  c.train.clip_norm = 1.0  # largest norm of the prompt's gradient; 0 = no clipping
  c.train.learning_rate = 0.05  # AdamW, after the warm-up
  c.train.schedule = 'cosine'  # after the warm-up: cosine, linear or constant
  c.train.warmup = 10  # optimiser steps
  c.train.context_cache_gb = -1.0  # host memory for sources; -1 = a third of the free
  c.train.context_dtype = 'float32'  # of a suffix's sources: float32 or bfloat16

  c.eval = config_dict.ConfigDict()
  c.eval.batch_size = 16  # rows
  c.eval.max_new_tokens = 128  # tokens generated at most
  c.eval.beams = 1  # 1 = greedy

  c.checkpoint = config_dict.ConfigDict()
  c.checkpoint.every_steps = 100  # optimiser steps, besides every epoch's end; 0 = none
  c.checkpoint.keep = 3  # newest checkpoints kept

  c.parallel = config_dict.ConfigDict()
  c.parallel.mode = 'jit'  # how devices are used: jit (over a mesh) or pmap
  c.parallel.data = -1  # devices that share a batch; -1 = all that are left
  c.parallel.model = 1  # devices that share the weights; -1 = all that are left

  # Of --mode=sweep: values separated by commas; '' = the one that the field itself has.
  c.sweep = config_dict.ConfigDict()
  c.sweep.length = ''  # of prompt.length
  c.sweep.seed = ''  # of seed
  c.sweep.init = ''  # of prompt.init
  c.sweep.learning_rate = ''  # of train.learning_rate
  return c


# The settings of the experiment in PyTorch that this project began with.
ORIGINAL = {
  'prompt.length': 1,
  'train.batch_size': 1,
  'train.epochs': 10,
  'train.accumulate': 1,
  'train.clip_norm': 1.0,
}

# The model and the data that come with the package: any machine, no network, a minute.
TINY = {
  'model.path': 'tiny',
  'data.path': 'tiny',
  'data.subset': '',
  'prompt.length': 16,
  'train.batch_size': 16,
  'train.learning_rate': 0.1,
  'eval.batch_size': 32,
}


def with_preset(config, presets, name):
  """Returns the config with a preset's values.

  Args:
    config: from `default`.
    presets: {name: {'section.field': value}}; '' is the preset of no name.
    name: the part of --config after the colon.

  Raises:
    UserError: for an unknown name.
  """
  if name not in presets:
    known = ', '.join(repr(preset) for preset in presets)
    raise errors.UserError(f'preset {name!r} is unknown; expected one of {known}')
  config.update_from_flattened_dict(presets[name])
  return config


def _one_of(*values):
  return lambda x: x in values, 'one of ' + ', '.join(map(str, values))


def _at_least(low):
  return lambda x: math.isfinite(x) and x >= low, f'a number of at least {low}'


_AT_LEAST_0 = _at_least(0)
_AT_LEAST_1 = _at_least(1)
_ALL_LEFT_OR_AT_LEAST_1 = (lambda x: x == -1 or x >= 1, '-1 or at least 1')
_TEXT = (lambda x: bool(x.strip()), 'a text that is not blank')

CHECKS = {
  'task': _one_of(*tasks.TASKS),
  'seed': (lambda x: 0 <= x < 2**32, 'a number from 0 to 2**32 - 1'),
  'hard_prompt': _TEXT,
  'model.path': _TEXT,
  'model.dtype': _one_of(*loading.DTYPES),
  'data.path': _TEXT,
  'data.train_size': _AT_LEAST_0,
  'data.validation_size': _AT_LEAST_0,
  'data.test_size': _AT_LEAST_0,
  'data.bad_rows': _one_of('error', 'skip'),
  'data.max_source_tokens': _AT_LEAST_1,
  'data.max_target_tokens': _AT_LEAST_1,
  'prompt.name': _TEXT,
  'prompt.length': _AT_LEAST_1,
  'prompt.init': _TEXT,
  'prompt.position': _one_of(*placement.POSITIONS),
  'train.batch_size': _AT_LEAST_1,
  'train.epochs': _AT_LEAST_1,
  'train.accumulate': _AT_LEAST_1,
  'train.clip_norm': _AT_LEAST_0,
  'train.learning_rate': _AT_LEAST_0,
  'train.schedule': _one_of(*optim.SCHEDULES),
  'train.warmup': _AT_LEAST_0,
  'train.context_cache_gb': (
    lambda x: x == -1 or 0 <= x < math.inf,
    'a number of at least 0, or -1',
  ),
  'train.context_dtype': _one_of(*contexts.DTYPES),
  'eval.batch_size': _AT_LEAST_1,
  'eval.max_new_tokens': _AT_LEAST_1,
  'eval.beams': _AT_LEAST_1,
  'checkpoint.every_steps': _AT_LEAST_0,
  'checkpoint.keep': _AT_LEAST_1,
  'parallel.mode': _one_of(*devices.MODES),
  'parallel.data': _ALL_LEFT_OR_AT_LEAST_1,
  'parallel.model': _ALL_LEFT_OR_AT_LEAST_1,
}


# The fields that a sweep gives several values, by their names in it. The first varies
# slowest from run to run.
SWEPT = {
  'length': 'prompt.length',
  'seed': 'seed',
  'init': 'prompt.init',
  'learning_rate': 'train.learning_rate',
}


def value(config, field):
  """Returns the value of 'section.field'."""
  for part in field.split('.'):
    config = config[part]
  return config


def check(config):
  """Raises `UserError` for the first field whose value cannot be used."""
  for field, (good, expected) in CHECKS.items():
    found = value(config, field)
    if not good(found):
      raise errors.UserError(f'{field} is {found!r}; expected {expected}')


def restored(content, path):
  """Returns the config that a run has stored, complete.

  Args:
    content: a nested dict; what it lacks has its default.
    path: of its file.

  Raises:
    UserError: for a field that there is not, or a value that cannot be used.
  """
  task = content.get('task')
  if task not in tasks.TASKS:
    raise errors.UserError(
      f'{path} has the task {task!r}; expected one of {", ".join(tasks.TASKS)}: '
      'restore it, or choose another --workdir'
    )
  config = default(task)
  if 'sweep' not in content:
    with config.unlocked():
      del config.sweep
  with errors.reading(path, 'restore it, or use the release that wrote it'):
    config.update(content)
  check(config)
  return config


def run(config, **values):
  """Returns the config of one run of a sweep: it has no `sweep`.

  Args:
    config: from `default`.
    values: by the names of `SWEPT`; what is missing stays as it is.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    del config.sweep
  config.update_from_flattened_dict(
    {SWEPT[name]: chosen for name, chosen in values.items()}
  )
  return config


def single_run(config):
  """Returns the config of a run by itself.

  Raises:
    UserError: if it asks for a sweep.
  """
  for name, values in config.sweep.items():
    if values:
      raise errors.UserError(
        f'sweep.{name} is {values!r}, which only --mode=sweep reads; add it, or set '
        f'{SWEPT[name]}'
      )
  return run(config)


def swept(config, name):
  """Returns the values that a field of `SWEPT` has in the runs of a sweep, in order.

  Raises:
    UserError: if they cannot be read, or used.
  """
  text, own = config.sweep[name], value(config, SWEPT[name])
  if not text:
    return [own]
  good, expected = CHECKS[SWEPT[name]]
  try:
    values = [type(own)(part.strip()) for part in text.split(',')]
  except ValueError:
    values = []
  if not values or not all(map(good, values)) or len(set(values)) < len(values):
    raise errors.UserError(
      f'sweep.{name} is {text!r}; expected values separated by commas, all different, '
      f'each {expected}'
    )
  return values
