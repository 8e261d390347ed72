"""The loop over epochs and batches of one run, its checkpoints, and how it goes on."""

import contextlib
import dataclasses
import functools
import logging
import math
import signal
import time

import jax

from jaxprompt import errors
from jaxprompt.data import contexts
from jaxprompt.data import loader
from jaxprompt.devices import devices
from jaxprompt.devices import processes
from jaxprompt.infer import evaluate
from jaxprompt.prompts import kinds
from jaxprompt.tasks import statistics
from jaxprompt.training import epochs
from jaxprompt.training import optim
from jaxprompt.training import steps
from jaxprompt.training import terminal
from jaxprompt.training import watch
from jaxprompt.training import writer

log = logging.getLogger(__name__)

# The host prepares so many steps ahead of the device: enough to keep it busy, few
# enough for the progress to be true and for SIGTERM to be answered soon.
_STEPS_AHEAD = 2
_SECONDS_BETWEEN_FETCHES = 1.0  # of the device's scalars
_STEPS_BETWEEN_FETCHES = 10  # where clocks differ: in several processes


class Terminated(SystemExit):
  """The process was asked to end (SIGTERM)."""

  def __init__(self):
    super().__init__(128 + signal.SIGTERM)


class Termination:
  """Lets SIGTERM end the process at a point where nothing is lost.

  Of several processes all end, at the same point: JAX catches the signal and finds it.
  """

  def __init__(self, *, handles_signal=True):
    """Takes whether the process is ours, and so what its signals do."""
    self._requested = False
    self._checks = 0
    self.safe_points_only = False
    if handles_signal and not jax.distributed.is_initialized():
      signal.signal(signal.SIGTERM, self._handle)

  def _handle(self, *_):
    self._requested = True
    if not self.safe_points_only:
      self.check()

  def check(self):
    """Raises `Terminated` if the process was asked to end."""
    self._checks += 1
    if self._requested or processes.reached_sync_point(self._checks):
      raise Terminated


@dataclasses.dataclass
class Place:
  """Where a run is; saved beside the train state."""

  epoch: int = 1  # the epoch under way, from 1
  batch: int = 0  # optimiser steps done of it
  seconds: float = 0.0  # trained since the last validation
  tokens: int = 0  # real tokens trained on since
  metrics_lines: int = 0  # of metrics.jsonl
  epochs: list = dataclasses.field(default_factory=list)  # records of validations


def epoch_scalars(record):
  """Returns what metrics.jsonl says of an epoch, from its record in results.json."""
  return {
    name if name.startswith(('epoch', 'validation_')) else f'epoch_{name}': value
    for name, value in record.items()
    if name != 'step'
  }


def total_steps(config, epoch_steps):
  """Returns the optimiser steps of a run whose epochs have so many."""
  return config.train.steps or config.train.epochs * epoch_steps


def pace_of(train, total):
  """Returns the `optim.Pace` of a run of so many optimiser steps."""
  return optim.pace_of(train.learning_rate, train.warmup, total)


def optimizer(train):
  """Returns the optimiser, see `optim.prompt_only`, as a function of its `optim.Pace`.

  Of the section `train` of a config all is read but the pace, which may be traced.
  """
  own = optim.resolve(
    train.optimizer,
    weight_decay=train.weight_decay,
    beta1=train.beta1,
    beta2=train.beta2,
  )

  def tx_of(pace):
    schedule = optim.schedule(train.schedule, pace)
    return optim.prompt_only(schedule, clip_norm=train.clip_norm, optimizer=own)

  return tx_of


def try_optimizer(train, params, prompt):
  """Raises `UserError` for an optimiser that cannot be made, or fails in a step."""
  optim.try_on(train.optimizer, optimizer(train), pace_of(train, 1), params, prompt)


def train_loader(experiment, config, keeps_contexts=True):
  """Returns the `loader.Loader` of the training rows' optimiser steps.

  Args:
    experiment: `setup.Experiment`.
    config: of the run.
    keeps_contexts: whether the sources before a suffix prompt are kept.
  """
  capacity = contexts.capacity(config.train.context_cache_gb) if keeps_contexts else 0
  # Hosts with more memory would run other programs than those with less.
  capacity = processes.least(capacity)
  return loader.Loader(
    experiment.splits['train'].rows,
    experiment.layout,
    batch_size=config.train.batch_size * config.train.accumulate,
    pad_id=experiment.template.end_id,
    apart=config.prompt.position == 'suffix',
    contexts=contexts.Contexts(
      experiment.lm,
      experiment.params,
      experiment.layout,
      dtype=config.train.context_dtype,
      capacity=capacity,
    ),
  )


