"""What a user should know of a run that does not go well."""

import logging
import math

import jax
import numpy as np

log = logging.getLogger(__name__)

_STALLED = 3  # validations after which a loss that has not fallen is told
_LONG = 100  # times its first norm is a prompt that runs away
_NO_EFFECT = 0.002  # of the bare model's loss
_STILL_FALLING = 0.02  # of the best validation before


def warn(records, prompt, initial):
  """Warns of a training loss that does not fall, and of a prompt that runs away.

  Args:
    records: of the validations so far, see `epochs`.
    prompt: its arrays, folded.
    initial: those that it began with.
  """
  losses = [found['train_loss'] for found in records]
  if len(losses) == _STALLED and min(losses[1:]) >= losses[0]:
    log.warning(
      'the training loss has not fallen in %d validations (%.4g, now %.4g): try a '
      'train.learning_rate that is higher or lower, or prompt.init=text',
      _STALLED,
      losses[0],
      losses[-1],
    )
  times = _norm(prompt) / max(_norm(initial), 1e-30)
  if times > _LONG:
    log.warning(
      'the norm of the prompt is %.0f times what it was at first: lower '
      'train.learning_rate if its loss does not fall',
      times,
    )


def warn_of_early_end(records):
  """Warns if the last validation is the best by far; `records` as for `warn`."""
  if len(records) < 2:
    return
  *others, last = (found['validation_loss'] for found in records)
  if last < min(others) * (1 - _STILL_FALLING):
    log.warning(
      'the validation loss was still falling at the end (%.4g, then %.4g): '
      'longer training (train.epochs, train.steps) may lower it further',
      min(others),
      last,
    )


def warn_of_no_effect(test):
  """Warns if a prompt has the loss of none; `test` as in results.json."""
  if 'none' not in test:
    return
  soft, none = test['soft']['loss'], test['none']['loss']
  if abs(soft - none) <= _NO_EFFECT * none:
    log.warning(
      'the prompt has no effect: its loss is %.4g, that of no prompt %.4g; train '
      'longer, or with a higher train.learning_rate',
      soft,
      none,
    )


def _norm(tree):
  return math.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
