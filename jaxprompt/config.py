"""Configs: from a task's defaults, files and stored runs; checked field by field.

`python -m jaxprompt.config` prints the table of docs/configuration.md. Nothing here
imports a model, so that a mistake in a config shows at once.
"""

import contextlib
import dataclasses

from ml_collections import config_dict

from jaxprompt import errors
from jaxprompt import fields as fields_lib
from jaxprompt.tasks import tasks

FIELDS, SECTIONS = fields_lib.FIELDS, fields_lib.SECTIONS


def default(task):
  """Returns the config of a task, its data to be set by its file in configs/.

  Args:
    task: one of `tasks.TASKS`, or another name, of which nothing is known.
  """
  config = config_dict.ConfigDict({section: {} for section in SECTIONS})
  for name, field in FIELDS.items():
    section, _, key = name.rpartition('.')
    (config[section] if section else config)[key] = field.default
  config.task, config.prompt.name = task, f'[{task.upper()}]'
  if known := tasks.TASKS.get(task):
    config.update_from_flattened_dict(of_task(known))
  return config


# The fields that describe a task, by its attributes.
_OF_TASK = {key.name: key.name for key in dataclasses.fields(tasks.Task)}
_OF_TASK |= {key: f'example.{key}' for key in _OF_TASK if f'example.{key}' in FIELDS}
_OF_TASK |= {'name': 'task', 'prompt_name': 'prompt.name'}


def of_task(task):
  """Returns {field: value} of what describes a `tasks.Task`."""
  return {field: getattr(task, key) for key, field in _OF_TASK.items()}


def task_of(config):
  """Returns the `tasks.Task` of a config; raises `UserError` for what is none."""
  return tasks.Task(**{key: value(config, field) for key, field in _OF_TASK.items()})