def train_step(lm, tx_of, options, state, shared, rows):
  """Takes one optimiser step of a run; `shared` are the frozen weights and its pace."""
  params, pace = shared
  return steps.train_step(lm, tx_of(pace), options, state, params, *rows)


def train_program(lm, layout, tx_of, accumulate, step=train_step):
  """Returns the compiled (state, (params, pace), (batch, context)) -> state, scalars.

  Args:
    lm: see `steps.train_step`.
    tx_of: the masked optimiser as a function of its `optim.Pace`.
    layout: `devices.Layout`.
    accumulate: micro-batches a step.
    step: `train_step`, or that of a group.
  """
  options = steps.Options(accumulate, devices.DATA, layout.tokens_at_a_time)
  own = functools.partial(step, lm, tx_of, options)
  return layout.spread(own, donate_argnums=0)


def validation(experiment, config, prompt):
  """Returns {figure: value} of a folded prompt on the validation rows, `loss` first.

  Arguments as of `train_loader`; raises `evaluate.NotFiniteError`.
  """
  placed = kinds.place(prompt, config.prompt.position)
  rows = experiment.splits['validation'].rows
  measured = experiment.evaluator, placed, rows, 'validation'
  if config.eval.validation_text == 'on':
    return evaluate.evaluate(*measured).figures()
  return {'loss': statistics.figure(evaluate.loss(*measured))}


def is_due(step, every):
  """Returns whether it is time for what is done every so many steps, 0 being never."""
  return every > 0 and step % every == 0


