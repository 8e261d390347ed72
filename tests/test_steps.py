"""The train step: what it changes, what it leaves, and how a batch may be cut."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprompt import errors
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.training import optim
from jaxprompt.training import steps

close = functools.partial(np.testing.assert_allclose, atol=1e-5)


SETTINGS = {'weight_decay': 0.0, 'beta1': 0.9, 'beta2': 0.999}


@pytest.fixture
def tx():
  return optim.prompt_only(0.1, clip_norm=1.0)


def _optimizer(name):
  own = optim.resolve(name, **SETTINGS)
  return optim.prompt_only(0.1, clip_norm=1.0, optimizer=own)


def _run(lm, params, tx, soft_prompt, batches, accumulate=1):
  step = jax.jit(functools.partial(steps.train_step, lm, tx, steps.Options(accumulate)))
  state = steps.init_state({'embeddings': soft_prompt}, params, tx)
  for batch in batches:
    state, scalars = step(state, params, batch)
  return state, scalars


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_only_the_prompt_changes_and_the_loss_falls(name, gpt2, soft_prompt, batch):
  (lm, params, _), tx = gpt2, _optimizer(name)
  before = jax.tree.map(lambda x: np.array(x, copy=True), params)
  first, _ = _run(lm, params, tx, soft_prompt, [batch])
  state, scalars = _run(lm, params, tx, soft_prompt, [batch] * 20)
  jax.tree.map(np.testing.assert_array_equal, params, before)
  assert not np.array_equal(state.prompt['embeddings'], soft_prompt)
  np.testing.assert_array_equal(state.initial_prompt['embeddings'], soft_prompt)
  assert scalars['loss'] < first.loss_sum / first.loss_count


def test_scalars_that_overflow_are_not_finite(gpt2, soft_prompt, batch):
  lm, params, _ = gpt2
  tx = optim.prompt_only(optax.constant_schedule(1e30), clip_norm=1.0)
  state, scalars = _run(lm, params, tx, soft_prompt, [batch])
  assert np.isfinite(state.prompt['embeddings']).all() and np.isfinite(scalars['loss'])
  assert np.isinf(scalars['prompt_drift']) and not scalars['is_finite']


def test_the_optimiser_holds_moments_for_the_prompt_alone(gpt2, tx, soft_prompt):
  _, params, _ = gpt2
  state = tx.init({'frozen': params, 'prompt': {'embeddings': soft_prompt}})
  shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert shapes == [soft_prompt.shape] * 2


def test_a_decay_draws_the_prompt_to_zero():
  tree = {'frozen': {'w': jnp.zeros(2)}, 'prompt': {'a': jnp.full((4, 5), 3.0)}}
  still = jax.tree.map(jnp.zeros_like, tree)
  for name in ('adamw', 'adafactor'):
    own = optim.resolve(name, **SETTINGS | {'weight_decay': 0.5})
    tx = optim.prompt_only(0.1, clip_norm=0, optimizer=own)
    updates, _ = tx.update(still, tx.init(tree), tree)
    expected = {'adamw': -0.1 * 0.5 * 3, 'adafactor': -0.5 * 3}[name]
    np.testing.assert_allclose(updates['prompt']['a'], expected, rtol=1e-6)


def test_adafactor_takes_steps_of_the_learning_rate_however_long_the_prompt_is():
  for scale in (1.0, 100.0):
    tree = {'frozen': {'w': jnp.zeros(2)}, 'prompt': {'a': jnp.full((4, 5), scale)}}
    tx = _optimizer('adafactor')
    updates, _ = tx.update(tree, tx.init(tree), tree)
    np.testing.assert_allclose(updates['prompt']['a'], -0.1, rtol=1e-4)


def _sgd(schedule):
  return optax.sgd(schedule)


def _nothing(schedule):
  del schedule


def _fails(schedule):
  return float(schedule)


def test_an_optimiser_of_ones_own_is_found_by_its_name():
  own = optim.resolve(f'{__name__}:_sgd', **SETTINGS)
  tree = {'frozen': {'w': jnp.ones(2)}, 'prompt': {'a': jnp.ones((4, 5))}}
  tx = optim.prompt_only(optax.constant_schedule(0.2), clip_norm=0, optimizer=own)
  updates, _ = tx.update(tree, tx.init(tree), tree)
  np.testing.assert_allclose(updates['prompt']['a'], -0.2)


@pytest.mark.parametrize(
  'name, message',
  [
    ('_nothing', '_nothing gives None; expected an optax.GradientTransformation'),
    ('_fails', '_fails fails: float()'),
    ('_missing', "which cannot be imported: module '"),
  ],
)
def test_an_optimiser_of_ones_own_that_cannot_be_used_is_one_line(name, message):
  with pytest.raises(errors.UserError, match=re.escape(message)):
    optim.resolve(f'{__name__}:{name}', **SETTINGS)(optax.constant_schedule(0.1))


def _noisy(schedule):
  return optax.noisy_sgd(schedule, key=jax.random.key(0))


def _reads(schedule):
  return optax.sgd(float(schedule(0)))


def _hungry(schedule):
  return optax.chain(optax.sgd(schedule), optax.contrib.reduce_on_plateau())


@pytest.mark.parametrize(
  'name, message',
  [
    ('_nothing', r'_nothing gives None; expected an optax\.GradientTransformation'),
    ('_noisy', '_noisy keeps a PRNG key'),
    ('_hungry', "_hungry fails: .*'value'"),
    ('_reads', '_reads fails: .*[Tt]race'),
  ],
)
def test_an_optimiser_of_ones_own_that_fails_in_a_step_is_one_line(name, message):
  name = f'{__name__}:{name}'
  own = optim.resolve(name, **SETTINGS)
  arrays = optim.pace_of(0.2, 0, 9), {'w': jnp.ones(2)}, {'a': jnp.ones((4, 5))}

  def tx_of(pace):
    schedule = optim.schedule('constant', pace)
    return optim.prompt_only(schedule, clip_norm=0, optimizer=own)

  with pytest.raises(errors.UserError, match=message):
    optim.try_on(name, tx_of, *arrays)
  own = optim.resolve(f'{__name__}:_sgd', **SETTINGS)
  optim.try_on(f'{__name__}:_sgd', tx_of, *arrays)


def test_raw_gradients_of_frozen_weights_do_not_reach_them(tx):
  tree = {'frozen': {'w': jnp.ones((2, 3))}, 'prompt': {'a': jnp.ones((4, 5))}}
  updates, _ = tx.update(tree, tx.init(tree), tree)
  np.testing.assert_array_equal(updates['frozen']['w'], 0)
  assert np.all(updates['prompt']['a'] != 0)


def test_the_prompts_gradient_alone_is_clipped(gpt2):
  """A huge gradient of the weights must not shrink the prompt's."""
  tx = optim.prompt_only(optax.constant_schedule(0.1), clip_norm=1.0)
  prompt = jnp.ones((4, 5))
  states = []
  for scale in (0.0, 1e9):
    tree = {'frozen': jnp.full((2, 3), scale), 'prompt': {'a': prompt}}
    _, state = tx.update(tree, tx.init(tree), tree)
    states.append(jax.tree.leaves(state))
  jax.tree.map(np.testing.assert_array_equal, *states)
  moments = [leaf for leaf in states[0] if leaf.shape == prompt.shape]
  np.testing.assert_allclose(jnp.linalg.norm(moments[0]), 0.1, rtol=1e-5)  # 1 - b1


