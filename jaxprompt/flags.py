"""The command line's flags, its help, and the config that it names."""

import ast
import os
import pathlib
import runpy
import traceback

from absl import flags as absl_flags
from ml_collections import config_dict

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import fields as fields_lib
from jaxprompt.tasks import columns
from jaxprompt.tasks import tasks

# The flags that each mode reads.
READS = {
  'train': ('config', 'workdir', 'distributed'),
  'eval': ('config', 'workdir', 'prompt', 'distributed'),
  'sweep': ('config', 'workdir', 'distributed'),
  'plan': ('config',),
  'predict': (
    ('config', 'workdir', 'prompt', 'input', 'output', 'overwrite')
    + ('temperature', 'top_k', 'top_p', 'seed', 'distributed')
  ),
  'export': ('config', 'workdir', 'prompt', 'output', 'format', 'overwrite'),
  'report': ('workdir',),
  'compare': ('output',),
  'serve': ('config', 'workdir', 'prompt', 'host', 'port'),
}

Field = fields_lib.Field
_FLAGS = (
  Field('config', '',
        'FILE.py[:PRESET], or text, qa, summarization or translation[:PRESET]'),
  Field('workdir', '', 'a directory, local or gs://'),
  Field('input', '',
        'a .jsonl, .json, .csv, .tsv (or with .gz) or .parquet file of sources, or -'),
  Field('output', '', 'a path to write to'),
  Field('format', 'peft',
        "of an export: PEFT's adapter, a checkpoint with the prompt in it, or the "
        'embeddings by themselves', choices=('peft', 'merged', 'embeddings')),
  *fields_lib.SAMPLING,
  Field('host', '127.0.0.1', 'the address that the page is served at'),
  Field('port', 7860, 'its port', high=2**16 - 1),
)  # fmt: skip
_SWITCHES = {
  'overwrite': 'replaces an --output that this program has written, and no other',
  'distributed': (
    'one of several processes with the same command: JAX finds the others by itself on '
    'TPU pods and Slurm, or through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, '
    'JAX_PROCESS_ID'
  ),
}
_PROMPT = (
  '[NAME=]DIRECTORY of a trained prompt; may be given several times. To predict also '
  '[NAME=]DIRECTORY,DIRECTORY,...: they answer together'
)
SHIPPED = pathlib.Path(__file__).parent / 'configs'


def usage():
  """Returns what --help prints."""
  described = {field.name: field.help for field in _FLAGS}
  described |= {'prompt': _PROMPT, **_SWITCHES}
  modes = [
    f'  {mode:9} {" ".join(f"--{name}" for name in names)}'
    for mode, names in READS.items()
  ]
  return '\n'.join(
    [
      'Trains soft prompts of a frozen language model, and uses them.',
      '',
      'jaxprompt --config=FILE.py[:PRESET] --workdir=DIR [--mode=MODE] '
      '[--config.FIELD=VALUE ...]',
      'jaxprompt --mode=compare DIR DIR ... --output=FILE',
      '(or: python -m jaxprompt.main ...)',
      '',
      'The modes, of which train is the default, and the flags that each reads:',
      *modes,
      '',
      'The flags:',
      *(f'  --{name}: {text}' for name, text in described.items()),
      '',
      'The fields for --config.FIELD=VALUE: python -m jaxprompt.config, or '
      'docs/configuration.md',
    ]
  )


class _FieldParser(absl_flags.ArgumentParser):
  """Parses the text of a flag by its `Field`."""

  def __init__(self, field, name):
    super().__init__()
    self._field, self._name = field, name

  def parse(self, argument):
    return self._field.parse(argument, self._name)


class _SectionParser(absl_flags.ArgumentParser):
  """Parses several fields of a section: {'length': 4} -> {'prompt.length': 4}."""

  def __init__(self, section):
    super().__init__()
    self._section = section

  def parse(self, argument):
    try:
      found = ast.literal_eval(argument)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
      found = None
    if not isinstance(found, dict):
      raise errors.UserError(
        f'--config.{self._section} is {argument!r:.80}; expected its fields, such as '
        f'{{"NAME": VALUE}}, or --config.{self._section}.NAME=VALUE'
      )
    fields = {f'{self._section}.{key}': value for key, value in found.items()}
    for name, value in fields.items():
      if name not in config_lib.FIELDS:
        raise errors.UserError(f'--config.{self._section}: {name!r:.60} is no field')
      config_lib.FIELDS[name].check(value)
    return fields


def _define():
  """Returns the flags, not parsed."""
  values = absl_flags.FlagValues()

  def define(field, parser, name, default=None):
    absl_flags.DEFINE(
      parser,
      name,
      default,
      field.help,
      flag_values=values,
      serializer=absl_flags.ArgumentSerializer(),
    )

  for field in _FLAGS:
    parser = _FieldParser(field, f'--{field.name}')
    define(field, parser, field.name, None if field.default == '' else field.default)
  for name, field in config_lib.FIELDS.items():
    define(field, _FieldParser(field, name), f'config.{name}')
  for section in config_lib.SECTIONS:
    absl_flags.DEFINE(_SectionParser(section), f'config.{section}', None, '', values)
  for name, text in _SWITCHES.items():
    absl_flags.DEFINE_boolean(name, False, text, flag_values=values)
  absl_flags.DEFINE_multi_string('prompt', [], _PROMPT, flag_values=values)
  absl_flags.DEFINE_enum('mode', 'train', list(READS), 'what to do', flag_values=values)
  return values


