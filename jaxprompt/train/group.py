"""Runs of one prompt length, trained side by side: one step takes them all."""

import dataclasses
import functools
import logging
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from jaxprompt.devices import devices
from jaxprompt.infer import evaluate
from jaxprompt.prompts import kinds
from jaxprompt.tasks import statistics
from jaxprompt.train import checkpoint
from jaxprompt.train import epochs
from jaxprompt.train import loop
from jaxprompt.train import optim
from jaxprompt.train import steps

log = logging.getLogger(__name__)


def train_step(lm, tx_of, options, states, shared, rows):
  """Takes one optimiser step of every run of a group.

  Args:
    lm, options: see `steps.train_step`.
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
    return steps.train_step(lm, tx_of(peak), options, state, params, batch, source)

  one_seed = jax.vmap(one_run, in_axes=(0, 0, None, None))
  seeds = jax.vmap(one_seed, in_axes=(0, 0, 1, 1))
  return seeds(states, peaks, batches, sources)


class Outcome(NamedTuple):
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
    options = steps.Options(
      config.train.accumulate, devices.DATA, experiment.layout.tokens_at_a_time
    )
    step = functools.partial(train_step, experiment.lm, self._optimiser, options)
    self._train_step = experiment.layout.spread(step, donate_argnums=0)
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

  def run(self):
    """Trains until the last epoch is done; returns every run's `Outcome`."""
    self._termination.safe_points_only = True
    try:
      for epoch in range(self._epochs_done + 1, self._config.train.epochs + 1):
        self._end_epoch(epoch, *self._train_epoch(epoch))
    except loop.Terminated:
      log.warning('asked to end; run again to go on after the last finished epoch')
      raise
    finally:
      self._checkpoints.close()
      self._termination.safe_points_only = False
    states = jax.device_get(self._states)
    return [
      Outcome(config, records, jax.tree.map(lambda x, at=at: x[at], states))
      for config, records, at in zip(
        self._configs, self._records, self._places, strict=True
      )
    ]

  def _train_epoch(self, epoch):
    """Takes the epoch's steps.

    Returns:
      Their seconds; each run's tokens, and whether all its steps were finite.
    """
    plans = [self._loader.epoch(seed, epoch) for seed in self._seeds]
    label = (
      f'{len(self._configs)} runs of length {self._config.prompt.length}, '
      f'epoch {epoch}/{self._config.train.epochs}'
    )
    began, taken = time.monotonic(), []
    for step in self._experiment.evaluator.progress(range(self._epoch_steps), label):
      rows = self._loader.load_together([plan[step] for plan in plans])
      self._states, scalars = self._train_step(self._states, self._shared, rows)
      taken.append((scalars['tokens'], scalars['is_finite']))
      jax.block_until_ready(taken[-2:][0])  # the host prepares one step ahead
    tokens, is_finite = map(np.stack, zip(*jax.device_get(taken), strict=True))
    return time.monotonic() - began, tokens.sum(0), is_finite.all(0)  # [seeds, runs]

  def _end_epoch(self, epoch, seconds, tokens, is_finite):
    """Validates every run, keeps the prompts that are the best so far, and saves."""
    states = jax.tree.map(np.array, jax.device_get(self._states))
    for at, own in zip(self._places, self._records, strict=True):
      if len(own) < epoch - 1:
        continue  # it has diverged
      state = jax.tree.map(lambda x, at=at: x[at], states)
      loss = self._validation_loss(state.prompt)
      record = epochs.record(
        epoch,
        state,
        {'loss': loss},
        seconds=seconds,  # of all runs together
        tokens=tokens[at],
      )
      if epochs.is_finite(record) and is_finite[at]:
        best = epochs.end(state, own, record).best_prompt
        for name, array in states.best_prompt.items():
          array[at] = best[name]
    zeros = np.zeros_like(states.loss_sum)
    states = dataclasses.replace(states, loss_sum=zeros, loss_count=zeros)
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

  def _validation_loss(self, prompt):
    arm = kinds.place(prompt, self._config.prompt.position)
    rows = self._experiment.splits['validation'].rows
    found = evaluate.losses(self._experiment.evaluator, arm, rows, 'validation')
    return statistics.figure(statistics.ratio(*found))