def test_micro_batches_of_unequal_token_counts_equal_one_batch(
  gpt2, tx, soft_prompt, batch
):
  lm, params, _ = gpt2
  four = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), batch)
  whole, _ = _run(lm, params, tx, soft_prompt, [four])
  parts, scalars = _run(lm, params, tx, soft_prompt, [four], accumulate=2)
  jax.tree.map(close, parts.prompt, whole.prompt)
  np.testing.assert_allclose(parts.loss_sum, whole.loss_sum, rtol=1e-6)
  assert scalars['tokens'] == 9 + 7 + 9 + 3 * soft_prompt.shape[0]


@pytest.mark.perf
@pytest.mark.parametrize('accumulate', [1, 3])
def test_parts_of_a_batch_give_its_gradient_in_less_memory(
  gpt2, soft_prompt, batch, accumulate
):
  lm, params, _ = gpt2
  rows = jax.tree.map(lambda x: jnp.tile(x, (60, 1)), batch)  # 180
  gradient = jax.jit(steps.prompt_gradient, static_argnums=(0, 4, 6))
  prompt = {'embeddings': soft_prompt}
  arguments = lm, params, prompt, rows, accumulate, None
  whole, parts = (gradient.lower(*arguments, each).compile() for each in (None, 100))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    parts(params, prompt, rows, None),
    whole(params, prompt, rows, None),
  )
  held = [x.memory_analysis().temp_size_in_bytes for x in (parts, whole)]
  assert held[0] < held[1] / 2


