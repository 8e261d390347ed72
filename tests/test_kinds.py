"""Kinds of prompt: how each begins, folds, and stands with the rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.data import collate
from jaxprompt.infer import decode
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import kinds
from jaxprompt.prompts import model
from jaxprompt.prompts import placement
from jaxprompt.training import optim
from jaxprompt.training import steps

TEXT = [17, 250, 3, 99]


def _begun(kind, frozen, embeddings):
  lm, params, _ = frozen
  begin = jax.jit(kinds.KINDS[kind], static_argnums=0)
  return begin(lm, params, embeddings, jax.random.key(3))


def _of_text(kind, frozen):
  lm, params, _ = frozen
  return _begun(kind, frozen, lm.embed(params, jnp.asarray(TEXT)))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _target_logits(lm, params, prompt, batch, position):
  placed = kinds.place(prompt, position)
  return lm.logits(params, model.target_hidden(lm, params, placed, batch))


@pytest.mark.parametrize('kind', kinds.KINDS)
def test_a_prompt_begun_from_a_text_is_that_hard_prompt(kind, frozen, batch):
  lm, params, _ = frozen
  text = {'embeddings': lm.embed(params, jnp.asarray(TEXT))}
  expected = _target_logits(lm, params, text, batch, 'prefix')
  found = _target_logits(lm, params, _of_text(kind, frozen), batch, 'prefix')
  np.testing.assert_allclose(found[:2], expected[:2], atol=1e-5)


def test_the_arrays_of_a_kind_have_the_models_sizes(frozen, soft_prompt):
  spec = frozen[0].spec
  found = _begun('deep', frozen, soft_prompt)['keys_values']
  assert found.shape == (spec.blocks, 2, spec.kv_heads, 5, spec.head_dim)
  for kind in kinds.KINDS:
    prompt = _begun(kind, frozen, soft_prompt)
    assert kinds.length(prompt) == kinds.length(kinds.fold(prompt)) == 5
    assert kinds.run_length(prompt) == (0 if kind == 'deep' else 5)
    assert len(kinds.fold(prompt)) == 1


def test_a_residual_prompt_is_folded_into_what_its_network_makes_of_it(gpt2):
  prompt = _of_text('residual', gpt2)
  np.testing.assert_array_equal(kinds.fold(prompt)['embeddings'], prompt['embeddings'])
  prompt['mlp'] |= {'scale': jnp.full(24, 2.0), 'bias': jnp.full(24, 0.5)}
  change = kinds.fold(prompt)['embeddings'] - prompt['embeddings']
  np.testing.assert_allclose(jnp.mean(change, axis=1), 0.5, atol=1e-5)
  np.testing.assert_allclose(jnp.std(change, axis=1), 2.0, rtol=1e-3)


def _batch(source, target, position, pad=0):
  """One row; a source apart is padded on the right."""
  source_ids, source_mask = collate.pad([source], len(source) + pad, 1, pad_id=9)
  apart = position == 'suffix'
  tokens = target if apart else [*source, *target]
  positions = np.arange(len(tokens) - len(target), len(tokens))[None]
  return batch_lib.Batch(
    jnp.asarray([tokens]),
    jnp.ones((1, len(tokens)), bool),
    jnp.asarray(positions),
    jnp.ones((1, len(target)), bool),
    *((source_ids, source_mask) if apart else ()),
  )


def test_a_deep_suffix_of_a_texts_own_keys_is_that_text_before_the_last_token(frozen):
  lm, params, _ = frozen
  *head, last = source = [7, 81, 300, 12, 45]
  target = [33, 4, 150]
  run = jax.jit(model.hidden_states, static_argnums=0)
  both = jnp.asarray([[*head, *TEXT]])
  _, context = run(lm, params, lm.embed(params, both), jnp.ones(both.shape, bool))
  keys_values = jnp.stack([jnp.stack(x) for x in context.keys_values])
  deep = {'keys_values': keys_values[:, :, 0, :, len(head) :]}
  found = _target_logits(
    lm, params, deep, _batch(source, target, 'suffix', 2), 'suffix'
  )
  bare = {'embeddings': jnp.zeros((0, lm.spec.width))}
  plain = _batch([*head, *TEXT, last], target, 'prefix')
  expected = _target_logits(lm, params, bare, plain, 'prefix')
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize('position', placement.POSITIONS)
@pytest.mark.parametrize('kind', ['embedding', 'deep'])
def test_prompts_together_have_the_loss_of_their_mean_logits(kind, position, gpt2):
  lm, params, _ = gpt2
  batch = _batch([7, 81, 300, 12, 45], [33, 4, 150], position, pad=2)
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1]]), batch)
  prompts = [
    _begun(kind, gpt2, 2 * jax.random.normal(jax.random.key(i), (4, 24)))
    for i in range(2)
  ]
  each = [_target_logits(lm, params, prompt, batch, position) for prompt in prompts]
  log_probs = jax.nn.log_softmax(jnp.mean(jnp.stack(each), axis=0))  # [B, N, V]
  own = jnp.take_along_axis(log_probs, model.target_ids(batch)[..., None], axis=-1)
  stacked = placement.stack([kinds.place(prompt, position) for prompt in prompts])
  losses = jax.jit(steps.ensemble_losses, static_argnums=(0, 1))
  nats, counts = losses(lm, 2, params, placement.for_rows(stacked, 2), batch)
  np.testing.assert_allclose(nats, -own.sum(axis=(1, 2)), rtol=1e-5)
  np.testing.assert_array_equal(counts, [3, 3])


@pytest.mark.parametrize('position', placement.POSITIONS)
@pytest.mark.parametrize('kind', kinds.KINDS)
def test_what_is_generated_is_what_the_loss_calls_likeliest(kind, position, frozen):
  lm, params, _ = frozen
  prompt = jax.tree.map(lambda x: 1.1 * x + 0.01, _of_text(kind, frozen))
  source = [7, 81, 300, 12, 45]
  ids, mask = collate.pad([source, [33, 4]], 7, 2, pad_id=9)
  generate = jax.jit(decode.generate, static_argnums=(0, 5))
  placed, options = kinds.place(prompt, position), decode.Options(6, end_ids=(-1,))
  out = generate(lm, params, placed, ids, mask, options)[0].tolist()
  logits = _target_logits(lm, params, prompt, _batch(source, out, position), position)
  logits = logits[0, :, : lm.tokens]  # of the ids that the tokenizer has
  np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), out)


@pytest.mark.parametrize('position', placement.POSITIONS)
@pytest.mark.parametrize('kind', kinds.KINDS)
def test_only_the_prompt_changes_and_the_loss_falls(kind, position, gpt2, soft_prompt):
  lm, params, _ = gpt2
  batch = _batch([7, 81, 300, 12, 45], [33, 4, 150], position, pad=2)
  tx = optim.prompt_only(0.02, clip_norm=1.0)
  step = functools.partial(steps.train_step, lm, tx, steps.Options())
  step = jax.jit(step)
  before = jax.tree.map(np.array, params)
  prompt = _begun(kind, gpt2, soft_prompt)
  state, losses = steps.init_state(prompt, params, tx), []
  for _ in range(20):
    state, scalars = step(state, params, batch)
    losses.append(scalars['loss'])
  jax.tree.map(np.testing.assert_array_equal, params, before)
  assert losses[-1] < losses[0] and scalars['is_finite']
  changed = jax.tree.map(lambda x, y: not np.array_equal(x, y), state.prompt, prompt)
  assert all(jax.tree.leaves(changed))
  (folded,), (initial,) = map(
    jax.tree.leaves, (kinds.fold(state.prompt), state.initial_prompt)
  )
  drift = jnp.linalg.norm(jnp.ravel(folded - initial))
  np.testing.assert_allclose(scalars['prompt_drift'], drift, rtol=1e-4)
