"""The command: flags, one call, and what a user sees of an error.

python -m jaxprompt.main --config=configs/qa.py[:PRESET] --workdir=DIR [--mode=eval]
python -m jaxprompt.main --mode=report --workdir=DIR
python -m jaxprompt.main --mode=compare DIR DIR ... --output=FILE
python -m jaxprompt.main --mode=serve --workdir=DIR [--prompt=NAME=DIR ...]
"""

import functools
import logging
import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags

from jaxprompt import compare
from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import report
from jaxprompt import results
from jaxprompt import serve
from jaxprompt import tasks
from jaxprompt import train
from jaxprompt import workdir as workdir_lib
from jaxprompt import writer

_CACHE = pathlib.Path('~/.cache/jaxprompt/xla')


def main(argv):
  """Runs the command; returns the exit status."""
  _set_up_logging()
  try:
    values, arguments = _parse(argv)
    print(MODES[values.mode](values, arguments))
  except errors.UserError as e:
    print(f'jaxprompt: {" ".join(str(e).split())}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('jaxprompt: interrupted; run again to go on', file=sys.stderr)
    return 130
  return 0


# A mode is a function from the flags' values and the arguments to what is printed.


def _train(values, _):
  return _measure(train.train, values)


def _eval(values, _):
  return _measure(train.evaluate_best, values)


def _measure(function, values):
  """Runs what ends in results.json; returns the table and the paths."""
  termination = train.Termination()
  config = _config(values)
  workdir = workdir_lib.open_workdir(_required(values, 'workdir'))
  with workdir_lib.lock(workdir):
    workdir_lib.check_config(workdir, config.to_dict())
    found = function(config, workdir, termination)
    page = _written_report(workdir)
  table = results.table(found, tasks.TASKS[config.task].metrics)
  return f'{table}\nresults: {workdir / "results.json"}\nreport: {page}'


def _written_report(workdir):
  """Returns the report's path, or why there is none: its run is finished anyway."""
  try:
    return report.write(workdir)
  except errors.UserError as e:
    return f'none, {e}'


def _report(values, _):
  return f'report: {report.write(workdir_lib.resolve(_required(values, "workdir")))}'


def _compare(values, arguments):
  output = workdir_lib.resolve(_required(values, 'output'))
  table = compare.write([workdir_lib.resolve(path) for path in arguments], output)
  return f'{table}\ncomparison: {output}'


def _serve(values, _):
  prompts = {}
  for text in values.prompt:
    name, _, path = text.partition('=')
    if not path:
      raise errors.UserError(f'--prompt {text!r} has no workdir; expected NAME=WORKDIR')
    prompts[name] = workdir_lib.resolve(path)
  workdir = workdir_lib.resolve(_required(values, 'workdir'))
  return serve.run(workdir, prompts, host=values.host, port=values.port)


MODES = {
  'train': _train,
  'eval': _eval,
  'report': _report,
  'compare': _compare,
  'serve': _serve,
}


def _parse(argv):
  """Returns the flags' values, and the arguments of a mode that takes some."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'configs/TASK.py[:PRESET]', flag_values=values, sys_argv=argv
  )
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  text('workdir', None, 'a directory, local or gs://')
  text('output', None, 'a file to write')
  text('host', '127.0.0.1', 'the address that the page is served at')
  flags.DEFINE_integer('port', 7860, 'its port', flag_values=values)
  flags.DEFINE_multi_string('prompt', [], 'NAME=WORKDIR', flag_values=values)
  flags.DEFINE_enum('mode', 'train', list(MODES), 'What to do.', flag_values=values)
  try:
    arguments = values(argv)[1:]
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    raise _flag_error(e) from e
  if arguments and values.mode != 'compare':
    raise errors.UserError(f'{arguments[0]!r} is no flag; expected --NAME=VALUE')
  return values, arguments


def _required(values, name):
  if values[name].value is None:
    raise errors.UserError(f'--{name} is missing; expected {values[name].help}')
  return values[name].value


def _config(values):
  """Returns the checked config that --config and its overrides ask for."""
  config = _required(values, 'config')
  path = values['config'].config_filename.partition(':')[0]
  if not pathlib.Path(path).is_file():  # the flag itself tells only when it is used
    raise errors.UserError(f'--config {path!r} is no file; expected configs/TASK.py')
  config_lib.check(config)
  return config


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
