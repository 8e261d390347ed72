"""What a workdir's files say of a run, read and checked; and whether it is the same.

A run is the same if its config is, and the content that it worked with: weights,
tokenizer and rows are compared by their fingerprints, not by where they lie.
"""

import json
import logging

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt.data import sources
from jaxprompt.prompts import arms
from jaxprompt.runs import results as results_lib
from jaxprompt.runs import workdir as workdir_lib

log = logging.getLogger(__name__)

BEST = 'best'  # the workdir of the best run, in a sweep's
WORDINGS = 'wordings.jsonl'  # what stood around every source, of each written arm
# The fields, or their sections, of what a trained prompt is compared with.
COMPARED = ('arms', 'hard_prompts', 'few_shot')
# How a run goes on, and what its prompt is compared with, not what it is; `_PLACES` are
# where its parts may be.
FREE = frozenset({'parallel', 'log', 'train.context_cache_gb', 'sweep.test', *COMPARED})
_NUMBER = (int, float)
_CONFIG = {'config': dict, 'versions': dict, 'devices': list}
_DIFFERENCE = {
  'figure': str,
  'arm': str,
  'other': str,
  'difference': _NUMBER,
  'ci95': [_NUMBER],
}
_SWEEP = {
  'config': dict,
  'task': str,
  'model': str,
  'best': int,
  'runs': [{'run': int, 'diverged': bool, 'epochs': [dict]}],
}
# Where the content is that the fingerprints are of.
_PLACES = {
  'weights': 'model.path',
  'tokenizer': 'model.path',
  **dict.fromkeys(sources.SPLITS, 'data.path'),
}


# What a run replaces, so that a workdir must not have it before its config.json.
_REPLACED = (
  'checkpoints',
  'groups',
  'metrics.jsonl',
  'predictions',
  WORDINGS,
  'results.json',
  'sweep.json',
  'report.html',
)


def read_config(workdir):
  """Returns the content of config.json, its `config` complete.

  What it lacks has its default.

  Raises:
    UserError: if there is none, or it is not one.
  """
  path = workdir / 'config.json'
  stored = workdir_lib.read_json(path)
  if stored is None:
    raise errors.UserError(
      f'{str(workdir)!r} has no config.json; expected the workdir of a run'
    )
  if isinstance(stored, dict) and 'model_type' in stored:
    raise errors.UserError(
      f'{str(workdir)!r} is a checkpoint of a model; expected the workdir of a run'
    )
  _check(path, stored, _CONFIG)
  config = config_lib.complete(stored['config'], path).to_dict()
  if 'sweep' not in stored['config']:  # the one of a run by itself
    del config['sweep']
  return {**stored, 'config': config}


def read_run(workdir):
  """Returns the same of a run by itself; raises `UserError` for a sweep, too."""
  stored = read_config(workdir)
  if 'sweep' in stored['config']:
    raise errors.UserError(
      f'{str(workdir)!r} is the workdir of a sweep; use the best of its runs, '
      f'{str(workdir / BEST)!r}, or another in {str(workdir / "runs")!r}'
    )
  return stored


def as_measured(stored, results):
  """Returns a stored config with the arms that results.json, or None, is of."""
  config = stored['config']
  if not results:
    return config
  measured = {name: results['config'].get(name, config[name]) for name in COMPARED}
  return config | {
    name: tuple(x) if isinstance(x, list) else x for name, x in measured.items()
  }


def read_results(workdir):
  """Returns the content of results.json; None of a run that has not finished."""
  path = workdir / 'results.json'
  found = workdir_lib.read_json(path)
  if found is None:
    return None
  tested = found.get('test') if isinstance(found, dict) else None
  arms = ['soft', *(tested if isinstance(tested, dict) else ())]
  arm = {'loss': _NUMBER, 'examples': int, 'perplexity': _NUMBER, 'ci95': dict}
  shape = {
    'task': str,
    'model': str,
    'epochs': [dict],
    'best_epoch': _NUMBER,
    'prompt': {'length': int, 'parameters': int},
    'test': dict.fromkeys(arms, arm),
  }
  _check(path, found, shape)
  figures = figures_of(found)
  arm = {
    **dict.fromkeys(figures, _NUMBER),
    'ci95': {figure: [_NUMBER] for figure in figures},
  }
  _check(path, found, {'test': dict.fromkeys(arms, arm)})
  shape = {
    'config': dict,
    'differences': [_DIFFERENCE],
    'tuning': dict.fromkeys(found['test'], dict.fromkeys(results_lib.BUDGET, _NUMBER)),
  }
  _check(path, found, shape)
  return found


def figures_of(found):
  """Returns the names of what results.json's content has, the loss first."""
  counts = ('perplexity', 'examples')
  return [
    name
    for name, value in found['test']['soft'].items()
    if isinstance(value, int | float) and name not in counts
  ]


def read_sweep(workdir):
  """Returns the content of sweep.json; None of a sweep that has not finished."""
  path = workdir / 'sweep.json'
  found = workdir_lib.read_json(path)
  if found is not None:
    _check(path, found, _SWEEP)
  return found


