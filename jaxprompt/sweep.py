"""A sweep: runs that differ in a few values, trained side by side over one model.

The runs are all combinations of the values that are given. Those of one prompt length
are a group: one step trains all of its runs, each on its own prompt, learning rate and
order of the data, and the frozen weights are read by all. A step holds the activations
of all the group's runs at once, so a sweep of K wants K times a run's memory for them.

A sweep is saved at the end of every epoch, and goes on from there; the steps of an
epoch that was interrupted are taken again.
"""

import dataclasses
import functools
import itertools
import logging
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from jaxprompt import checkpoint
from jaxprompt import config as config_lib
from jaxprompt import contexts
from jaxprompt import data
from jaxprompt import devices
from jaxprompt import errors
from jaxprompt import evaluate
from jaxprompt import experiment as experiment_lib
from jaxprompt import metrics
from jaxprompt import optim
from jaxprompt import placement
from jaxprompt import records
from jaxprompt import results
from jaxprompt import steps
from jaxprompt import train
from jaxprompt import workdir as workdir_lib
from jaxprompt import writer

log = logging.getLogger(__name__)

FILE = 'sweep.json'
BEST = 'best'  # the workdir of the best run, in the sweep's


def grid(config):
  """Returns the configs of the runs: of one length, and in it of one seed, in a row.

  Raises:
    UserError: if there is nothing to sweep, or a value cannot be used.
  """
  if not any(config.sweep.values()):
    fields = ', '.join(f'--config.sweep.{name}' for name in config_lib.SWEPT)
    raise errors.UserError(
      f'--mode=sweep has nothing to sweep; give values to one or more of {fields}'
    )
  values = [config_lib.swept(config, name) for name in config_lib.SWEPT]
  return [
    config_lib.run(config, **dict(zip(config_lib.SWEPT, chosen, strict=True)))
    for chosen in itertools.product(*values)
  ]


def train_step(lm, tx_of, accumulate, states, shared, rows, **options):
  """Takes one optimiser step of every run of a group.

  Args:
    lm, accumulate, **options: see `steps.train_step`.
    tx_of: the masked optimiser as a function of the peak learning rate.
    states: a `steps.TrainState` whose arrays are [seeds, runs, ...].
    shared: the frozen weights, and the peak learning rates, [seeds, runs].
    rows: a `Batch` whose arrays are [B, seeds, ...], and, where sources stand apart,
      their `model.Context` with arrays [B * seeds, ...]: runs of one seed see the same
      rows.

  Returns:
    As `steps.train_step` does, with arrays [seeds, runs, ...].
  """
  (params, peaks), (batches, sources) = shared, rows
  shape = batches.loss_mask.shape[:2]
  sources = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), sources)

  def one_run(state, peak, batch, source):
    return steps.train_step(
      lm, tx_of(peak), accumulate, state, params, batch, source, **options
    )

  one_seed = jax.vmap(one_run, in_axes=(0, 0, None, None))
  seeds = jax.vmap(one_seed, in_axes=(0, 0, 1, 1))
  return seeds(states, peaks, batches, sources)


class Trained(NamedTuple):
  """What became of a run."""

  config: object  # of the run by itself
  epochs: list  # records; those from the first step on that is not finite are missing
  state: steps.TrainState  # host arrays

  @property
  def diverged(self):
    return len(self.epochs) < self.config.train.epochs

  @property
  def validation_loss(self):
    """The best of an epoch; infinite if the run diverged."""
    if self.diverged:
      return math.inf
    return min(record['validation_loss'] for record in self.epochs)


