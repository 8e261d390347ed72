"""A row of the head whose token is never chosen, measured on rows.

A row along minus the mean final hidden state has a low logit after most tokens, as
these states point much the same way (Ethayarajh 2019, arXiv:1909.00512). The row here
is the one that is low after all of them by the widest margin.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data import loader
from jaxprompt.prompts import model as prompted

_BELOW = 10.0  # the lowest of the other logits
_SPARE = 2.0  # times as far, for tokens that are not measured
_MOST_TOKENS = 20_000  # whose hidden states are held at once
_STEPS, _ENOUGH = 1000, 0.9  # of the search; the share of the widest margin


class Unchosen(NamedTuple):
  """The row, and where it was measured."""

  row: np.ndarray  # [H] float32
  tokens: int  # that were predicted
  last: int  # those of them where the row's logit is below all others


def measure(model, asked, *, batch_size, progress):
  """Returns the `Unchosen` of the target tokens that prompts predict.

  Args:
    model: `setup.Model`.
    asked: pairs of a `placement.Placement` and its rows, a `rows.Table`.
    batch_size: rows.
    progress: see `evaluate.Evaluator`.
  """
  pairs = [_predicting(model, *pair, batch_size, progress) for pair in asked]
  hidden, lowest = map(np.concatenate, zip(*pairs, strict=True))
  row = row_below(hidden, lowest)
  return Unchosen(row, len(lowest), int((hidden @ row < lowest).sum()))


def row_below(hidden, lowest):
  """Returns a row of the head whose logits are below the lowest of all others.

  It points away from the hull of the hidden states, each divided by how low its logit
  has to be: along minus the hull's nearest point to 0, which is found by Gilbert 1966,
  "An iterative procedure for computing the minimum of a quadratic form on a convex set"
  (SIAM J. Control 4). If 0 is in the hull there is no such row; this one then fails at
  some of the states.

  Args:
    hidden: final hidden states [E, H] float32.
    lowest: of the other logits [E].

  Returns:
    [H] float32.
  """
  states = hidden / np.maximum(_BELOW - lowest, 1.0)[:, None]
  point = states.mean(axis=0)
  for _ in range(_STEPS):
    along = states @ point
    far = along.argmin()
    if along[far] >= _ENOUGH * (point @ point):
      break
    step = states[far] - point
    point = point + np.clip(-(point @ step) / (step @ step), 0.0, 1.0) * step
  along = states @ point
  least = along.min() if along.min() > 0 else np.abs(along).max()
  return (-_SPARE / least * point).astype(np.float32)


def _predicting(model, arm, rows, batch_size, progress):
  """Returns the hidden states [E, H] that predict E tokens, and their lowest logits."""
  # Of logits without their cap, which keeps their order but not their distances.
  spec = dataclasses.replace(model.lm.spec, logit_cap=None)
  lm = dataclasses.replace(model.lm, spec=spec)
  lengths = np.cumsum(rows.lengths[:, 1])
  rows = rows[: 1 + int(np.searchsorted(lengths, _MOST_TOKENS))]
  batches = loader.Loader(
    rows,
    model.layout,
    batch_size=model.layout.round_up(batch_size),
    pad_id=model.template.end_id,
    apart=arm.splits_rows,
  )

  def at(params, arm, batch):
    hidden = prompted.target_hidden(lm, params, arm, batch)  # [B, N, H]
    lowest = jax.lax.map(lambda x: lm.logits(params, x).min(axis=-1), hidden)  # [B, N]
    return hidden.astype(jnp.float32), lowest, batch.loss_mask

  program = model.layout.gather(at)
  found = []
  for indices, shape in progress(batches.in_order(), 'lowest logits'):
    batch, _ = batches.load(indices, shape)
    hidden, lowest, real = jax.device_get(program(model.params, arm, batch))
    found.append((hidden[real], lowest[real]))
  hidden, lowest = map(np.concatenate, zip(*found, strict=True))
  return hidden, lowest
