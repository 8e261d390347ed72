"""The end of an epoch, of one run and of each run of a sweep's group: its record."""

import dataclasses
import math

import numpy as np


def record(number, state, validation, *, seconds, tokens):
  """Returns what is kept of an epoch.

  Args:
    number: of the epoch, from 1.
    state: `steps.TrainState` of the run, host arrays.
    validation: {figure: value} of the validation rows, `loss` first.
    seconds: trained in it.
    tokens: real ones trained on in it.
  """
  return {
    'epoch': number,
    'step': int(state.step),
    'train_loss': float(state.loss_sum / state.loss_count),
    **{f'validation_{name}': value for name, value in validation.items()},
    'seconds': seconds,
    'tokens_per_second': float(tokens / seconds),
  }


def is_finite(found):
  """Returns whether the losses of a record are finite."""
  return math.isfinite(found['train_loss'] + found['validation_loss'])


def best(records):
  """Returns the epoch of the lowest validation loss, the first of equals; 0 of none."""
  if not records:
    return 0
  return min(records, key=lambda found: found['validation_loss'])['epoch']


def end(state, records, found):
  """Adds an epoch's record to those before; returns the state of the next one.

  Its prompt is the best if its validation loss is the lowest so far.
  """
  records.append(found)
  if best(records) == found['epoch']:
    state = dataclasses.replace(state, best_prompt=state.prompt)
  zero = np.zeros_like(state.loss_sum)
  return dataclasses.replace(state, loss_sum=zero, loss_count=zero)
