"""The command: flags, one call, and what a user sees of an error.

python -m jaxprompt.main --config=configs/qa.py[:PRESET] --workdir=DIR
"""

import logging
import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import results
from jaxprompt import tasks
from jaxprompt import train
from jaxprompt import workdir as workdir_lib
from jaxprompt import writer

_CACHE = pathlib.Path('~/.cache/jaxprompt/xla')

MODES = {'train': train.train, 'eval': train.evaluate_best}


def main(argv):
  """Runs the command; returns the exit status."""
  termination = train.Termination()
  _set_up_logging()
  try:
    config, workdir, mode = _parse(argv)
    config_lib.check(config)
    workdir = workdir_lib.open_workdir(workdir)
    with workdir_lib.lock(workdir):
      workdir_lib.check_config(workdir, config.to_dict())
      found = MODES[mode](config, workdir, termination)
  except errors.UserError as e:
    print(f'jaxprompt: {" ".join(str(e).split())}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('jaxprompt: interrupted; run again to go on', file=sys.stderr)
    return 130
  print(results.table(found, tasks.TASKS[config.task].metrics))
  print(f'results: {workdir / "results.json"}')
  return 0


def _parse(argv):
  """Returns the config, the workdir's path and the mode that the flags ask for."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'configs/TASK.py[:PRESET]', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string(
    'workdir', None, 'a directory, local or gs://', flag_values=values
  )
  flags.DEFINE_enum('mode', 'train', list(MODES), 'What to do.', flag_values=values)
  try:
    rest = values(argv)[1:]
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    raise _flag_error(e) from e
  if rest:
    raise errors.UserError(f'{rest[0]!r} is no flag; expected --NAME=VALUE')
  for name in ('config', 'workdir'):
    if values[name].value is None:
      raise errors.UserError(f'--{name} is missing; expected {values[name].help}')
  path = values['config'].config_filename.partition(':')[0]
  if not pathlib.Path(path).is_file():  # the flag itself tells only when it is used
    raise errors.UserError(f'--config {path!r} is no file; expected configs/TASK.py')
  return values.config, values.workdir, values.mode


def _flag_error(error):
  """Returns the `UserError` of what the flag libraries raised."""
  root = error
  while root.__cause__ or root.__context__:  # they wrap what a config file raises
    root = root.__cause__ or root.__context__
  if isinstance(root, errors.UserError):
    return root
  reason = error.args[0] if error.args else error
  if isinstance(reason, KeyError):  # how an unknown field arrives
    reason = reason.args[0]
  return errors.UserError(f'{reason}; the fields are listed in README.md')


def _set_up_logging():
  handler = writer.LogHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('jaxprompt')
  logger.handlers = [handler]
  logger.propagate = False  # libraries give the root logger a handler of their own
  logger.setLevel(logging.INFO)
  # Orbax tells through absl what it does; only its errors matter to a user.
  logging.getLogger('absl').setLevel(logging.ERROR)


def _keep_compiled_programs():
  """Lets later processes reuse what this one compiles, the many small programs too."""
  if not jax.config.jax_compilation_cache_dir:  # not set by the user
    jax.config.update('jax_compilation_cache_dir', str(_CACHE.expanduser()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


if __name__ == '__main__':
  _keep_compiled_programs()
  sys.exit(main(sys.argv))