@pytest.mark.parametrize(
  ('rows', 'length', 'prompt', 'suffix', 'accumulate', 'parts'),
  [
    (8, 400, 20, False, 1, 4),  # 800 tokens each
    (8, 400, 20, False, 8, 8),  # as few rows as were asked for
    (8, 79, 20, False, 1, 1),
    (8, 79, 1, True, 1, 1),  # 640 with the prompts, but no half of them
    (8, 159, 1, True, 1, 2),
    (12, 250, 20, False, 2, 4),  # a multiple of what was asked for
    (8, 400, 50, False, 1, 2),  # a longer prefix costs more a part
    (7, 640, 20, False, 1, 7),
  ],
)
def test_a_batch_is_cut_into_parts_of_enough_tokens(
  rows, length, prompt, suffix, accumulate, parts
):
  ids = np.zeros((rows, length), np.int32)
  batch = batch_lib.Batch(ids, ids > 0, ids, ids > 0, *[ids, ids > 0][: 2 * suffix])
  assert steps._parts(batch, prompt, accumulate, 640) == parts
  assert steps._parts(batch, prompt, accumulate, None) == accumulate


def test_rows_of_padding_change_nothing(gpt2, tx, soft_prompt, batch):
  lm, params, _ = gpt2
  real = jax.tree.map(lambda x: x[:2], batch)
  ragged, _ = _run(lm, params, tx, soft_prompt, [batch])
  plain, _ = _run(lm, params, tx, soft_prompt, [real])
  jax.tree.map(close, ragged.prompt, plain.prompt)


def test_the_step_is_traced_once_a_shape(gpt2, tx, soft_prompt, batch):
  lm, params, _ = gpt2
  traces = []

  def traced(state, params, batch):
    traces.append(batch.input_ids.shape)
    return steps.train_step(lm, tx, steps.Options(), state, params, batch)

  step = jax.jit(traced, donate_argnums=0)
  state = steps.init_state({'embeddings': soft_prompt}, params, tx)
  longer = batch_lib.Batch(
    jnp.pad(batch.input_ids, [(0, 0), (0, 2)]),
    jnp.pad(batch.attention_mask, [(0, 0), (0, 2)]),
    batch.target_positions,
    batch.loss_mask,
  )
  for each in (batch, longer, batch, longer, batch):
    state, _ = step(state, params, each)
  assert traces == [(3, 9), (3, 11)]


@pytest.mark.parametrize('kind', optim.SCHEDULES)
def test_schedules_rise_to_the_peak_then_decay(kind):
  rate = optim.schedule(kind, optim.pace_of(0.5, 4, 20))
  np.testing.assert_allclose([rate(i) for i in range(4)], [0.125, 0.25, 0.375, 0.5])
  decay = {
    'cosine': optax.cosine_decay_schedule(0.5, 16),
    'linear': optax.linear_schedule(0.5, 0.0, 16),
    'constant': optax.constant_schedule(0.5),
  }[kind]
  found = [rate(i) for i in range(4, 20)]
  np.testing.assert_allclose(found, [decay(i) for i in range(16)], rtol=1e-6)


def test_a_warmup_longer_than_the_run_only_rises():
  rate = optim.schedule('cosine', optim.pace_of(0.5, 10, 5))
  assert [float(rate(i)) for i in (0, 4)] == pytest.approx([0.05, 0.25])
