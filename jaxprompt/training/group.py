"""Runs of one prompt length, trained side by side: one step takes them all."""

import dataclasses
import logging
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from jaxprompt.devices import processes
from jaxprompt.infer import evaluate
from jaxprompt.prompts import kinds
from jaxprompt.training import checkpoint
from jaxprompt.training import epochs
from jaxprompt.training import loop
from jaxprompt.training import steps

log = logging.getLogger(__name__)


def train_step(lm, tx_of, options, states, shared, rows):
  """Takes one optimiser step of every run of a group.

  Args:
    lm, options: see `steps.train_step`.
    tx_of: the masked optimiser as a function of its `optim.Pace`.
    states: a `steps.TrainState` whose arrays are [seeds, runs, ...].
    shared: the frozen weights, and the runs' `optim.Pace`, [seeds, runs].
    rows: a `Batch` whose arrays are [B, seeds, ...], and, where sources stand apart,
      their `placement.Context` with arrays [B * seeds, ...]: runs of one seed see the
      same rows.

  Returns:
    As `steps.train_step` does, with arrays [seeds, runs, ...].
  """
  (params, paces), (batches, contexts) = shared, rows
  shape = batches.loss_mask.shape[:2]
  contexts = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), contexts)

  def one_run(state, pace, batch, context):
    return steps.train_step(lm, tx_of(pace), options, state, params, batch, context)

  one_seed = jax.vmap(one_run, in_axes=(0, 0, None, None))
  seeds = jax.vmap(one_seed, in_axes=(0, 0, 1, 1))
  return seeds(states, paces, batches, contexts)


class Outcome(NamedTuple):
  """What became of a run."""

  config: object  # of the run by itself
  epochs: list  # records; those from the first step on that is not finite are missing
  state: steps.TrainState  # host arrays
  diverged: bool

  @property
  def validation_loss(self):
    """The best of all validations; infinite if the run diverged."""
    if self.diverged:
      return math.inf
    return epochs.best(self.epochs)['validation_loss']


@dataclasses.dataclass
class Place:
  """Where a group is; saved beside the train states."""

  records: list  # of each run's validations
  diverged: list  # whether each run has
  epochs_done: int = 0