# The settings of the experiment in PyTorch that this project began with.
ORIGINAL = {
  'data.sample': 'head',
  'prompt.length': 1,
  'train.batch_size': 1,
  'train.learning_rate': 0.05,
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


# Where none is given, the learning rate of an optimiser for a kind of prompt, as a
# prefix and as a suffix. Prodigy finds its own, of which this is the share taken.
BY_OPTIMIZER = FIELDS['train.learning_rate'].default
RATES = {
  'adamw': {'embedding': (0.15, 0.15), 'deep': (0.03, 0.06), 'residual': (0.05, 0.05)},
  'adafactor': {'embedding': (0.3, 0.3), 'deep': (0.03, 0.1), 'residual': (0.3, 0.3)},
  'prodigy': {'embedding': (1.0, 1.0), 'deep': (1.0, 1.0), 'residual': (1.0, 1.0)},
}
# What each optimiser reads besides its learning rate.
_READ = {
  'adamw': ('weight_decay', 'beta1', 'beta2'),
  'adafactor': ('weight_decay',),
  'prodigy': ('weight_decay', 'beta1', 'beta2'),
}


def set_rate(config):
  """Sets the learning rate, in place, where it is left to an optimiser of `RATES`."""
  train = config.train
  if train.learning_rate == BY_OPTIMIZER and train.optimizer in RATES:
    prefix, suffix = RATES[train.optimizer][config.prompt.kind]
    train.learning_rate = suffix if config.prompt.position == 'suffix' else prefix


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


def fill(values, where):
  """Returns a config; what its values lack has its default.

  Args:
    values: a nested dict, as a user may have given it.
    where: what has them, for an error.

  Raises:
    UserError: for what is no field, and for a value that is given and cannot be used.
  """
  if not isinstance(values, dict):
    raise errors.UserError(f'{where}: {values!r:.60} is no config; expected its fields')
  flat = {}
  for name, content in values.items():
    fields = content if isinstance(content, dict) else {'': content}
    flat |= {f'{name}.{key}'.strip('.'): each for key, each in fields.items()}
  with _named(where):
    for name, each in flat.items():
      if name not in FIELDS:
        raise errors.UserError(
          f'{name!r:.60} is no field; `python -m jaxprompt.config` lists them'
        )
      if each != FIELDS[name].default:
        FIELDS[name].check(each)
    if 'task' not in flat:
      raise errors.UserError('task is missing; expected its name')
    config = default(flat['task'])
    config.update_from_flattened_dict(flat)
  return config


def complete(values, where):
  """Returns a checked config that can be used; otherwise as `fill`."""
  config = fill(values, where)
  with _named(where):
    check(config)
  return config


@contextlib.contextmanager
def _named(where):
  """Puts what has the values in front of what is wrong with them."""
  try:
    yield
  except errors.UserError as e:
    raise errors.UserError(f'{where}: {e}') from e


def check(config):
  """Raises `UserError` for the first field whose value cannot be used."""
  for name, field in FIELDS.items():
    if 'sweep' in config or not name.startswith('sweep.'):
      field.check(value(config, name))
  task_of(config)
  if 'soft' not in config.arms:
    raise errors.UserError(
      f'arms is {",".join(config.arms)!r}; expected soft among them, the prompt that '
      'is trained'
    )
  if '{source}' in config.hard_prompt:
    raise errors.UserError(
      f'hard_prompt is {config.hard_prompt!r:.80}; it stands in front of the source, '
      'and texts around {source} are of hard_prompts, for the arm best_hard'
    )
  if 'best_hard' in config.arms and not config.hard_prompts:
    raise errors.UserError(
      'hard_prompts is empty, and arms has best_hard; give several texts to choose from'
    )
  _check_optimizer(config.train)
  rows = config.train.batch_size * config.train.accumulate
  if rows > fields_lib.STEP_ROWS:
    raise errors.UserError(
      f'train.batch_size ({config.train.batch_size}) x train.accumulate '
      f'({config.train.accumulate}) is {rows} rows an optimiser step; expected at most '
      f'{fields_lib.STEP_ROWS}'
    )


def _check_optimizer(train):
  name = train.optimizer
  if name not in RATES and ':' not in name:
    raise errors.UserError(
      f'train.optimizer is {name!r:.60}; expected one of {", ".join(RATES)}, or '
      'package.module:function'
    )
  for key in _READ['adamw']:
    field = f'train.{key}'
    if key not in _READ.get(name, ()) and train[key] != FIELDS[field].default:
      raise errors.UserError(
        f'{field} is {train[key]}, which train.optimizer {name!r:.60} does not read; '
        'leave it out'
      )


def run(config, **values):
  """Returns the config of one run of a sweep: it has no `sweep`, and its own rate.

  Args:
    config: from `default`.
    values: by the names of `SWEPT`; what is missing stays as it is.

  Raises:
    UserError: if an optimiser of one's own has no learning rate.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    del config.sweep
  config.update_from_flattened_dict(
    {SWEPT[name]: chosen for name, chosen in values.items()}
  )
  set_rate(config)
  if config.train.learning_rate == BY_OPTIMIZER:
    raise errors.UserError(
      f'train.learning_rate is {BY_OPTIMIZER}, and train.optimizer '
      f'{config.train.optimizer!r:.60} has none of its own; give one'
    )
  return config


def single_run(config):
  """Returns the config of a run by itself.

  Raises:
    UserError: if it asks for a sweep.
  """
  for name, values in config.sweep.items():
    if values != FIELDS[f'sweep.{name}'].default:
      instead = f', or set {SWEPT[name]}' if name in SWEPT else ''
      raise errors.UserError(
        f'sweep.{name} is {values!r}, which only --mode=sweep reads; add it{instead}'
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
  field = FIELDS[SWEPT[name]]
  try:
    values = [field.parse(str(part)) for part in fields_lib.texts(text)]
  except ValueError:  # of JSON too
    values = []
  if not values or len(set(values)) < len(values):
    raise errors.UserError(
      f'sweep.{name} is {text!r}; expected values separated by commas or a JSON list, '
      f'all different, each {field.expected}'
    )
  return values


if __name__ == '__main__':
  print(fields_lib.table())
