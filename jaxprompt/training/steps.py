"""Train and loss steps: pure functions of arrays, for the caller to jit.

The unit of training is the optimiser step: it takes the rows of all its micro-batches
at once and scans over them, so a run is never between two updates.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprompt.prompts import kinds
from jaxprompt.prompts import model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that training changes, and where it began; small, and saved as it is."""

  step: jax.Array  # [] int32: optimiser steps done
  prompt: dict  # arrays, see `kinds`, float32
  initial_prompt: dict  # folded
  best_prompt: dict  # folded, of the epoch with the best validation loss
  opt_state: optax.OptState
  loss_sum: jax.Array  # [] float32: nats over target tokens since the last validation
  loss_count: jax.Array  # [] float32: those tokens


def init_state(prompt, params, tx):
  """Returns the state before the first step; `params` are only looked at for shape."""

  def fresh(arrays):  # one array may not be donated several times
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), arrays)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    prompt=fresh(prompt),
    initial_prompt=fresh(kinds.fold(prompt)),
    best_prompt=fresh(kinds.fold(prompt)),
    opt_state=tx.init({'frozen': params, 'prompt': prompt}),
    loss_sum=jnp.zeros((), jnp.float32),
    loss_count=jnp.zeros((), jnp.float32),
  )


def row_losses(lm, params, placement, batch, context=None):
  """Sums the negative log-likelihood of each row's target tokens.

  Args: see `model.target_hidden`.

  Returns:
    nats [B] float32 and the number of target tokens [B] float32; a padding row has
    zero of both.
  """
  hidden = model.target_hidden(lm, params, placement, batch, context)  # [B, N, H]
  losses = model.token_losses(lm, params, hidden, model.target_ids(batch))
  return _by_row(losses, batch)


def _by_row(losses, batch):
  mask = batch.loss_mask.astype(jnp.float32)  # [B, N]
  return jnp.sum(losses * mask, axis=-1), jnp.sum(mask, axis=-1)


def ensemble_losses(lm, members, params, placement, batch):
  """Like `row_losses`, but of M prompts that answer together, as `decode` chooses.

  Their likelihood of a token is the softmax of the mean of their logits: the geometric
  mean of what each says, normalised.

  Args: see `model.target_hidden`, and
    members: M.
    placement: of B * M rows, those of a row's prompts next to each other.
  """
  each = jax.tree.map(lambda x: jnp.repeat(x, members, axis=0), batch)
  hidden = model.target_hidden(lm, params, placement, each)  # [B * M, N, H]
  hidden = hidden.reshape(-1, members, *hidden.shape[1:])

  def of_row(row):
    hidden, ids = row
    logits = lm.logits(params, hidden).mean(axis=0)  # [M, N, V] -> [N, V]
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids)

  return _by_row(jax.lax.map(of_row, (hidden, model.target_ids(batch))), batch)


def sums(lm, params, prompt, batch, context=None):
  """Sums the loss of a prompt, see `kinds`, over all rows; as `row_losses`, both []."""
  position = 'prefix' if batch.source_ids is None else 'suffix'
  placed = kinds.place(prompt, position)
  losses, counts = row_losses(lm, params, placed, batch, context)
  return jnp.sum(losses), jnp.sum(counts)


# Every part of a batch runs the prefix again: that shall be at most a 32nd of the work.
_TOKENS_A_PREFIX_TOKEN = 32


def _parts(batch, prompt_length, accumulate, tokens_at_a_time):
  """Returns into how many parts a batch is cut, a multiple of `accumulate`.

  `prompt_length` counts the virtual tokens that are run.
  """
  rows, tokens = batch.input_ids.shape
  if tokens_at_a_time is None:
    return accumulate
  if batch.source_ids is None:
    shared, own = prompt_length, tokens
  else:
    shared, own = 0, tokens + prompt_length
  finer = (
    parts
    for parts in range(2 * accumulate, rows + 1, accumulate)
    if rows % parts == 0
    and rows // parts * own >= tokens_at_a_time
    and (parts - accumulate) * shared * _TOKENS_A_PREFIX_TOKEN <= rows * own
  )
  return max(finer, default=accumulate)


