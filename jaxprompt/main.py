"""The command: flags, one call, and what a user sees of an error.

python -m jaxprompt.main --config=configs/qa.py[:PRESET] --workdir=DIR [--mode=eval]
  [--distributed]
python -m jaxprompt.main --mode=eval --config=... --workdir=DIR --prompt=DIR
python -m jaxprompt.main --mode=predict [--workdir=DIR] [--prompt=[NAME=]DIR ...]
  --input=FILE --output=FILE [--temperature=1 --top_k=50 --top_p=0.9 --seed=0]
python -m jaxprompt.main --mode=sweep --config=... --workdir=DIR --config.sweep.seed=0,1
python -m jaxprompt.main --mode=report --workdir=DIR
python -m jaxprompt.main --mode=compare DIR DIR ... --output=FILE
python -m jaxprompt.main --mode=serve --workdir=DIR [--prompt=NAME=DIR ...]
"""

import contextlib
import functools
import logging
import math
import os
import pathlib
import signal
import sys

import jax
from absl import flags
from ml_collections import config_dict
from ml_collections import config_flags

from jaxprompt import compare
from jaxprompt import config as config_lib
from jaxprompt import decode
from jaxprompt import devices
from jaxprompt import errors
from jaxprompt import experiment as experiment_lib
from jaxprompt import output
from jaxprompt import peft
from jaxprompt import predict
from jaxprompt import processes
from jaxprompt import records
from jaxprompt import report
from jaxprompt import results
from jaxprompt import serve
from jaxprompt import sources
from jaxprompt import sweep
from jaxprompt import tasks
from jaxprompt import train
from jaxprompt import workdir as workdir_lib
from jaxprompt import writer

log = logging.getLogger('jaxprompt.main')  # __name__ is __main__

# How a run goes on, not what it is.
_FREE = frozenset({'parallel', 'train.context_cache_gb'})
_CACHE = pathlib.Path('~/.cache/jaxprompt/xla')


