"""The modes: what the command does once its flags are read.

python -m jaxprompt.main --config=configs/qa.py[:PRESET] --workdir=DIR [--mode=eval]
python -m jaxprompt.main --mode=eval --config=... --workdir=DIR --prompt=DIR
python -m jaxprompt.main --mode=predict [--workdir=DIR] [--prompt=[NAME=]DIR,DIR ...]
  --input=FILE --output=FILE [--temperature=1 --top_k=50 --top_p=0.9 --seed=0]
python -m jaxprompt.main --mode=export --workdir=DIR --output=DIR [--format=merged]
python -m jaxprompt.main --mode=export --format=merged --prompt=NAME=DIR ...
  --output=DIR
python -m jaxprompt.main --mode=sweep --config=... --workdir=DIR --config.sweep.seed=0,1
python -m jaxprompt.main --mode=plan --config=...
python -m jaxprompt.main --mode=report --workdir=DIR
python -m jaxprompt.main --mode=compare DIR DIR ... --output=FILE
python -m jaxprompt.main --mode=serve --workdir=DIR [--prompt=NAME=DIR ...]

With --distributed, train, eval, sweep and predict are one process of several.
"""

import contextlib
import logging
import sys

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt import flags
from jaxprompt import serve
from jaxprompt import startup
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.devices import processes
from jaxprompt.infer import decode
from jaxprompt.infer import predict
from jaxprompt.prompts import trained
from jaxprompt.report import compare
from jaxprompt.report import report
from jaxprompt.runs import exports
from jaxprompt.runs import output
from jaxprompt.runs import plan
from jaxprompt.runs import records
from jaxprompt.runs import results
from jaxprompt.runs import run
from jaxprompt.runs import setup
from jaxprompt.runs import sweep
from jaxprompt.runs import trained_prompts
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks
from jaxprompt.training import loop
from jaxprompt.training import terminal

log = logging.getLogger(__name__)


def perform(values, arguments):
  """Runs the mode that the flags name; returns the exit status."""
  startup.set_up()
  try:
    if values.distributed:
      processes.start()
      if not processes.is_first():
        logging.getLogger('jaxprompt').setLevel(logging.ERROR)
    status = MODES[values.mode](values, arguments)
    sys.stdout.flush()  # here, where a closed pipe can be answered
    return status
  except BrokenPipeError:
    raise
  except Exception as e:
    processes.give_up(e)
    raise


# A mode is a function from the flags' values and the arguments to the exit status.


def _train(values, _):
  return _measure(run.train, values, _config(values))


def _eval(values, _):
  paths = _single_prompts(values)
  if not paths:
    with processes.together():
      config = _trained_run(values)[0] if values.config is None else _config(values)
    return _measure(run.evaluate_best, values, config)
  config = _config(values)
  if len(paths) > 1:
    raise errors.UserError(
      f'--prompt is given {len(paths)} times; --mode=eval measures one, each in a '
      '--workdir of its own'
    )
  (path,) = paths.values()
  with processes.together():
    config = trained_prompts.adopt(config, path)
  return _measure(run.evaluate_given, values, config)


def _measure(function, values, config):
  """Runs what ends in results.json; prints the tables and the paths."""
  with _begun(values, config) as (workdir, termination):
    found = function(config, workdir, termination)
    if processes.is_first():
      print(results.table(found, records.figures_of(found)))
      if found['nearest_tokens']:
        print(results.nearest_table(found))
      _print_paths(workdir)
  return 0


@contextlib.contextmanager
def _begun(values, config):
  """Gives the workdir, held by processes of the same run, and its `Termination`."""
  path = _required(values, 'workdir')
  processes.check_same(_identity(config))
  termination = loop.Termination()
  with run.held_workdir(path, config) as workdir:
    yield workdir, termination


def _print_paths(workdir):
  """Prints where the results of a finished run are."""
  page = _written_report(workdir)
  print(f'results: {workdir / "results.json"}')
  print(f'report: {page}')


def _identity(config):
  """Returns what must be the same in all processes of a run, {name: value}."""
  return {
    **workdir_lib.flatten(config.to_dict()),
    **{f'the version of {name}': v for name, v in results.versions().items()},
  }


def _sweep(values, _):
  config = _required(values, 'config')
  with _begun(values, config) as (workdir, termination):
    found = sweep.sweep(config, workdir, termination)
    if processes.is_first():
      print(sweep.table(found))
      print(f'sweep: {workdir / sweep.FILE}')
      _print_paths(workdir / records.BEST)
  return 0


def _plan(values, _):
  progress = terminal.show_progress(loop.Termination().check)
  print(plan.text(plan.plan(_config(values), progress)))
  return 0


def _predict(values, _):
  sampling = decode.sampling(values.temperature, values.top_k, values.top_p)
  source, path = _required(values, 'input'), _required(values, 'output')
  settings = {'sampling': sampling, 'seed': values.seed}
  with processes.together():
    sources.check_input(source)
    if values.distributed and '-' in (source, path):
      raise errors.UserError(
        "'-' is of one process alone; with --distributed, give an --input that all "
        'hosts see, and a file as --output'
      )
    paths = _prompt_paths(values)
    config, workdir = _use(values, paths)
    if workdir is not None:
      paths.setdefault('', [workdir])
  processes.check_same(_identity(config))
  progress = terminal.show_progress(loop.Termination().check)
  with processes.together():
    layout = devices.layout(**config.parallel)
    experiment = setup.build_model(config, layout, progress)
    prompts = _load_prompts(values, experiment, paths, workdir)
    if len(prompts) > 1 and workdir is not None and paths[''] == [workdir]:
      prompts.setdefault(config.prompt.name, prompts[''])
    made_of = predict.made_of(experiment, prompts, source, **settings)
  processes.check_same(workdir_lib.flatten(made_of))
  opened = output.open_output(path, source, made_of, overwrite=values.overwrite)
  if opened.is_finished:
    log.info('%s has these predictions already', path)
  else:
    with opened:
      predict.predict(experiment, prompts, source, opened, **settings)
  failed = opened.failed
  log.info('rows written: %d, with an error: %d', opened.lines, failed)
  return 1 if failed else 0