def prompt_gradient(
  lm, params, prompt, batch, accumulate, context=None, tokens_at_a_time=None
):
  """Sums loss and gradient over `accumulate` micro-batches, cut from the batch's rows.

  Only the prompt is differentiated: no gradient of the weights is ever formed. Sums,
  not means, so that every target token weighs the same whatever batch it is in.

  Args: see `train_step`.

  Returns:
    (nats [], target tokens []), gradient of the nats, a tree like the prompt.
  """
  value_and_grad = jax.value_and_grad(
    lambda prompt, rows: sums(lm, params, prompt, *rows), has_aux=True
  )
  parts = _parts(batch, kinds.run_length(prompt), accumulate, tokens_at_a_time)
  if parts == 1:
    return value_and_grad(prompt, (batch, context))
  micros = jax.tree.map(
    lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), (batch, context)
  )

  def add(total, micro):
    return jax.tree.map(jnp.add, total, value_and_grad(prompt, micro)), None

  zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, prompt))
  total, _ = jax.lax.scan(add, zeros, micros)
  return total


def _tokens(batch, length):
  """Counts the real tokens of a batch, those of a prompt of `length` among them."""
  rows = jnp.sum(jnp.any(batch.attention_mask, axis=-1))
  tokens = jnp.sum(batch.attention_mask) + rows * length
  if batch.source_mask is not None:
    tokens += jnp.sum(batch.source_mask)
  return tokens


def _all_finite(tree):
  return jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()


class Options(NamedTuple):
  """How a step is taken; of the compiled program.

  Attributes:
    accumulate: micro-batches a step.
    axis_name: of the devices that share the rows, if there are others. What they send
      each other is the sums: of the loss, the tokens and the prompt's gradient.
    tokens_at_a_time: cut micro-batches further, into parts of no fewer tokens than
      this, to save memory; None leaves them whole.
  """

  accumulate: int = 1
  axis_name: str | None = None
  tokens_at_a_time: int | None = None


def train_step(lm, tx, options, state, params, batch, context=None):
  """Takes one optimiser step.

  Args:
    lm, tx, options: static: the model, the masked optimiser, `Options`.
    state: `TrainState`; may be donated.
    params: the frozen weights; read, never copied or returned.
    batch: `Batch` of the step's rows, or of a device's share of them.
    context: `placement.Context` of its source apart, if that has been computed.

  Returns:
    The new state, and scalars of this step: mean `loss` per target token (nats),
    `grad_norm` of the prompt before clipping, `prompt_drift` from the initial prompt
    (both L2 norms), `is_finite`, whether they and all that is trained still are,
    and `tokens`, the real ones (prompt, source, target).
  """
  totals = prompt_gradient(
    lm,
    params,
    state.prompt,
    batch,
    options.accumulate,
    context,
    options.tokens_at_a_time,
  )
  totals = (*totals, _tokens(batch, kinds.length(state.prompt)))
  if options.axis_name is not None:
    totals = jax.lax.psum(totals, options.axis_name)
  (loss, count), grads, tokens = totals
  grads = jax.tree.map(lambda x: x / count, grads)
  # The weights' zero gradients are dropped by the compiler, with their zero updates.
  updates, opt_state = tx.update(
    {'frozen': jax.tree.map(jnp.zeros_like, params), 'prompt': grads},
    state.opt_state,
    {'frozen': params, 'prompt': state.prompt},
  )
  prompt = optax.apply_updates(state.prompt, updates['prompt'])
  drift = jax.tree.map(jnp.subtract, kinds.fold(prompt), state.initial_prompt)
  scalars = {
    'loss': loss / count,
    'grad_norm': optax.tree.norm(grads),
    'prompt_drift': optax.tree.norm(drift),
  }
  is_finite = _all_finite((scalars, prompt, opt_state))
  scalars = {**scalars, 'is_finite': is_finite, 'tokens': tokens}
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    prompt=prompt,
    opt_state=opt_state,
    loss_sum=state.loss_sum + loss,
    loss_count=state.loss_count + count,
  )
  return state, scalars