def main(argv):
  """Runs the command; returns the exit status."""
  _set_up_logging()
  try:
    values, arguments = _parse(argv)
    status = MODES[values.mode](values, arguments)
    sys.stdout.flush()  # here, where a closed pipe can be answered
    return status
  except errors.UserError as e:
    print(f'jaxprompt: {" ".join(str(e).split())}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('jaxprompt: interrupted; run again to go on', file=sys.stderr)
    return 130
  except BrokenPipeError:  # whoever read standard output has had enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except Exception as e:
    processes.give_up(e)
    raise


# A mode is a function from the flags' values and the arguments to the exit status.


def _train(values, _):
  return _measure(train.train, values, _config(values))


def _eval(values, _):
  config, paths = _config(values), _prompt_paths(values)
  if not paths:
    return _measure(train.evaluate_best, values, config)
  if len(paths) > 1:
    raise errors.UserError(
      f'--prompt is given {len(paths)} times; --mode=eval measures one, each in a '
      '--workdir of its own'
    )
  (path,) = paths.values()
  return _measure(train.evaluate_given, values, experiment_lib.adopt(config, path))


def _measure(function, values, config):
  """Runs what ends in results.json; prints the tables and the paths."""
  path = _required(values, 'workdir')
  if values.distributed:
    processes.start()
    if not processes.is_first():
      logging.getLogger('jaxprompt').setLevel(logging.ERROR)
    processes.check_same(_identity(config))
  termination = train.Termination()
  with _held_workdir(path, config) as workdir:
    found = function(config, workdir, termination)
    if processes.is_first():
      print(results.table(found, tasks.TASKS[config.task].metrics))
      print(results.nearest_table(found))
      _print_paths(workdir)
  return 0


@contextlib.contextmanager
def _held_workdir(path, config):
  """Opens and locks the workdir that is this config's alone; gives its epath."""
  with contextlib.ExitStack() as stack:
    with processes.together():
      workdir = workdir_lib.open_workdir(path)
      stack.enter_context(workdir_lib.lock(workdir))
    workdir_lib.check_shared(workdir)
    with processes.together():
      records.check_config(workdir, config.to_dict(), free=_FREE)
    yield workdir


def _print_paths(workdir):
  """Prints where the results of a finished run are."""
  page = _written_report(workdir)
  print(f'results: {workdir / "results.json"}')
  print(f'report: {page}')


def _identity(config):
  """Returns what must be the same in all processes of a run, {name: text}."""
  fields = workdir_lib.flatten(config.to_dict())
  return {
    **{name: repr(value) for name, value in fields.items()},
    **{f'the version of {name}': v for name, v in results.versions().items()},
  }


def _sweep(values, _):
  config, path = _checked_config(values), _required(values, 'workdir')
  termination = train.Termination()
  with _held_workdir(path, config) as workdir:
    found = sweep.sweep(config, workdir, termination)
    print(sweep.table(found))
    print(f'sweep: {workdir / sweep.FILE}')
    _print_paths(workdir / sweep.BEST)
  return 0


def _predict(values, _):
  sampling = _sampling(values)
  source, path = _required(values, 'input'), _required(values, 'output')
  sources.check_input(source)
  paths = _prompt_paths(values)
  config, workdir = _use(values, paths)
  if workdir is not None:
    paths.setdefault('', workdir)
  progress = writer.show_progress(train.Termination().check)
  layout = devices.layout(**config.parallel)
  experiment = experiment_lib.build_model(config, layout, progress)
  prompts = {
    name: experiment_lib.load_prompt(
      experiment,
      path,
      task=name if name in tasks.TASKS else None,
      eval_config=values.config and config.eval,
    )
    for name, path in paths.items()
  }
  if workdir is not None and len(prompts) > 1:
    prompts.setdefault(config.prompt.name, prompts[''])
  settings = {'sampling': sampling, 'seed': values.seed}
  made_of = predict.made_of(experiment, prompts, source, **settings)
  opened = output.open_output(path, source, made_of, overwrite=values.overwrite)
  if opened.is_finished:
    log.info('%s has these predictions already', path)
  else:
    with opened:
      predict.predict(experiment, prompts, source, opened, **settings)
  log.info('%d rows written, %d of them with an error', opened.lines, opened.failed)
  return 1 if opened.failed else 0


def _sampling(values):
  """Returns the `decode.Sampling` that the flags ask for, or None."""
  limits = {
    'temperature': (0 <= values.temperature < math.inf, 'a number of at least 0'),
    'top_k': (values.top_k >= 0, 'a number of at least 0'),
    'top_p': (0 < values.top_p <= 1, 'a number above 0, at most 1'),
  }
  for name, (good, expected) in limits.items():
    if not good:
      raise errors.UserError(f'--{name} is {values[name].value}; expected {expected}')
  if values.temperature:
    return decode.Sampling(values.temperature, values.top_k, values.top_p)
  if values.top_k or values.top_p < 1:
    raise errors.UserError(
      '--top_k and --top_p are of sampling, which is off; set --temperature, 1 to draw '
      'as likely as the model says'
    )
  return None


def _prompt_paths(values):
  """Returns {name: epath} by --prompt; '' is the name of one that has none."""
  paths = {}
  for text in values.prompt:
    name, equals, path = text.partition('=')
    if not equals or '/' in name:
      name, path = '', text
    if not path:
      raise errors.UserError(f'--prompt {text!r} has no path; expected NAME=DIR')
    if name in paths:
      raise errors.UserError(
        f'--prompt {text!r}: another prompt has the name {name!r}; name each once'
      )
    paths[name] = workdir_lib.resolve(path)
  return paths


def _use(values, paths):
  """Returns the config to predict with, and the workdir if one is given.

  Without either flag, the config is that of the first prompt that has one.
  """
  if values.workdir is not None:
    return _trained_run(values)
  if values.config is not None:
    return _config(values), None
  for path in paths.values():
    if (path / 'config.json').exists():
      return config_dict.ConfigDict(records.read_config(path)['config']), None
  if paths:
    raise errors.UserError(
      '--config is missing; an adapter says nothing of its task and lengths, so give '
      'the config to use it with'
    )
  return _required(values, 'workdir'), None


def _export(values, _):
  config, workdir = _trained_run(values)
  if config.prompt.position != 'prefix':
    raise errors.UserError(
      f'prompt.position is {config.prompt.position!r}; PEFT knows only a prompt in '
      'front, so only a prefix can be exported'
    )
  path = _required(values, 'output')
  if '://' in path:
    raise errors.UserError(
      f'--output {path!r} is no local directory; write one, and copy it there'
    )
  directory = pathlib.Path(path).expanduser()
  peft.check_output(directory, values.overwrite)
  peft.write(directory, experiment_lib.adapter(config, workdir))
  print(f'adapter: {directory}')
  return 0


def _written_report(workdir):
  """Returns the report's path, or why there is none: its run is finished anyway."""
  try:
    return report.write(workdir)
  except errors.UserError as e:
    return f'none, {e}'


def _report(values, _):
  print(f'report: {report.write(workdir_lib.resolve(_required(values, "workdir")))}')
  return 0


def _compare(values, arguments):
  output = workdir_lib.resolve(_required(values, 'output'))
  workdirs = [workdir_lib.resolve(path) for path in arguments]
  print(compare.write(workdirs, output))
  for workdir in workdirs:
    if (workdir / 'report.html').exists():
      print(f'report: {workdir / "report.html"}')
  print(f'comparison: {output}')
  return 0


def _serve(values, _):
  paths = _prompt_paths(values)
  if '' in paths:
    raise errors.UserError(
      f'--prompt {str(paths[""])!r} has no name here; expected NAME=WORKDIR'
    )
  workdir = workdir_lib.resolve(_required(values, 'workdir'))
  serve.run(workdir, paths, host=values.host, port=values.port)
  return 0


MODES = {
  'train': _train,
  'eval': _eval,
  'sweep': _sweep,
  'predict': _predict,
  'export': _export,
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
  text('input', None, 'a .jsonl, .csv or .parquet file of sources, or -')
  text('output', None, 'a path to write to')
  text('host', '127.0.0.1', 'the address that the page is served at')
  flags.DEFINE_boolean(
    'distributed',
    False,
    'one process of several: JAX finds the others by itself on TPU pods and Slurm, or '
    'through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'overwrite',
    False,
    'replaces predictions of other rows or settings, or another adapter of ours',
    flag_values=values,
  )
  flags.DEFINE_integer('port', 7860, 'its port', flag_values=values)
  flags.DEFINE_multi_string('prompt', [], '[NAME=]DIRECTORY', flag_values=values)
  for name, default, help_text in (
    ('temperature', 0.0, 'draws tokens, of logits divided by it; 0 = the likeliest'),
    ('top_p', 1.0, 'draws of the likeliest tokens that have this probability together'),
  ):
    flags.DEFINE_float(name, default, help_text, flag_values=values)
  flags.DEFINE_integer('top_k', 0, 'draws of so many; 0 = all', flag_values=values)
  flags.DEFINE_integer('seed', 0, 'of what is drawn', flag_values=values)
  flags.DEFINE_enum('mode', 'train', list(MODES), 'What to do.', flag_values=values)
  try:
    arguments = values(argv)[1:]
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    raise _flag_error(e) from e
  if values.distributed and values.mode not in ('train', 'eval'):
    raise errors.UserError(
      f'--mode={values.mode} runs in one process; leave out --distributed'
    )
  for name in ('workdir', 'input', 'output'):
    if values[name].value == '':
      raise errors.UserError(f'--{name} is empty; expected {values[name].help}')
  if arguments and values.mode != 'compare':
    raise errors.UserError(f'{arguments[0]!r} is no flag; expected --NAME=VALUE')
  return values, arguments


def _required(values, name):
  if values[name].value is None:
    raise errors.UserError(f'--{name} is missing; expected {values[name].help}')
  return values[name].value


def _config(values):
  """Returns the checked config of one run."""
  return config_lib.single_run(_checked_config(values))


def _checked_config(values):
  """Returns the checked config, `sweep` and all, that the flags ask for."""
  config = _required(values, 'config')
  path = values['config'].config_filename.partition(':')[0]
  if not pathlib.Path(path).is_file():  # the flag itself tells only when it is used
    raise errors.UserError(f'--config {path!r} is no file; expected configs/TASK.py')
  config_lib.check(config)
  return config


def _trained_run(values):
  """Returns the config and the workdir of a run to use.

  Without --config, the config is the run's own, but for the devices it had; with it,
  only `eval` and `parallel` may differ.
  """
  workdir = workdir_lib.resolve(_required(values, 'workdir'))
  stored = records.read_config(workdir)['config']
  if 'sweep' in stored:
    raise errors.UserError(
      f'--workdir {str(workdir)!r} is that of a sweep; use the best of its runs, '
      f'{str(workdir / sweep.BEST)!r}, or another in {str(workdir / "runs")!r}'
    )
  if values.config is None:
    config = config_dict.ConfigDict(stored)
    config.parallel = config_lib.default(config.task).parallel
    return config, workdir
  config = _config(values)
  records.check_config(workdir, config.to_dict(), free=_FREE | {'eval'})
  return config, workdir


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
  # What Orbax tells through absl, with tracebacks, reaches a user as one line of ours.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  sys.unraisablehook = _report_unraisable


def _report_unraisable(unraisable):
  """Reports as Python does, but for what is left of a save that Orbax has given up."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def _keep_compiled_programs():
  """Lets later processes reuse what this one compiles, the many small programs too."""
  if not jax.config.jax_compilation_cache_dir:  # not set by the user
    jax.config.update('jax_compilation_cache_dir', str(_CACHE.expanduser()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


if __name__ == '__main__':
  _keep_compiled_programs()
  sys.exit(main(sys.argv))
