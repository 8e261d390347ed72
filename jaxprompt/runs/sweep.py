"""A sweep: runs that differ in a few values, trained side by side over one model.

The runs are all combinations of the values that are given. Those of one prompt length
are a group: one step trains all of its runs, each on its own prompt, learning rate and
order of the data, and the frozen weights are read by all. A step holds the activations
of all the group's runs at once, so a sweep of K wants K times a run's memory for them.

A sweep is saved at the end of every epoch, and goes on from there; the steps of an
epoch that was interrupted are taken again.
"""

import collections
import contextlib
import dataclasses
import itertools
import logging
import math

from jaxprompt import config as config_lib
from jaxprompt import errors
from jaxprompt.devices import processes
from jaxprompt.runs import comparison
from jaxprompt.runs import records
from jaxprompt.runs import results
from jaxprompt.runs import run as run_lib
from jaxprompt.runs import trained_prompts
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.training import checkpoint
from jaxprompt.training import epochs
from jaxprompt.training import group
from jaxprompt.training import loop
from jaxprompt.training import watch

log = logging.getLogger(__name__)

FILE = 'sweep.json'


def grid(config):
  """Returns the configs of the runs: of one length, and in it of one seed, in a row.

  Raises:
    UserError: if there is nothing to sweep, or a value cannot be used.
  """
  if not any(config.sweep[name] for name in config_lib.SWEPT):
    fields = ', '.join(f'--config.sweep.{name}' for name in config_lib.SWEPT)
    raise errors.UserError(
      f'--mode=sweep has nothing to sweep; give values to one or more of {fields}'
    )
  values = [config_lib.swept(config, name) for name in config_lib.SWEPT]
  return [
    config_lib.run(config, **dict(zip(config_lib.SWEPT, chosen, strict=True)))
    for chosen in itertools.product(*values)
  ]


def sweep(config, workdir, termination):
  """Trains all runs, or goes on, and compares the arms with the prompt of the best.

  Every run is left as the workdir that training it alone would leave before the
  comparison, in `runs/NUMBER`, and with it if all are tested; the best also in `best`,
  always with it.

  Args:
    config: checked.
    workdir: an epath, locked.
    termination: `loop.Termination`.

  Returns:
    The content of sweep.json.
  """
  finished = processes.from_first(lambda: records.read_sweep(workdir))
  tested = finished and (config.sweep.test == 'best' or 'test' in finished)
  if tested and records.is_compared_alike(finished, config):
    log.info('this sweep has finished; these are its results')
    return finished
  configs = grid(config)
  longest = max(configs, key=lambda each: each.prompt.length)
  experiment = run_lib.build(longest, workdir, termination, trains=True)
  prompts = [
    trained_prompts.initial_prompt(dataclasses.replace(experiment, config=each))
    for each in configs
  ]
  with processes.together():
    for each, prompt in zip(configs, prompts, strict=True):
      loop.try_optimizer(each.train, experiment.params, prompt)
    records.write_config(workdir, config, experiment.fingerprints)
  outcomes = _train(experiment, configs, prompts, workdir / 'groups', termination)
  best = min(range(len(outcomes)), key=lambda i: outcomes[i].validation_loss)
  if outcomes[best].diverged:
    raise errors.UserError(
      'the loss of every run is not finite; lower the learning rates and start in '
      'another --workdir'
    )
  for i, run in enumerate(outcomes):
    if not run.diverged:
      _write_run(run, workdir / 'runs' / str(i), experiment.fingerprints)
  _write_run(outcomes[best], workdir / records.BEST, experiment.fingerprints)
  tested = _test(experiment, outcomes, best, config.sweep.test == 'all', workdir)
  found = _summary(config, outcomes, best, experiment.fingerprints)
  if config.sweep.test == 'all':
    found['test'] = _across_seeds(experiment, found['runs'], tested)
  with processes.together():
    workdir_lib.write_json(workdir / FILE, found)
  return found


def _test(experiment, outcomes, best, all_runs, workdir):
  """Compares the arms with the prompt of the best run, or of all.

  The written arms, which are the same for all runs, are measured once.

  Returns:
    Of each run that was tested, by its number, soft's entry of `test`, its
    `evaluate.Evaluation` and the prompt.
  """
  written, tested = comparison.measure_written(experiment), {}
  for i, run in enumerate(outcomes):
    if run.diverged or not (all_runs or i == best):
      continue
    own, prompt = dataclasses.replace(experiment, config=run.config), run.state
    soft = comparison.measure_soft(own, prompt.best_prompt, run.epochs)
    places = [workdir / records.BEST] if i == best else []
    if all_runs:
      places.append(workdir / 'runs' / str(i))
    for place in places:
      found = comparison.leave(
        own,
        {**written, 'soft': soft},
        prompt.best_prompt,
        run.epochs,
        place,
        prompt.initial_prompt,
      )
    tested[i] = found['test']['soft'], soft.evaluation, prompt.best_prompt
    if i == best:
      watch.warn_of_early_end(run.epochs)
      watch.warn_of_no_effect(found['test'])
  return tested