def read_metrics(workdir):
  """Returns the objects of metrics.jsonl, in order."""
  path = workdir / 'metrics.jsonl'
  lines = workdir_lib.read_jsonl(path)
  _check(path, lines, [{'step': int}])
  return lines


def read_predictions(workdir, arm):
  """Returns an arm's predictions, in the test rows' order; none if there is no file."""
  path = workdir / 'predictions' / f'{arm}.jsonl'
  rows = workdir_lib.read_jsonl(path)
  texts = dict.fromkeys(('id', 'source', 'target', 'prediction'), str)
  _check(path, rows, [{**texts, 'scores': dict}])
  return rows


def read_wordings(workdir):
  """Returns {arm: `arms.Wording`} of the written arms that were measured, their first.

  A run of before this file was written has none.
  """
  path = workdir / WORDINGS
  found = workdir_lib.read_jsonl(path)
  texts = dict.fromkeys(('arm', 'text', 'lead', 'target_lead'), str)
  lists = dict.fromkeys(('before', 'closing', 'shown'), list)
  _check(path, found, [{**texts, **lists, 'after': (str, type(None))}])
  return {own.pop('arm'): arms.Wording(**own) for own in found}


def _check(path, content, shape, where=''):
  """Raises `UserError` if the content of a file is not of a shape.

  Args:
    path: of the file.
    content: from JSON.
    shape: a type or several; {key: shape}, of which there may be more keys; or [shape],
      of all in a list.
    where: in the file.
  """
  kind = type(shape) if isinstance(shape, dict | list) else shape
  if not isinstance(content, kind):
    raise errors.UserError(
      f'{path} has {content!r:.40} as {where or "its content"}, which is not what a '
      'run writes there; restore it, or choose another --workdir'
    )
  if isinstance(shape, dict):
    for key, inner in shape.items():
      _check(path, content.get(key), inner, f'{where}.{key}'.lstrip('.'))
  elif isinstance(shape, list):
    for i, each in enumerate(content):
      _check(path, each, shape[0], f'{where}[{i}]')


def write_config(workdir, config, fingerprints):
  """Makes a workdir that of a run: to be called once the run can begin, not before."""
  setting = results_lib.setting(config, fingerprints)
  workdir_lib.write_json(workdir / 'config.json', setting)


def check_config(workdir, config, free=frozenset()):
  """Checks that the workdir is new or of the same config.

  Args:
    workdir: an epath.
    config: the resolved config, a nested dict.
    free: names of sections, or of fields, that may differ.

  Raises:
    UserError: names the fields that differ, or files that are not those of a run.
  """
  if not (workdir / 'config.json').exists():
    others = [name for name in _REPLACED if (workdir / name).exists()]
    if others:
      raise errors.UserError(
        f'--workdir {str(workdir)!r} has no config.json, but {", ".join(others)}, '
        'which a run would replace; choose another directory, or move them'
      )
    return
  stored = read_config(workdir)
  if 'fingerprints' in stored:
    free = free | set(_PLACES.values()) | {'data.subset'}
  before = workdir_lib.flatten(stored['config'])
  now = workdir_lib.flatten(config)
  differing = [
    name
    for name in sorted(before.keys() | now.keys())
    if before.get(name) != now.get(name)
    and free.isdisjoint((name, name.partition('.')[0]))
  ]
  if differing:
    told = [f'{x} is {now.get(x)!r}, was {before.get(x)!r}' for x in differing]
    raise errors.UserError(
      f'--workdir {str(workdir)!r} belongs to a different config: {"; ".join(told)}; '
      f'{_remedy(differing)}'
    )


def _remedy(differing):
  """Returns what to do about fields that differ from those of a workdir's run."""
  if differing == ['hard_prompt']:
    return (
      'use the same config, or another directory; a trained run is asked with other '
      'texts by hard_prompts, with best_hard in arms'
    )
  if all(name.startswith('eval.') for name in differing):
    return (
      'use the same config; --mode=eval --prompt=DIR measures the prompt of a run with '
      'other fields of eval, in a --workdir of its own'
    )
  return 'use the same config, or another directory'


def is_compared_alike(found, config):
  """Returns whether a run was compared with what a config asks for.

  Args:
    found: as in results.json or sweep.json.
    config: of the run.
  """
  now = json.loads(json.dumps(config.to_dict()))  # tuples as the file has them
  return all(found['config'].get(name) == now[name] for name in COMPARED)


def check_content(workdir, fingerprints, what='--workdir'):
  """Checks that a run was of the same content.

  Args:
    workdir: of the run, an epath; or a directory that has none yet.
    fingerprints: {'weights': hash, ...}, of all that is to be compared.
    what: what the user calls the directory.

  Raises:
    UserError: names what is other.
  """
  if not (workdir / 'config.json').exists():
    return
  before = read_config(workdir).get('fingerprints')
  if before is None:
    log.warning(
      '%s %s is of a release that kept no fingerprints: that its weights and rows are '
      'the same is not checked',
      what,
      workdir,
    )
    return
  other = [name for name, found in fingerprints.items() if before.get(name) != found]
  if other:
    places = sorted({_PLACES[name] for name in other})
    raise errors.UserError(
      f'{what} {str(workdir)!r} was made with other content than '
      f'{" and ".join(places)} now has: {", ".join(other)}; give what it was made with'
    )