class Trainer:
  """One run's training: its state, its place, and the files that follow it."""

  def __init__(self, experiment, prompt, workdir, checkpoints, termination):
    """Builds the step; restores the newest checkpoint, or begins at `prompt`."""
    config = experiment.config
    self._experiment, self._config = experiment, config
    self._layout = experiment.layout
    self._checkpoints, self._termination = checkpoints, termination
    self._loader = train_loader(experiment, config)
    self._epoch_steps = len(self._loader)
    self._total_steps = total_steps(config, self._epoch_steps)
    pace = pace_of(config.train, self._total_steps)
    # As one program; it is read at every step.
    self._schedule = jax.jit(optim.schedule(config.train.schedule, pace))
    tx_of = optimizer(config.train)
    self._train_step = train_program(
      experiment.lm, self._layout, tx_of, config.train.accumulate
    )
    self._shared = experiment.params, self._layout.replicate(pace)
    state = steps.init_state(prompt, experiment.params, tx_of(pace))
    state, self.place = processes.arrays_of_first(jax.device_get(state)), Place()
    restored = checkpoints.restore(state, dataclasses.asdict(self.place))
    if restored:
      state, self.place = restored[0], Place(**restored[1])
    self.state = self._layout.replicate(state)
    if restored:
      log.info('going on after step %d, in epoch %d', self.step, self.place.epoch)
    with processes.together():
      self._writer = writer.Writer(
        workdir,
        lines=self.place.metrics_lines,
        step=self.step,
        project=config.log.wandb,
        config=config.to_dict(),
      )
    self._pending = []  # (step, scalars on the device) not written yet
    self._since = time.monotonic()  # the start of the steps that are pending

  @property
  def step(self):
    return int(self.state.step)

  def run(self):
    """Trains until the last step is done, or no better loss is found."""
    self._log_padding()
    self._termination.safe_points_only = True
    try:
      while not self._is_over:
        self._train_epoch()
        self._end_epoch()
      self._checkpoints.wait()
      watch.warn_of_early_end(self.place.epochs)
    except Terminated:
      if self._pending:
        self._flush()
      self._save()
      self._checkpoints.wait()
      log.warning('asked to end: saved step %d; run again to go on', self.step)
      raise
    except Exception as e:
      processes.give_up(e)
      raise
    finally:
      with contextlib.closing(self._checkpoints):
        self._writer.close()
      self._termination.safe_points_only = False

  @property
  def _is_over(self):
    return epochs.is_over(self.place.epochs, self._config.train)

  def _log_padding(self):
    log.info(
      'steps an epoch: %d; padded shapes, each compiled at its first step: %d; '
      'padding: %.1f%% of the tokens',
      self._epoch_steps,
      len(self._loader.shapes),
      100 * self._loader.padding,
    )

  def _train_epoch(self):
    """Takes the steps that are left of the epoch, and validates when it is time."""
    place = self.place
    first_step = self.step - place.batch
    plan = self._loader.epoch(self._config.seed, place.epoch)
    plan = plan[: self._total_steps - first_step]
    if place.batch:  # a run that goes on may have been stopped while it validated
      if self._validates(self.step, last=place.batch == len(plan)):
        self._validate()
      if self._is_over:
        return
    label = f'epoch {place.epoch}/{-(-self._total_steps // self._epoch_steps)}'
    progress = terminal.Progress(label, len(plan), done=place.batch)
    self._since = time.monotonic()
    try:
      for indices, shape in plan[place.batch :]:
        self.state, scalars = self._train_step(
          self.state, self._shared, self._loader.load(indices, shape)
        )
        place.batch += 1
        step = first_step + place.batch
        self._pending.append((step, scalars))
        jax.block_until_ready(self._pending[-_STEPS_AHEAD:][0])
        last = place.batch == len(plan)
        save = is_due(step, self._config.checkpoint.every_steps) and not last
        validate = self._validates(step, last)
        if save or validate or self._waited():
          progress.update(len(self._pending), loss=self._flush())
        if validate:
          self._validate()
          if self._is_over:
            break
        if save:
          self._save()
        self._termination.check()
    finally:
      progress.close()

  def _waited(self):
    """Returns whether pending scalars should be fetched.

    By count, not by clock, with several processes: all of them raise at the same step.
    """
    if processes.count() > 1:
      return len(self._pending) >= _STEPS_BETWEEN_FETCHES
    return time.monotonic() - self._since > _SECONDS_BETWEEN_FETCHES

  def _flush(self):
    """Waits for the pending steps, writes their scalars, returns the mean loss so far.

    Raises:
      UserError: if a loss, a gradient or the prompt is not finite.
    """
    pending, self._pending = jax.device_get(self._pending), []
    now = time.monotonic()
    seconds, self._since = now - self._since, now
    tokens = sum(int(scalars['tokens']) for _, scalars in pending)
    for step, scalars in pending:
      if not (math.isfinite(scalars['loss']) and scalars['is_finite']):
        found = f'the loss is {scalars["loss"]} at step {step}'
        if math.isfinite(scalars['loss']):
          found = f'the gradient or the prompt is not finite at step {step}'
        raise errors.UserError(
          f'{found}; lower train.learning_rate ({self._config.train.learning_rate}) '
          'and start in another --workdir; the last good checkpoint is kept'
        )
      self._writer.write(
        step,
        {
          'epoch': self.place.epoch,
          'train_loss': float(scalars['loss']),
          'learning_rate': float(self._schedule(step - 1)),
          'grad_norm': float(scalars['grad_norm']),
          'prompt_drift': float(scalars['prompt_drift']),
          'tokens_per_second': tokens / seconds,
        },
      )
    self.place.seconds += seconds
    self.place.tokens += tokens
    return self._mean_loss()

  def _mean_loss(self):
    """Returns the mean loss since the last validation."""
    nats, count = jax.device_get((self.state.loss_sum, self.state.loss_count))
    return float(nats / count)

  def _validates(self, step, last):
    """Returns whether to validate after a step, once; `last` is an epoch's last."""
    records = self.place.epochs
    done = records and records[-1]['step'] == step
    return (last or is_due(step, self._config.eval.every_steps)) and not done

  def _validate(self):
    """Measures the validation rows, and keeps the prompt if it is the best so far."""
    place, state = self.place, jax.device_get(self.state)
    folded = jax.device_get(kinds.fold(state.prompt))
    record = epochs.record(
      epochs.passes(self.step, self._epoch_steps),
      state,
      validation(self._experiment, self._config, folded),
      seconds=place.seconds,
      tokens=place.tokens,
    )
    state = epochs.validated(state, place.epochs, record)
    self.state = self._layout.replicate(state)
    self._writer.write(self.step, epoch_scalars(record))
    log.info(
      'epoch %s: %s',
      record['epoch'],
      ', '.join(f'{k} {v:.4g}' for k, v in record.items() if k != 'epoch'),
    )
    watch.warn(place.epochs, folded, state.initial_prompt)
    place.seconds, place.tokens, self._since = 0.0, 0, time.monotonic()

  def _end_epoch(self):
    self.place = Place(epoch=self.place.epoch + 1, epochs=self.place.epochs)
    self._save()

  def _save(self):
    with processes.together():
      self._writer.flush()
    self.place.metrics_lines = self._writer.lines
    self._checkpoints.save(self.step, self.state, dataclasses.asdict(self.place))
