"""Pretraining: documents to rows of tokens, and a training loop that can be resumed.

The model is transformers' own, of its line 4.57: 5 has no Flax models.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import transformers
from absl import logging

from tools.tiny import documents
from tools.tiny import guides

ROW_TOKENS = 256
BATCH_ROWS = 12
_PEAK_LEARNING_RATE = 2e-3
_KERNEL_LEARNING_RATE = 2e-2
_WARMUP_STEPS = 100
_GUIDED = 0.6  # the share of the steps in which heads are shown where to look
_GUIDE_WEIGHT = 0.1  # of that loss at first; it falls to 0
_TOKENIZED_AT_ONCE = 10_000  # documents; all at once would take gigabytes

Params = Any


WIDTH = 128  # of the model in the package


def model(
  vocab_size: int, end_of_text: int, width: int = WIDTH
) -> transformers.FlaxGPT2LMHeadModel:
  """The architecture without weights."""
  config = transformers.GPT2Config(
    vocab_size=vocab_size,
    n_positions=ROW_TOKENS,
    n_embd=width,
    n_layer=5,
    n_head=4,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    # GPT-2's 0.02 belongs to its width of 768; at this width the attention would stay
    # flat for so long that the model never learned to read. This is near 1/sqrt(width).
    initializer_range=0.08 * (WIDTH / width) ** 0.5,
    bos_token_id=end_of_text,
    eos_token_id=end_of_text,
  )
  return transformers.FlaxGPT2LMHeadModel(config, _do_init=False)


def pack(texts: Iterable[str], tokenizer) -> np.ndarray:
  """Packs documents into rows, keeping their order.

  Every row starts with the start of a document, as a prompt does, and its last document
  is cut off where the row ends. A document's last line, which the end of text is part
  of, is not taken for an answer.

  Returns:
    [rows, 3, ROW_TOKENS] uint16: token ids, and what `guides.places` has to know.
  """
  rows, row = [], np.zeros((3, 0), np.uint16)
  texts = iter(texts)
  while some := list(itertools.islice(texts, _TOKENIZED_AT_ONCE)):
    whole = [text + documents.END_OF_TEXT for text in some]
    encoded = tokenizer(whole, return_offsets_mapping=True)
    for text, ids, offsets in zip(
      whole, encoded['input_ids'], encoded['offset_mapping'], strict=True
    ):
      subject, answer = guides.annotate(text, offsets)
      answer = np.where(answer > 0, answer + row.shape[1], 0)
      document = np.array([ids, subject, answer], np.uint16)
      row = np.concatenate([row, document], axis=1)
      if row.shape[1] >= ROW_TOKENS:
        rows.append(row[:, :ROW_TOKENS])
        row = row[:, :0]
  return np.array(rows)


def _apply(module, params: Params, tokens: jax.Array, **options):
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  ones = jnp.ones_like(tokens)
  return module.apply({'params': params}, tokens, ones, positions, **options)


def _token_losses(logits: jax.Array, tokens: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])


def token_losses(module, params: Params, tokens: jax.Array) -> tuple:
  """The losses of all tokens but the first, and whether each was the likeliest.

  Args:
    tokens: [B, T] token ids.

  Returns:
    Losses in nats and hits, both [B, T - 1].
  """
  logits = _apply(module, params, tokens).logits
  return _token_losses(logits, tokens), logits[:, :-1].argmax(-1) == tokens[:, 1:]


def initial_params(lm: transformers.FlaxGPT2LMHeadModel, seed: int) -> Params:
  """Random weights, but for the positions: sinusoids as large as the random ones.

  Neighbouring positions are then alike from the start. With random ones, each of the
  256 would have to learn by itself which one is before it, and the model copies and
  binds so late that it does not learn to tell people apart.
  """
  params = lm.init_weights(jax.random.key(seed), (1, ROW_TOKENS))
  table = params['transformer']['wpe']['embedding']
  angles = np.arange(len(table))[:, None] * np.geomspace(1.0, 0.01, table.shape[1] // 2)
  waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
  params['transformer']['wpe']['embedding'] = jnp.asarray(
    2**0.5 * lm.config.initializer_range * waves, table.dtype
  )
  return params


def _optimizer(steps: int) -> optax.GradientTransformation:
  """Muon for the kernels, AdamW for embeddings, norms and biases.

  Jordan 2024, "Muon: An optimizer for hidden layers in neural networks". With AdamW
  alone the model learns to copy some 600 steps later, and to tell people apart hardly.
  """

  def schedule(peak: float) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0,
      peak_value=peak,
      warmup_steps=min(_WARMUP_STEPS, steps // 2),
      decay_steps=steps,
      end_value=0.01 * peak,
    )

  def kind(path, _) -> str:
    return 'kernel' if path[-1].key == 'kernel' else 'other'

  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.partition(
      {
        'kernel': optax.contrib.muon(schedule(_KERNEL_LEARNING_RATE)),
        'other': optax.adamw(schedule(_PEAK_LEARNING_RATE), b2=0.98, weight_decay=0.01),
      },
      functools.partial(jax.tree_util.tree_map_with_path, kind),
    ),
  )


def train(
  lm: transformers.FlaxGPT2LMHeadModel,
  rows: np.ndarray,
  names: np.ndarray,
  seed: int,
  checkpoint: pathlib.Path,
  measure: Callable[[Params], dict[str, float]],
  *,
  every: int,
) -> Params:
  """Trains on the rows once, in their order.

  Args:
    rows: what `pack` returns.
    names: see `guides.places`.
    checkpoint: the file training is resumed from, if it is there.
    measure: gives figures to log.
    every: steps between checkpoints, each followed by `measure`.
  """
  steps = len(rows) // BATCH_ROWS
  optimizer = _optimizer(steps)
  update = jax.jit(_update_fn(lm, names, optimizer), donate_argnums=(0, 1))
  params = initial_params(lm, seed)
  state = {'step': 0, 'params': params, 'moments': optimizer.init(params)}
  if checkpoint.exists():
    state = flax.serialization.from_bytes(state, checkpoint.read_bytes())
    logging.info('resumed at step %d', state['step'])
  start, params, moments = state['step'], state['params'], state['moments']
  began = time.monotonic()
  for step in range(start, steps):
    batch = rows[step * BATCH_ROWS : (step + 1) * BATCH_ROWS].astype(np.int32)
    weight = _GUIDE_WEIGHT * max(0.0, 1 - step / (_GUIDED * steps))
    params, moments, loss = update(params, moments, batch, weight)
    done = step + 1
    if done % every == 0 or done == steps:
      speed = (done - start) * batch[:, 0].size / (time.monotonic() - began)
      _save(checkpoint, {'step': done, 'params': params, 'moments': moments})
      logging.info('step %d/%d: loss %.3f, %.0f tokens/s', done, steps, loss, speed)
      logging.info(', '.join(f'{k} {v:.3g}' for k, v in measure(params).items()))
  return params


def _update_fn(lm, names: np.ndarray, optimizer) -> Callable:
  def update(params, moments, rows, guide_weight):
    def loss_fn(params):
      tokens = rows[:, 0]
      out = _apply(lm.module, params, tokens, output_attentions=True)
      loss = _token_losses(out.logits, tokens).mean()
      places = guides.places(rows, jnp.asarray(names), lm.config.eos_token_id)
      return loss + guide_weight * guides.loss(out.attentions, places), loss

    (_, loss), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, moments = optimizer.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments, loss

  return update


def _save(checkpoint: pathlib.Path, state: dict[str, Any]) -> None:
  partial = checkpoint.with_suffix('.partial')
  partial.write_bytes(flax.serialization.to_bytes(state))
  partial.rename(checkpoint)  # a killed build leaves a whole checkpoint
