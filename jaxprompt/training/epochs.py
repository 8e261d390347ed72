"""What is kept of the validations of one run, and of each run of a sweep's group."""

import dataclasses
import math

import jax
import numpy as np

from jaxprompt.prompts import kinds


def record(passes, state, validation, *, seconds, tokens):
  """Returns what is kept of a validation.

  Args:
    passes: over the training rows so far; a whole number at an epoch's end.
    state: `steps.TrainState` of the run, host arrays.
    validation: {figure: value} of the validation rows, `loss` first.
    seconds: trained since the validation before.
    tokens: real ones trained on since.
  """
  return {
    'epoch': passes,
    'step': int(state.step),
    'train_loss': float(state.loss_sum / state.loss_count),
    **{f'validation_{name}': value for name, value in validation.items()},
    'seconds': seconds,
    'tokens_per_second': float(tokens / seconds),
  }


def passes(step, epoch_steps):
  """Returns the passes over the rows after a step, a whole number at an epoch's end."""
  whole, rest = divmod(step, epoch_steps)
  # Rounded, but never to the epoch's end.
  return min(round(step / epoch_steps, 3), round(whole + 0.999, 3)) if rest else whole


def is_finite(found):
  """Returns whether the losses of a record are finite."""
  return math.isfinite(found['train_loss'] + found['validation_loss'])


def best(records):
  """Returns the record of the lowest validation loss, the first of equals, or None."""
  return min(records, key=lambda found: found['validation_loss'], default=None)


def has_waited(records, patience):
  """Returns whether so many validations have found no better loss; 0 waits for ever."""
  if not patience or not records:
    return False
  return len(records) - 1 - records.index(best(records)) >= patience


def is_over(records, train):
  """Returns whether a run is, by its records and the section `train` of its config."""
  if not records or has_waited(records, train.patience):
    return bool(records)
  if train.steps:
    return records[-1]['step'] >= train.steps
  return records[-1]['epoch'] >= train.epochs


def validated(state, records, found):
  """Adds a record to those before; returns the state that training goes on with.

  Its prompt is the best if its validation loss is the lowest so far.
  """
  records.append(found)
  if best(records) is found:
    folded = jax.device_get(kinds.fold(state.prompt))
    state = dataclasses.replace(state, best_prompt=folded)
  zero = np.zeros_like(state.loss_sum)
  return dataclasses.replace(state, loss_sum=zero, loss_count=zero)