class Group:
  """The training of the runs of one prompt length: their states, and the place."""

  def __init__(self, experiment, configs, prompts, directory, termination):
    """Builds the step; restores the newest checkpoint, or begins at `prompts`.

    Args:
      experiment: `experiment.Experiment`; its config is not looked at.
      configs: of the runs, those of one seed in a row.
      prompts: the runs' prompts before training, each [P, H].
      directory: of the group's checkpoints, an epath.
      termination: `train.Termination`.
    """
    config = configs[0]  # for all that the runs have in common
    self._experiment, self._config = experiment, config
    self._configs, self._termination = configs, termination
    self._seeds = list(dict.fromkeys(each.seed for each in configs))
    self._rows = experiment.splits['train'].rows
    self._step_rows = config.train.batch_size * config.train.accumulate
    self._sizes = data.bucket_sizes(self._rows, config.prompt.position)
    self._shapes = data.shapes(self._sizes, self._step_rows, config.prompt.position)
    self._epoch_steps = len(self._plan(config.seed, epoch=1))
    step = functools.partial(
      train_step,
      experiment.lm,
      self._optimiser,
      config.train.accumulate,
      axis_name=devices.DATA,
      tokens_at_a_time=experiment.layout.tokens_at_a_time,
    )
    self._train_step = experiment.layout.spread(step, donate_argnums=0)
    # Batches of several seeds do not meet again, so their contexts would not be used.
    one_seed = len(self._seeds) == 1
    self._contexts = contexts.Contexts(
      experiment.lm,
      experiment.params,
      experiment.layout,
      dtype=config.train.context_dtype,
      capacity=contexts.capacity(config.train.context_cache_gb) if one_seed else 0,
    )
    peaks = self._stack(*(np.float32(each.train.learning_rate) for each in configs))
    self._shared = experiment.params, experiment.layout.replicate(peaks)
    self._places = list(np.ndindex(peaks.shape))  # of the runs, in [seeds, runs]
    tx = self._optimiser(config.train.learning_rate)
    states = [steps.init_state(prompt, experiment.params, tx) for prompt in prompts]
    states = jax.tree.map(self._stack, *jax.device_get(states))
    self._checkpoints = checkpoint.Checkpoints(directory, keep=config.checkpoint.keep)
    self._epochs_done, self._records = 0, [[] for _ in configs]
    progress = {'epochs_done': 0, 'records': []}
    restored = self._checkpoints.restore(states, progress)
    if restored:
      states, progress = restored
      self._epochs_done, self._records = progress['epochs_done'], progress['records']
      log.info('going on after epoch %d', self._epochs_done)
    self._states = experiment.layout.replicate(states)

  def _stack(self, *arrays):
    """Stacks an array of every run, [...], to [seeds, runs, ...]."""
    return np.reshape(arrays, (len(self._seeds), -1, *np.shape(arrays[0])))

  def _optimiser(self, peak):
    schedule = optim.schedule(
      self._config.train.schedule,
      peak=peak,
      warmup=self._config.train.warmup,
      steps=self._config.train.epochs * self._epoch_steps,
    )
    return optim.prompt_only(schedule, clip_norm=self._config.train.clip_norm)

  def _plan(self, seed, epoch):
    return data.epoch_plan(
      self._sizes,
      self._shapes,
      self._step_rows,
      seed=seed,
      epoch=epoch,
      position=self._config.prompt.position,
    )

  def run(self):
    """Trains until the last epoch is done; returns every run's `Trained`."""
    self._termination.safe_points_only = True
    try:
      for epoch in range(self._epochs_done + 1, self._config.train.epochs + 1):
        self._end_epoch(epoch, *self._train_epoch(epoch))
    except train.Terminated:
      log.warning('asked to end; run again to go on after the last finished epoch')
      raise
    finally:
      self._checkpoints.close()
      self._termination.safe_points_only = False
    states = jax.device_get(self._states)
    return [
      Trained(config, records, jax.tree.map(lambda x, at=at: x[at], states))
      for config, records, at in zip(
        self._configs, self._records, self._places, strict=True
      )
    ]

  def _train_epoch(self, epoch):
    """Takes the epoch's steps.

    Returns:
      Their seconds; each run's tokens, and whether all its steps were finite.
    """
    plans = [self._plan(seed, epoch) for seed in self._seeds]
    label = (
      f'{len(self._configs)} runs of length {self._config.prompt.length}, '
      f'epoch {epoch}/{self._config.train.epochs}'
    )
    began, taken = time.monotonic(), []
    for step in self._experiment.evaluator.progress(range(self._epoch_steps), label):
      rows = self._load([plan[step] for plan in plans])
      self._states, scalars = self._train_step(self._states, self._shared, rows)
      taken.append((scalars['tokens'], scalars['is_finite']))
      jax.block_until_ready(taken[-2:][0])  # the host prepares one step ahead
    tokens, is_finite = map(np.stack, zip(*jax.device_get(taken), strict=True))
    return time.monotonic() - began, tokens.sum(0), is_finite.all(0)  # [seeds, runs]

  def _load(self, planned):
    """Returns the rows of one step as `train_step` takes them, on the devices.

    Args:
      planned: each seed's (indices, shape).
    """
    layout = self._experiment.layout
    shape = data.smallest(self._shapes, [shape for _, shape in planned])
    batches = [
      data.collate(
        [self._rows[i] for i in layout.share(indices, self._step_rows)],
        shape,
        len(layout.own(self._step_rows)),
        self._experiment.tokenizer.eos_token_id,
        self._config.prompt.position,
      )
      for indices, _ in planned
    ]
    batches = jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *batches)
    sources = None
    if batches.source_ids is not None:
      (first, *_), _ = planned[0]  # which names the batch: see `train.Trainer`
      rows = (batches.source_ids, batches.source_mask)
      sources = self._contexts.get(
        first, *(x.reshape(-1, *x.shape[2:]) for x in rows)
      )  # [B * seeds, ...]
    return layout.place_rows(batches), sources

  def _end_epoch(self, epoch, seconds, tokens, is_finite):
    """Validates every run, keeps the prompts that are the best so far, and saves."""
    states = jax.device_get(self._states)
    best_prompts = np.array(states.best_prompt)
    for at, own in zip(self._places, self._records, strict=True):
      if len(own) < epoch - 1:
        continue  # it has diverged
      record = {
        'epoch': epoch,
        'step': int(states.step[at]),
        'train_loss': float(states.loss_sum[at] / states.loss_count[at]),
        'validation_loss': self._validation_loss(states.soft_prompt[at]),
        'seconds': seconds,  # of all runs together
        'tokens_per_second': float(tokens[at] / seconds),
      }
      losses = record['train_loss'] + record['validation_loss']
      if math.isfinite(losses) and is_finite[at]:
        own.append(record)
        if results.best_epoch(own) == epoch:
          best_prompts[at] = states.soft_prompt[at]
    zeros = np.zeros_like(states.loss_sum)
    states = dataclasses.replace(
      states, best_prompt=best_prompts, loss_sum=zeros, loss_count=zeros
    )
    self._states = self._experiment.layout.replicate(states)
    progress = {'epochs_done': epoch, 'records': self._records}
    self._checkpoints.save(epoch * self._epoch_steps, states, progress)
    losses = [
      f'{own[-1]["validation_loss"]:.4g}' if len(own) == epoch else 'diverged'
      for own in self._records
    ]
    log.info(
      'length %d, epoch %d/%d: validation losses %s',
      self._config.prompt.length,
      epoch,
      self._config.train.epochs,
      ', '.join(losses),
    )

  def _validation_loss(self, soft_prompt):
    arm = placement.place(soft_prompt, self._config.prompt.position)
    rows = self._experiment.splits['validation'].rows
    found = evaluate.losses(self._experiment.evaluator, arm, rows, 'validation')
    return metrics.figure(metrics.ratio(*found))