class Group:
  """The training of the runs of one prompt length: their states, and the place."""

  def __init__(self, experiment, configs, prompts, directory, termination):
    """Builds the step; restores the newest checkpoint, or begins at `prompts`.

    Args:
      experiment: `setup.Experiment`; its config is not looked at.
      configs: of the runs, those of one seed in a row.
      prompts: the runs' prompts before training, see `kinds`.
      directory: of the group's checkpoints, an epath.
      termination: `loop.Termination`.
    """
    config = configs[0]  # for all that the runs have in common
    self._experiment, self._config = experiment, config
    self._configs, self._termination = configs, termination
    self._seeds = list(dict.fromkeys(each.seed for each in configs))
    # Batches of several seeds do not meet again: their contexts are not kept.
    self._loader = loop.train_loader(
      experiment, config, keeps_contexts=len(self._seeds) == 1
    )
    self._epoch_steps = len(self._loader)
    self._total_steps = loop.total_steps(config, self._epoch_steps)
    tx_of = loop.optimizer(config.train)
    own = experiment.lm, experiment.layout, tx_of, config.train.accumulate
    self._train_step = loop.train_program(*own, train_step)
    paces = [loop.pace_of(each.train, self._total_steps) for each in configs]
    tx = tx_of(paces[0])
    paces = jax.tree.map(self._stack, *paces)
    self._shared = experiment.params, experiment.layout.replicate(paces)
    self._at = list(np.ndindex(paces.peak.shape))  # of the runs, in [seeds, runs]
    states = [steps.init_state(prompt, experiment.params, tx) for prompt in prompts]
    states = processes.arrays_of_first(
      jax.tree.map(self._stack, *jax.device_get(states))
    )
    self._checkpoints = checkpoint.Checkpoints(directory, keep=config.checkpoint.keep)
    self._place = Place(records=[[] for _ in configs], diverged=[False] * len(configs))
    restored = self._checkpoints.restore(states, dataclasses.asdict(self._place))
    if restored:
      states, self._place = restored[0], Place(**restored[1])
      log.info('going on after epoch %d', self._place.epochs_done)
    self._states = experiment.layout.replicate(states)

  def _stack(self, *arrays):
    """Stacks an array of every run, [...], to [seeds, runs, ...]."""
    return np.reshape(arrays, (len(self._seeds), -1, *np.shape(arrays[0])))

  def run(self):
    """Trains until no run goes on; returns every run's `Outcome`."""
    self._termination.safe_points_only = True
    try:
      while not self._is_over:
        self._train_epoch(self._place.epochs_done + 1)
        self._end_epoch()
      self._checkpoints.wait()
    except loop.Terminated:
      self._checkpoints.wait()
      log.warning('asked to end; run again to go on after the last finished epoch')
      raise
    except Exception as e:
      processes.give_up(e)
      raise
    finally:
      self._checkpoints.close()
      self._termination.safe_points_only = False
    states = jax.device_get(self._states)
    return [
      Outcome(config, records, jax.tree.map(lambda x, at=at: x[at], states), diverged)
      for config, at, records, diverged in zip(
        self._configs,
        self._at,
        self._place.records,
        self._place.diverged,
        strict=True,
      )
    ]

  @property
  def _is_over(self):
    return not any(map(self._goes_on, range(len(self._configs))))

  def _goes_on(self, i):
    """Returns whether a run has not diverged and is not over."""
    over = epochs.is_over(self._place.records[i], self._config.train)
    return not (over or self._place.diverged[i])

  def _train_epoch(self, epoch):
    """Takes the epoch's steps, and validates when it is time."""
    plans = [self._loader.epoch(seed, epoch) for seed in self._seeds]
    first_step = (epoch - 1) * self._epoch_steps
    count = min(self._epoch_steps, self._total_steps - first_step)
    label = (
      f'{len(self._configs)} runs of length {self._config.prompt.length}, epoch {epoch}'
    )
    began, taken = time.monotonic(), []
    for step in self._experiment.evaluator.progress(range(1, count + 1), label):
      rows = self._loader.load_together([plan[step - 1] for plan in plans])
      self._states, scalars = self._train_step(self._states, self._shared, rows)
      taken.append((scalars['tokens'], scalars['is_finite']))
      jax.block_until_ready(taken[-2:][0])  # the host prepares one step ahead
      every = self._config.eval.every_steps
      if step == count or loop.is_due(first_step + step, every):
        tokens, is_finite = map(np.stack, zip(*jax.device_get(taken), strict=True))
        seconds = (time.monotonic() - began) / len(self._configs)
        self._validate(seconds, tokens.sum(0), is_finite.all(0))  # [seeds, runs]
        if self._is_over:
          break
        began, taken = time.monotonic(), []

  def _validate(self, seconds, tokens, is_finite):
    """Validates every run that goes on, and keeps the prompts that are the best so far.

    Args:
      seconds: each run's share of the time of the steps since the last validation.
      tokens: each run's, in them.
      is_finite: whether all of a run's were.
    """
    states = jax.tree.map(np.array, jax.device_get(self._states))
    said = []
    for i, at in enumerate(self._at):
      if not self._goes_on(i):
        continue
      state = jax.tree.map(lambda x, at=at: x[at], states)
      found = epochs.record(
        epochs.passes(int(state.step), self._epoch_steps),
        state,
        self._figures(state.prompt),
        seconds=seconds,
        tokens=tokens[at],
      )
      if not (epochs.is_finite(found) and is_finite[at]):
        self._place.diverged[i] = True
        continue
      best = epochs.validated(state, self._place.records[i], found).best_prompt
      for name, array in states.best_prompt.items():
        array[at] = best[name]
      said.append(f'{found["validation_loss"]:.4g}')
    zeros = np.zeros_like(states.loss_sum)
    states = dataclasses.replace(states, loss_sum=zeros, loss_count=zeros)
    self._states = self._experiment.layout.replicate(states)
    log.info(
      'length %d: validation losses %s, %d runs diverged',
      self._config.prompt.length,
      ', '.join(said),
      sum(self._place.diverged),
    )

  def _end_epoch(self):
    self._place.epochs_done += 1
    step = int(jax.device_get(self._states.step).max())  # the same of all
    self._checkpoints.save(step, self._states, dataclasses.asdict(self._place))

  def _figures(self, prompt):
    """Returns `loop.validation` of a run's prompt, which may have diverged."""
    folded = jax.device_get(kinds.fold(prompt))
    try:
      return loop.validation(self._experiment, self._config, folded)
    except evaluate.NotFiniteError:
      return {'loss': math.nan}
