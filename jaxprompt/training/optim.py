"""The optimiser: a schedule, and what moves the prompt by it; never the weights."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from jaxprompt import errors
from jaxprompt import own

_MOST_STEPS = 2**31 - 1  # that a step's number can hold
# After the warm-up, a rate's share of its peak by the share of the steps that are done.
SCHEDULES = {
  'cosine': lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
  'linear': lambda done: 1 - done,
  'constant': lambda done: 1.0,
}


class Pace(NamedTuple):
  """The numbers of a schedule, as arguments of the step: others need no other program.

  Attributes:
    peak: [] float32, the learning rate at the warm-up's end.
    warmup: [] int32, optimiser steps of linear warm-up from 0.
    steps: [] int32, those of the whole run, the warm-up included.
  """

  peak: np.ndarray
  warmup: np.ndarray
  steps: np.ndarray


def pace_of(peak, warmup, steps):
  """Returns the `Pace` of these numbers.

  Raises:
    UserError: for more steps than the optimiser can count.
  """
  if steps > _MOST_STEPS:
    raise errors.UserError(
      f'the run would be {steps} optimiser steps; expected at most {_MOST_STEPS}: '
      'lower train.epochs'
    )
  return Pace(np.float32(peak), np.int32(warmup), np.int32(steps))


def schedule(kind, pace):
  """Returns the learning rate as a function of the optimiser step, counted from 0.

  Args:
    kind: a key of `SCHEDULES`, the form of the decay after the warm-up.
    pace: `Pace`; may be traced.
  """

  def rate(step):
    # The first step already moves: it has 1 / warmup of the peak, not 0.
    risen = (step + 1.0) / jnp.maximum(pace.warmup, 1)
    done = (step - pace.warmup) / jnp.maximum(pace.steps - pace.warmup, 1)
    fallen = SCHEDULES[kind](jnp.clip(done, 0.0, 1.0))
    return pace.peak * jnp.where(step < pace.warmup, risen, fallen)

  return rate


def _adamw(learning_rate, weight_decay, beta1, beta2):
  return optax.adamw(learning_rate, beta1, beta2, weight_decay=weight_decay)


def _adafactor(learning_rate, weight_decay, beta1, beta2):
  """As Lester et al. 2021 (arXiv:2104.08691) trained prompts: of no parameter scale.

  Its decay is a share of the prompt at every step, whatever the learning rate is.
  """
  del beta1, beta2  # it has no mean of gradients, and its decay follows the step
  return optax.adafactor(
    learning_rate,
    multiply_by_parameter_scale=False,
    weight_decay_rate=weight_decay or None,
  )


def _prodigy(learning_rate, weight_decay, beta1, beta2):
  """Finds its rate itself (Mishchenko and Defazio 2023, arXiv:2306.06101).

  Args:
    learning_rate: what the rate that it finds is multiplied by.
    weight_decay, beta1, beta2: as AdamW's.
  """
  return contrib.prodigy(
    learning_rate,
    (beta1, beta2),
    weight_decay=weight_decay,
    safeguard_warmup=True,  # else a warm-up from 0 lets it find too high a rate
  )


OPTIMIZERS = {'adamw': _adamw, 'adafactor': _adafactor, 'prodigy': _prodigy}


def resolve(name, **settings):
  """Returns an optimiser as a function of its learning rate, a number or a schedule.

  Args:
    name: of `OPTIMIZERS`; or 'package.module:function', from a schedule to an
      `optax.GradientTransformation`. What the schedule gives is traced.
    **settings: of `OPTIMIZERS`: weight_decay, beta1, beta2.

  Raises:
    UserError: if there is none.
  """
  if name in OPTIMIZERS:
    return functools.partial(OPTIMIZERS[name], **settings)
  found = own.function(name, 'train.optimizer', OPTIMIZERS)
  return functools.partial(_own, name, found)


def _own(name, function, learning_rate):
  try:
    found = function(learning_rate)
  except Exception as e:  # whatever the user's own function raises
    raise errors.UserError(f'train.optimizer {name} fails: {errors.reason(e)}') from e
  if not isinstance(found, optax.GradientTransformation):
    raise errors.UserError(
      f'train.optimizer {name} gives {found!r:.60}; expected an '
      'optax.GradientTransformation'
    )
  return found


def try_on(name, tx_of, pace, params, prompt):
  """Traces an optimiser of one's own on a prompt, and runs nothing.

  Args:
    name: see `resolve`; those of `OPTIMIZERS` are known to work.
    tx_of: from a `Pace` to what `prompt_only` returns.
    pace: `Pace`.
    params, prompt: the frozen weights, and the arrays to be trained.

  Raises:
    UserError: if it fails, or keeps what a checkpoint cannot.
  """
  if name in OPTIMIZERS:
    return

  def step(pace, tree):
    tx = tx_of(pace)
    state = tx.init(tree)
    tx.update(tree, state, tree)
    return state

  try:
    state = jax.eval_shape(step, pace, {'frozen': params, 'prompt': prompt})
  except errors.UserError:
    raise
  except Exception as e:  # whatever the user's own function raises
    raise errors.UserError(f'train.optimizer {name} fails: {errors.reason(e)}') from e
  for leaf in jax.tree.leaves(state):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise errors.UserError(
        f'train.optimizer {name} keeps a PRNG key of JAX, which no checkpoint can; '
        'expected a state of numbers'
      )


_ADAMW = functools.partial(optax.adamw, weight_decay=0.0)


def prompt_only(learning_rate, *, clip_norm, optimizer=_ADAMW):
  """Returns an optimiser for `{'frozen': weights, 'prompt': arrays}`.

  Only the prompt is trained: moments exist for it alone, its gradient alone is
  clipped to the global norm `clip_norm`, and the weights' updates are zero whatever
  gradient they are given. (`optax.masked` by itself would pass a masked leaf's raw
  gradient on as its update.)

  Args:
    learning_rate: a number or a schedule.
    clip_norm: largest global norm of the prompt's gradient; 0 for no clipping.
    optimizer: from `resolve`.
  """
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  trained = optax.chain(clip, optimizer(learning_rate))
  return optax.partition(
    {'trained': trained, 'frozen': optax.set_to_zero()},
    {'frozen': 'frozen', 'prompt': 'trained'},
  )
