"""The config's fields: what each one is, its default, and what values it may have.

`python -m jaxprompt.config` prints the table of docs/configuration.md. Nothing here
imports a model, so that a mistake in a config shows at once.
"""

import dataclasses

from ml_collections import config_dict

from jaxprompt import errors
from jaxprompt.tasks import tasks

# Numbers that float32 multiplies and divides by without an overflow or a 0.
SMALLEST, LARGEST = 1e-30, 1e30
INT32 = 2**31 - 1  # steps and tokens are counted to it
UINT32 = 2**32 - 1  # the largest seed
_BATCH_ROWS, _STEP_ROWS = 2**16, 2**20  # of a micro-batch, of an optimiser step


@dataclasses.dataclass(frozen=True)
class Field:
  """A setting: of the config, or a flag of the command.

  Attributes:
    name: 'section.field'.
    default: of the field's type: str, int or float.
    help: its meaning, for the documentation.
    choices: the texts that it may be; () = any.
    blank: whether a text may be blank.
    low, high: of a number, both inclusive.
    also: a number outside of them that it may be, or None.
    by_config: whether each config file has a default of its own.
  """

  name: str
  default: str | int | float
  help: str
  choices: tuple[str, ...] = ()
  blank: bool = False
  low: float = 0
  high: float = INT32
  also: float | None = None
  by_config: bool = False

  @property
  def expected(self):
    """What a value must be, for an error."""
    if self.choices:
      return f'one of {", ".join(self.choices)}'
    if isinstance(self.default, str):
      return 'a text in UTF-8' + ('' if self.blank else ' that is not blank')
    kind = 'a whole number' if isinstance(self.default, int) else 'a number'
    also = '' if self.also is None else f', or {self.also}'
    return f'{kind} from {self.low} to {self.high}{also}'

  def check(self, value, name=None):
    """Returns the value.

    Args:
      value: of any type.
      name: what to call the field in an error, if not by its own name.

    Raises:
      UserError: if the field cannot have the value.
    """
    if not self._accepts(value):
      raise errors.UserError(
        f'{name or self.name} is {value!r:.80}; expected {self.expected}'
      )
    return value

  def _accepts(self, value):
    kinds = (int, float) if isinstance(self.default, float) else (type(self.default),)
    if type(value) not in kinds:  # a bool, which is an int, is no number
      return False
    if isinstance(value, str):
      if self.choices:
        return value in self.choices
      return (self.blank or bool(value.strip())) and _can_be_stored(value)
    return self.low <= value <= self.high or value == self.also  # NaN is in no range

  def parse(self, text, name=None):
    """Returns the value that a text on the command line stands for; see `check`."""
    try:
      value = type(self.default)(text)
    except ValueError:
      value = text
    return self.check(value, name)


def _can_be_stored(text):
  """Returns whether a file can hold the text, and a path consist of it."""
  try:
    return b'\0' not in text.encode()
  except UnicodeEncodeError:  # a byte of the command line that is not UTF-8
    return False


