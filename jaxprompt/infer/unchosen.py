"""A token that is never chosen, measured on rows; virtual tokens take its row.

Where two logits are equal, greedy decoding takes the smaller id, so a virtual token is
never taken; and it has no more probability than a token that has next to none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data import loader
from jaxprompt.prompts import model as prompted

_MOST_TOKENS = 20_000  # that are measured


class Unchosen(NamedTuple):
  """The token, and how seldom it is."""

  token_id: int
  probability: float  # the largest that it has anywhere
  tokens: int  # that were predicted


def measure(model, asked, *, batch_size, progress):
  """Returns the `Unchosen` of all target tokens that prompts predict.

  Args:
    model: `setup.Model`.
    asked: pairs of a `placement.Placement` and its rows, a `rows.Table`.
    batch_size: rows.
    progress: see `evaluate.Evaluator`.
  """
  largest, counts = zip(
    *(_log_probabilities(model, *pair, batch_size, progress) for pair in asked),
    strict=True,
  )
  largest = np.max(largest, axis=0)  # [V]
  token_id = int(largest.argmin())
  return Unchosen(token_id, float(np.exp(largest[token_id])), sum(counts))


def _log_probabilities(model, arm, rows, batch_size, progress):
  """Returns every token's largest log-probability [V] over the rows' target tokens."""
  lm, lengths = model.lm, np.cumsum(rows.lengths[:, 1])
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

    def of_row(row):
      hidden, real = row
      found = jax.nn.log_softmax(lm.logits(params, hidden))  # [N, V]
      return jnp.where(real[:, None], found, -jnp.inf).max(axis=0)

    return jax.lax.map(of_row, (hidden, batch.loss_mask))  # [B, V]

  program = model.layout.gather(at)
  largest = np.full(lm.spec.vocab_size, -np.inf, np.float32)
  for indices, shape in progress(batches.in_order(), 'unlikely tokens'):
    batch, _ = batches.load(indices, shape)
    found = jax.device_get(program(model.params, arm, batch))
    largest = np.maximum(largest, found.max(axis=0))
  return largest, int(rows.lengths[:, 1].sum())
