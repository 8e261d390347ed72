"""The optimiser: a schedule, and AdamW over frozen weights and prompt, masked."""

import optax

from jaxprompt import errors

_MOST_STEPS = 2**31 - 1  # that a step's number can hold
SCHEDULES = {
  'cosine': lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
  'linear': lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
  'constant': lambda peak, steps: optax.constant_schedule(peak),
}


def schedule(kind, *, peak, warmup, steps):
  """Returns the learning rate as a function of the optimiser step, counted from 0.

  Args:
    kind: a key of `SCHEDULES`, the form of the decay after the warm-up.
    peak: the learning rate at the warm-up's end.
    warmup: steps of linear warm-up from 0.
    steps: optimiser steps of the whole run, the warm-up included.

  Raises:
    UserError: for more steps than the optimiser can count.
  """
  if steps > _MOST_STEPS:
    raise errors.UserError(
      f'the run would be {steps} optimiser steps; expected at most {_MOST_STEPS}: '
      'lower train.epochs'
    )
  decay = SCHEDULES[kind](peak, max(steps - warmup, 1))
  if warmup == 0:
    return decay
  # The first step already moves: it has 1 / warmup of the peak, not 0.
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, decay], [warmup])


def prompt_only(learning_rate, *, clip_norm):
  """Returns AdamW for `{'frozen': weights, 'prompt': arrays}`.

  Only the prompt is trained: moments exist for it alone, its gradient alone is
  clipped to the global norm `clip_norm`, and the weights' updates are zero whatever
  gradient they are given. (`optax.masked` by itself would pass a masked leaf's raw
  gradient on as its update.)

  Args:
    learning_rate: a number or a schedule.
    clip_norm: largest global norm of the prompt's gradient; 0 for no clipping.
  """
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  # No decay: it would pull the prompt to zero, which is no place in the vocabulary.
  trained = optax.chain(clip, optax.adamw(learning_rate, weight_decay=0.0))
  return optax.partition(
    {'trained': trained, 'frozen': optax.set_to_zero()},
    {'frozen': 'frozen', 'prompt': 'trained'},
  )