_FLOATS = ('float32', 'bfloat16')
_ALL = (
  Field('task', '', 'summarization, qa or translation', tuple(tasks.TASKS),
        by_config=True),
  Field('seed', 0,
        "of the prompt's initialisation, the order of the data, the bootstrap",
        high=UINT32),
  Field('hard_prompt', '', 'text of the hard arm', by_config=True),
  Field('model.path', 'gpt2', 'hub id, local checkpoint directory, or tiny'),
  Field('model.dtype', 'float32', 'of frozen weights and compute: float32 or bfloat16',
        _FLOATS),
  Field('data.path', '',
        'hub id, directory of train, validation and test files, or tiny',
        by_config=True),
  Field('data.subset', '', "the hub data set's configuration", blank=True,
        by_config=True),
  Field('data.bad_rows', 'error',
        'a row that cannot be used: error, or skip and count it; the sizes count it '
        'too',
        ('error', 'skip')),
  Field('data.train_size', 0, "rows, from the split's beginning; 0 = all",
        by_config=True),
  Field('data.validation_size', 0, 'rows; 0 = all', by_config=True),
  Field('data.test_size', 0, 'rows; 0 = all', by_config=True),
  Field('data.max_source_tokens', 512,
        'tokens; longer sources are cut (a question never)', low=1, by_config=True),
  Field('data.max_target_tokens', 128, 'tokens; longer targets are cut', low=1,
        by_config=True),
  Field('prompt.name', '', 'for people; not tokenised', by_config=True),
  Field('prompt.kind', 'embedding',
        'embedding = virtual tokens, deep = their keys and values in every block, '
        'residual = virtual tokens and a network of them',
        ('embedding', 'deep', 'residual')),
  Field('prompt.length', 20, 'P, virtual tokens', low=1),
  Field('prompt.init', 'text',
        'text, vocab, random, or the directory of a trained prompt'),
  Field('prompt.text', '', "text of init=text; '' = the hard prompt's", blank=True),
  Field('prompt.position', 'prefix', 'prefix = before the source, suffix = after it',
        ('prefix', 'suffix')),
  Field('train.batch_size', 8, 'rows a micro-batch, over all devices', low=1,
        high=_BATCH_ROWS),
  Field('train.epochs', 10, 'passes over the training rows', low=1),
  Field('train.steps', 0, 'optimiser steps, instead of train.epochs; 0 = by epochs'),
  Field('train.patience', 0,
        'validations without a better loss before training stops; 0 = never'),
  Field('train.accumulate', 1, 'micro-batches an optimiser step', low=1,
        high=_STEP_ROWS),
  Field('train.clip_norm', 1.0,
        "largest norm of the prompt's gradient; 0 = no clipping",
        low=SMALLEST, high=LARGEST, also=0),
  Field('train.learning_rate', 0.05, 'AdamW, after the warm-up',
        low=SMALLEST, high=LARGEST, also=0),
  Field('train.schedule', 'cosine', 'after the warm-up: cosine, linear or constant',
        ('cosine', 'linear', 'constant')),
  Field('train.warmup', 10, 'optimiser steps', high=2**24),  # float32 counts to it
  Field('train.context_cache_gb', -1.0,
        'host memory for sources; -1 = a third of the free', high=LARGEST, also=-1),
  Field('train.context_dtype', 'float32', "of a suffix's sources: float32 or bfloat16",
        _FLOATS),
  Field('eval.batch_size', 16, 'rows', low=1, high=_BATCH_ROWS),
  Field('eval.every_steps', 0,
        "optimiser steps between validations, besides every epoch's end; 0 = none"),
  Field('eval.validation_text', 'off',
        'on = also generates and scores the text of validation rows while training',
        ('off', 'on')),
  Field('eval.max_new_tokens', 128, 'tokens generated at most', low=1, by_config=True),
  Field('eval.beams', 1, '1 = greedy', low=1, high=2**10),
  Field('checkpoint.every_steps', 100,
        "optimiser steps, besides every epoch's end; 0 = none"),
  Field('checkpoint.keep', 3, 'newest checkpoints kept', low=1),
  Field('parallel.mode', 'jit', 'how devices are used: jit (over a mesh) or pmap',
        ('jit', 'pmap')),
  Field('parallel.data', -1, 'devices that share a batch; -1 = all that are left',
        low=1, also=-1),
  Field('parallel.model', 1, 'devices that share the weights; -1 = all that are left',
        low=1, also=-1),
  Field('sweep.length', '',
        'of a sweep: values of `prompt.length`, separated by commas', blank=True),
  Field('sweep.seed', '', 'of a sweep: values of `seed`', blank=True),
  Field('sweep.init', '', 'of a sweep: values of `prompt.init`', blank=True),
  Field('sweep.learning_rate', '', 'of a sweep: values of `train.learning_rate`',
        blank=True),
)  # fmt: skip
FIELDS = {field.name: field for field in _ALL}
SECTIONS = tuple(
  dict.fromkeys(name.partition('.')[0] for name in FIELDS if '.' in name)
)


def table():
  """Returns the fields as a table in Markdown."""
  lines = ['| field | default | meaning |', '|---|---|---|']
  for name, field in FIELDS.items():
    default = f'`{field.default}`' if field.default != '' else "`''`"
    if field.by_config:
      default = "the config file's"
    lines.append(f'| `{name}` | {default} | {field.help} |')
  return '\n'.join(lines)


def default(task):
  """Returns the config of a task, its data to be set by its file in configs/."""
  config = config_dict.ConfigDict({section: {} for section in SECTIONS})
  for name, field in FIELDS.items():
    section, _, key = name.rpartition('.')
    (config[section] if section else config)[key] = field.default
  config.task, config.hard_prompt = task, tasks.TASKS[task].hard_prompt
  config.prompt.name = tasks.TASKS[task].prompt_name
  return config


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


def complete(values, where):
  """Returns a checked config; what its values lack has its default.

  Args:
    values: a nested dict, as a user may have given it.
    where: what has them, for an error.

  Raises:
    UserError: for what is no field, and for a value that cannot be used.
  """
  if not isinstance(values, dict):
    raise errors.UserError(f'{where}: {values!r:.60} is no config; expected its fields')
  flat = {}
  for name, content in values.items():
    fields = content if isinstance(content, dict) else {'': content}
    flat |= {f'{name}.{key}'.strip('.'): each for key, each in fields.items()}
  try:
    for name, each in flat.items():
      if name not in FIELDS:
        raise errors.UserError(
          f'{name!r:.60} is no field; `python -m jaxprompt.config` lists them'
        )
      FIELDS[name].check(each)
    if 'task' not in flat:
      raise errors.UserError(f'task is missing; expected {FIELDS["task"].expected}')
    config = default(flat['task'])
    config.update_from_flattened_dict(flat)
    check(config)
  except errors.UserError as e:
    raise errors.UserError(f'{where}: {e}') from e
  return config


def check(config):
  """Raises `UserError` for the first field whose value cannot be used."""
  for name, field in FIELDS.items():
    if 'sweep' in config or not name.startswith('sweep.'):
      field.check(value(config, name))
  rows = config.train.batch_size * config.train.accumulate
  if rows > _STEP_ROWS:
    raise errors.UserError(
      f'train.batch_size ({config.train.batch_size}) x train.accumulate '
      f'({config.train.accumulate}) is {rows} rows an optimiser step; expected at most '
      f'{_STEP_ROWS}'
    )


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
  field = FIELDS[SWEPT[name]]
  try:
    values = [field.parse(part.strip()) for part in text.split(',')]
  except errors.UserError:
    values = []
  if not values or len(set(values)) < len(values):
    raise errors.UserError(
      f'sweep.{name} is {text!r}; expected values separated by commas, all different, '
      f'each {field.expected}'
    )
  return values


if __name__ == '__main__':
  print(table())
