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
      workdir_lib.claim(
        workdir, config.to_dict(), results.versions(), results.devices()
      )
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
    'workdir', None, 'Directory of the run, local or gs://.', flag_values=values
  )
  flags.DEFINE_enum('mode', 'train', list(MODES), 'What to do.', flag_values=values)
  try:
    rest = values(argv)[1:]
  except errors.UserError:
    raise
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    raise errors.UserError(f'{e}; see the table of fields in README.md') from e
  if rest:
    raise errors.UserError(f'{rest[0]!r} is no flag; expected --NAME=VALUE')
  for name in ('config', 'workdir'):
    if values[name].value is None:
      raise errors.UserError(f'--{name} is missing; expected {values[name].help}')
  return values.config, values.workdir, values.mode


def _set_up_logging():
  handler = writer.LogHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  logger = logging.getLogger('jaxprompt')
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


if __name__ == '__main__':
  jax.config.update('jax_compilation_cache_dir', str(_CACHE.expanduser()))
  sys.exit(main(sys.argv))