def parse(argv):
  """Returns the flags' values, and the arguments of a mode that takes some.

  `values.config` is the config that --config names, with the fields that flags set, or
  None.

  Raises:
    UserError: for flags that are unknown, have bad values, or are not read.
  """
  values = _define()
  try:
    arguments = values(argv)[1:]
  except (absl_flags.Error, ValueError) as e:  # absl raises both
    own = e.__context__ if isinstance(e.__context__, errors.UserError) else None
    own = own or _unknown(getattr(e, 'flagname', ''))
    raise own or errors.UserError(f'{errors.reason(e)}; --help lists the flags') from e
  _check_read(values)
  if arguments and values.mode != 'compare':
    raise errors.UserError(f'{arguments[0]!r} is no flag; expected --NAME=VALUE')
  if not all(arguments):
    raise errors.UserError("'' is no workdir; expected --mode=compare DIR DIR ...")
  if values.config is not None:
    text, config = values.config, load(values.config)
    values.config = overridden(config, values)
    names = {values.config.task, config.task}
    if len(names) > 1 and names & tasks.TASKS.keys():
      raise errors.UserError(
        f'--config={text} is of the task {config.task}, with its hard prompt, data and '
        'lengths; use --config of the other task, or --config=text for one of your own'
      )
  return values, arguments


def _unknown(flag):
  """Returns the error of a field's name without its section; None of another flag."""
  key = flag.rpartition('.')[2]
  names = [f'--config.{x}' for x in config_lib.FIELDS if x.endswith(f'.{key}')]
  if not names:
    return None
  return errors.UserError(f'--{flag} is no flag; expected {" or ".join(names)}')


def _check_read(values):
  """Refuses a flag that the mode does not read: it would be given in vain."""
  read = READS[values.mode]
  for name in values:
    flag = name.partition('.')[0]
    if values[name].present and flag not in ('mode', *read):
      others = ', '.join(mode for mode, names in READS.items() if flag in names)
      raise errors.UserError(
        f'--{name} is of --mode={others}; --mode={values.mode} reads '
        f'{", ".join(f"--{each}" for each in read)}'
      )


# In which a shell's `\n` is meant as a newline, as in the templates of a task.
_TEXTS = {'hard_prompt', 'hard_prompts', 'prompt.text'}


def overrides(values):
  """Returns {field: value} of the --config.FIELD flags; a field's own comes last."""
  found = {}
  for section in config_lib.SECTIONS:
    found |= values[f'config.{section}'].value or {}
  for name in config_lib.FIELDS:
    if values[f'config.{name}'].present:
      found[name] = values[f'config.{name}'].value
  for name in _TEXTS & found.keys():
    text = found[name]
    is_text = isinstance(text, str)
    found[name] = (
      columns.unescaped(text) if is_text else tuple(map(columns.unescaped, text))
    )
  return found


def overridden(config, values):
  """Returns a copy of a config with the fields that the flags set, checked."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(overrides(values))
  config.hard_prompt = config.hard_prompt or tasks.hard_prompt(config.example.labels)
  config_lib.check(config)
  config_lib.set_rate(config)
  return config


def load(text):
  """Returns the config of FILE.py[:PRESET], or of a shipped file's name.

  Flags may have to set what it leaves open, so that it is not checked as a whole.

  Raises:
    UserError: if there is no such file, or it does not give a config.
  """
  name, *preset = text.split(':', 1)
  shipped = sorted(path.stem for path in SHIPPED.glob('*.py'))
  path = str(SHIPPED / f'{name}.py') if name in shipped else os.path.expanduser(name)
  if not os.path.isfile(path):
    raise errors.UserError(
      f'--config {name!r} is no file; expected FILE.py[:PRESET], or one of '
      f'{", ".join(shipped)}'
    )
  try:
    names = runpy.run_path(path)
    if 'get_config' not in names:
      raise errors.UserError(f'--config {path!r} defines no get_config()')
    found = names['get_config'](*preset)
  except errors.UserError:
    raise
  except Exception as e:  # whatever the user's own code raises
    raise errors.UserError(
      f'--config {path!r}{_line(e, path)} fails: {type(e).__name__}: {e}'
    ) from e
  if isinstance(found, config_dict.ConfigDict):
    found = found.to_dict()
  return config_lib.fill(found, f'--config {path!r}')


def _line(error, path):
  """Returns where in a file an error has come up, as words; '' if not in it."""
  if isinstance(error, SyntaxError) and error.filename == path:
    return f' line {error.lineno}'
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == path]
  return f' line {lines[-1]}' if lines else ''