def sweep(config, workdir, termination):
  """Trains all runs, or goes on, and compares the arms with the prompt of the best.

  Every run is left as the workdir that training it alone would leave before the
  comparison, in `runs/NUMBER`; the best also in `best`, with the comparison.

  Args:
    config: checked.
    workdir: an epath, locked.
    termination: `train.Termination`.

  Returns:
    The content of sweep.json.
  """
  finished = records.read_sweep(workdir)
  if finished:
    log.info('this sweep has finished; these are its results')
    return finished
  configs = grid(config)
  layout = devices.layout(**config.parallel)
  layout.check_divides(config.train.batch_size)
  longest = max(configs, key=lambda each: each.prompt.length)
  progress = writer.show_progress(termination.check)
  experiment = experiment_lib.build(longest, layout, progress)
  records.check_content(workdir, experiment.fingerprints)
  prompts = [
    experiment_lib.initial_prompt(dataclasses.replace(experiment, config=each))
    for each in configs
  ]
  # Only now is the workdir this sweep's: one that could not begin leaves no claim.
  setting = results.setting(config, experiment.fingerprints)
  workdir_lib.write_json(workdir / 'config.json', setting)
  trained = _train(experiment, configs, prompts, workdir / 'groups', termination)
  best = min(trained, key=lambda run: run.validation_loss)
  if best.diverged:
    raise errors.UserError(
      'the loss of every run is not finite; lower the learning rates and start in '
      'another --workdir'
    )
  for i, run in enumerate(trained):
    if not run.diverged:
      _write_run(run, workdir / 'runs' / str(i), experiment.fingerprints)
  _write_run(best, workdir / BEST, experiment.fingerprints)
  experiment_lib.compare(
    dataclasses.replace(experiment, config=best.config),
    best.state.best_prompt,
    best.epochs,
    workdir / BEST,
    best.state.initial_prompt,
  )
  found = _summary(config, trained, experiment.fingerprints)
  workdir_lib.write_json(workdir / FILE, found)
  return found


def _train(experiment, configs, prompts, directory, termination):
  """Trains the runs, one group after the other; returns their `Trained`."""
  trained = []
  runs = zip(configs, prompts, strict=True)
  for length, group in itertools.groupby(runs, lambda run: run[0].prompt.length):
    own = zip(*group, strict=True)  # configs, prompts
    trained += Group(experiment, *own, directory / str(length), termination).run()
  return trained


def _write_run(run, workdir, fingerprints):
  """Leaves the workdir of a run that has been trained and can be compared."""
  scalars = [
    {'step': record['step'], **train.epoch_scalars(record)} for record in run.epochs
  ]
  workdir_lib.write_jsonl(workdir / 'metrics.jsonl', scalars)
  setting = results.setting(run.config, fingerprints)
  workdir_lib.write_json(workdir / 'config.json', setting)
  place = train.Place(
    epoch=len(run.epochs) + 1, epochs=run.epochs, metrics_lines=len(scalars)
  )
  checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints', keep=1)
  checkpoints.save(int(run.state.step), run.state, dataclasses.asdict(place))
  checkpoints.close()


def _summary(config, trained, fingerprints):
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
        'best_epoch': None if run.diverged else results.best_epoch(run.epochs),
        'validation_loss': None if run.diverged else run.validation_loss,
      }
      for i, run in enumerate(trained)
    ],
    'best': min(range(len(trained)), key=lambda i: trained[i].validation_loss),
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
  return f'{head}\n{results.aligned(rows)}'


def _rank(run):
  return run['diverged'], run['validation_loss']