def _load_prompts(values, experiment, paths, workdir):
  """Returns {name: `trained.TrainedPrompt`} of {name: epaths}.

  A run generates as it did itself, but for the fields that flags set; the run of
  --workdir as the experiment's config says.
  """
  flagged, own = (
    {name: value for name, value in found.items() if name.startswith('eval.')}
    for found in (
      flags.overrides(values),
      workdir_lib.flatten(experiment.config.to_dict()),
    )
  )

  def load(name, directory):
    return trained_prompts.load_prompt(
      experiment,
      directory,
      task=name if name in tasks.TASKS else None,
      settings=own if directory == workdir else flagged,
    )

  return {
    name: trained.ensemble([load(name, each) for each in directories])
    for name, directories in paths.items()
  }


def _prompt_paths(values):
  """Returns {name: epaths} by --prompt; '' is the name of what has none."""
  paths = {}
  for text in values.prompt:
    name, equals, path = text.partition('=')
    if not equals or '/' in name:
      name, path = '', text
    directories = [each.strip() for each in path.split(',')]
    if not all(directories):
      raise errors.UserError(f'--prompt {text!r} has no path; expected NAME=DIR')
    if name in paths:
      raise errors.UserError(
        f'--prompt {text!r}: another prompt has the name {name!r}; name each once'
      )
    paths[name] = [workdir_lib.resolve(each) for each in directories]
  return paths


def _single_prompts(values):
  """Returns {name: epath} by --prompt, where prompts do not answer together."""
  paths = _prompt_paths(values)
  for own in paths.values():
    if len(own) > 1:
      raise errors.UserError(
        f'--prompt has {len(own)} directories, {str(own[0])!r} first, for one prompt; '
        'only --mode=predict lets them answer together'
      )
  return {name: path for name, (path,) in paths.items()}


def _check_named(paths):
  """Refuses a --prompt without a name."""
  if '' in paths:
    raise errors.UserError(
      f'--prompt {str(paths[""])!r} has no name here; expected NAME=WORKDIR'
    )


def _use(values, paths):
  """Returns the config to predict with, and the workdir if one is given.

  Without either flag, the config is that of the first prompt that has one.
  """
  if values.workdir is not None:
    return _trained_run(values)
  if values.config is not None:
    return _config(values), None
  for path in (each for own in paths.values() for each in own):
    trained_prompts.check_holds(path)
    if (path / 'config.json').exists():
      return _stored_config(values, path), None
  if paths:
    raise errors.UserError(
      '--config is missing; an adapter says nothing of its task and lengths, so give '
      'the config to use it with'
    )
  return _required(values, 'workdir'), None


def _export(values, _):
  paths = _single_prompts(values)
  _check_named(paths)
  directory = workdir_lib.local(_required(values, 'output'), 'directory')
  runs = {name: (_stored_config(values, own), own) for name, own in paths.items()}
  if not runs:
    config, workdir = _trained_run(values)
    runs = {config.task: (config, workdir)}
  elif values.workdir is not None:
    raise errors.UserError(
      '--workdir and --prompt are both given; name each prompt: --prompt=NAME=WORKDIR'
    )
  exports.export(
    runs,
    directory,
    values.format,
    overwrite=values.overwrite,
    progress=terminal.show_progress(loop.Termination().check),
  )
  print(f'{values.format}: {directory}')
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
  paths = _single_prompts(values)
  _check_named(paths)
  config, workdir = _trained_run(values)
  serve.run(config, workdir, paths, host=values.host, port=values.port)
  return 0


MODES = {
  'train': _train,
  'eval': _eval,
  'sweep': _sweep,
  'plan': _plan,
  'predict': _predict,
  'export': _export,
  'report': _report,
  'compare': _compare,
  'serve': _serve,
}


def _required(values, name):
  if values[name].value is None:
    raise errors.UserError(f'--{name} is missing; expected {values[name].help}')
  return values[name].value


def _config(values):
  """Returns the config of one run."""
  return config_lib.single_run(_required(values, 'config'))


def _trained_run(values):
  """Returns the config and the workdir of a run to use."""
  workdir = workdir_lib.resolve(_required(values, 'workdir'))
  return _stored_config(values, workdir), workdir


def _stored_config(values, workdir):
  """Returns the config to use a run with.

  It is --config, or else the run's own with the fields that flags set, and with all
  devices; only `eval` and what is in `records.FREE` may differ from the run's own.
  """
  stored = records.read_run(workdir)['config']
  if values.config is None:
    own = {name: fields for name, fields in stored.items() if name != 'parallel'}
    config = config_lib.complete(own, workdir / 'config.json')
    config = config_lib.single_run(flags.overridden(config, values))
  else:
    config = _config(values)
  records.check_config(workdir, config.to_dict(), free=records.FREE | {'eval'})
  return config