def _across_seeds(experiment, runs, tested):
  """Returns `results.across_seeds` of the runs that differ in their seed alone.

  Args:
    experiment: of the sweep.
    runs: as in sweep.json.
    tested: from `_test`.
  """
  groups = collections.defaultdict(list)
  for i, own in tested.items():
    rest = {name: runs[i][name] for name in config_lib.SWEPT.values() if name != 'seed'}
    groups[tuple(rest.items())].append((runs[i]['seed'], *own))
  return [
    {**dict(rest), **_of_seeds(experiment, own)}
    for rest, own in groups.items()
    if len(own) > 1
  ]


def _of_seeds(experiment, tested):
  """Returns how runs of several seeds compare, and what their prompts find together."""
  seeds, entries, alone, prompts = zip(*tested, strict=True)
  texts = [each.predictions for each in alone]
  together = comparison.measure_ensemble(experiment, prompts)
  return {
    **results.across_seeds(list(zip(seeds, entries, texts, strict=True))),
    'ensemble': results.ensemble(together, alone, experiment.config.seed),
  }


def _train(experiment, configs, prompts, directory, termination):
  """Trains the runs, one group after the other; returns their `group.Outcome`s."""
  outcomes = []
  runs = zip(configs, prompts, strict=True)
  for length, own_runs in itertools.groupby(runs, lambda run: run[0].prompt.length):
    own = zip(*own_runs, strict=True)  # configs, prompts
    trained = group.Group(experiment, *own, directory / str(length), termination)
    outcomes += trained.run()
  return outcomes


def _write_run(run, workdir, fingerprints):
  """Leaves the workdir of a run that has been trained and can be compared."""
  scalars = [
    {'step': record['step'], **loop.epoch_scalars(record)} for record in run.epochs
  ]
  with processes.together():
    workdir_lib.write_jsonl(workdir / 'metrics.jsonl', scalars)
    records.write_config(workdir, run.config, fingerprints)
  place = loop.Place(
    epoch=math.ceil(run.epochs[-1]['epoch']) + 1,
    epochs=run.epochs,
    metrics_lines=len(scalars),
  )
  directory = workdir / 'checkpoints'
  with contextlib.closing(checkpoint.Checkpoints(directory, keep=1)) as checkpoints:
    checkpoints.save(int(run.state.step), run.state, dataclasses.asdict(place))
    checkpoints.wait()


def _summary(config, outcomes, best, fingerprints):
  """Returns the content of sweep.json."""
  return {
    'task': config.task,
    'model': config.model.path,
    **results.setting(config, fingerprints),
    'runs': [
      {
        'run': i,
        **{
          field: config_lib.value(run.config, field)
          for field in config_lib.SWEPT.values()
        },
        'diverged': run.diverged,
        'epochs': run.epochs,
        'best_epoch': None if run.diverged else epochs.best(run.epochs)['epoch'],
        'validation_loss': None if run.diverged else run.validation_loss,
      }
      for i, run in enumerate(outcomes)
    ],
    'best': best,
  }


def table(found):
  """Returns the runs as a text table, the best first.

  Args:
    found: as in sweep.json.
  """
  fields = list(config_lib.SWEPT.values())
  rows = [['run', *fields, 'best epoch', 'validation loss']]
  for run in sorted(found['runs'], key=_rank):
    loss = 'diverged' if run['diverged'] else f'{run["validation_loss"]:.4f}'
    epoch = '' if run['diverged'] else str(run['best_epoch'])
    rows.append([str(run['run']), *(str(run[field]) for field in fields), epoch, loss])
  head = f'{found["task"]}, {found["model"]}: {len(found["runs"])} runs, the best first'
  return '\n'.join(
    [head, results.aligned(rows), *map(_seeds_line, found.get('test', []))]
  )


def _seeds_line(found):
  """Says how the seeds of one setting compare, as in `test` of sweep.json."""
  fields = [name for name in config_lib.SWEPT.values() if name in found]
  loss, together = found['figures']['loss'], found['ensemble']
  (gain,) = (x for x in together['differences'] if x['figure'] == 'loss')
  setting = ', '.join(f'{name} {found[name]}' for name in fields)
  return (
    f'{setting}: test loss {loss["mean"]:.4f} ± {loss["deviation"]:.4f} over '
    f'{len(found["seeds"])} seeds, at worst {loss["worst"]:.4f} (seed '
    f'{loss["worst_seed"]}); two seeds give {found["agreement"]:.0%} of the rows the '
    f'same text; the prompts together: {together["loss"]:.4f} (against the mean: '
    f'{results.VERDICTS[gain["better"]]})'
  )


def _rank(run):
  return run['diverged'], run['validation_loss']
