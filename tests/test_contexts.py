"""Contexts before a suffix prompt: kept or not, the numbers are the same."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from conftest import FAMILIES
from conftest import FIXTURES

from jaxprompt.data import contexts
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.training import optim
from jaxprompt.training import steps

ROWS, SOURCE, TARGET = 4, 7, 5


@pytest.fixture(params=FAMILIES[:2])
def frozen_layout(request):
  lm, params, *_ = loading.load(str(FIXTURES / request.param), 'float32')
  layout = devices.layout('jit', -1, 1)
  return lm, layout.place_params(lm, params), layout


def _batch(rng):
  def ids(length):
    return rng.integers(1, 300, (ROWS, length)).astype(np.int32)

  mask = np.arange(SOURCE) < rng.integers(3, SOURCE + 1, (ROWS, 1))
  ones = np.ones((ROWS, TARGET), bool)
  positions = np.tile(np.arange(TARGET, dtype=np.int32), (ROWS, 1))
  return batch_lib.Batch(ids(TARGET), ones, positions, ones, ids(SOURCE), mask)


def _train(frozen, batches, epochs, capacity, dtype='float32'):
  """Trains a prompt over the batches; returns it, and what was kept."""
  lm, params, layout = frozen
  kept = contexts.Contexts(lm, params, layout, dtype=dtype, capacity=capacity)
  tx = optim.prompt_only(0.05, clip_norm=1.0)

  def step(state, params, rows):
    options = steps.Options(2, devices.DATA)
    return steps.train_step(lm, tx, options, state, params, *rows)

  step = layout.spread(step)
  prompt = np.random.default_rng(3).normal(size=(3, lm.spec.width)).astype(np.float32)
  state = layout.replicate(
    jax.device_get(steps.init_state({'embeddings': prompt}, params, tx))
  )
  for _ in range(epochs):
    for key, batch in batches.items():
      context = kept.get(key, batch.source_ids, batch.source_mask)
      state, _ = step(state, params, (layout.place_rows(batch), context))
  return np.asarray(state.prompt['embeddings']), kept


def test_a_prompt_is_the_same_bit_for_bit_however_many_contexts_are_kept(frozen_layout):
  rng = np.random.default_rng(0)
  batches = {key: _batch(rng) for key in (5, 2, 9)}
  train = functools.partial(_train, frozen_layout, batches, 2)
  prompt, all_kept = train(10**9)
  assert len(all_kept) == 3
  for capacity, number in ((0, 0), (all_kept.kept_bytes - 1, 2)):
    again, kept = train(capacity)
    np.testing.assert_array_equal(again, prompt)
    assert len(kept) == number and kept.kept_bytes <= capacity


def test_kept_contexts_give_the_gradient_of_a_source_run_with_the_step(frozen_layout):
  lm, params, layout = frozen_layout
  batch = _batch(np.random.default_rng(1))
  kept = contexts.Contexts(lm, params, layout, dtype='float32', capacity=10**9)
  prompt = np.random.default_rng(3).normal(size=(3, lm.spec.width)).astype(np.float32)
  prompt = {'embeddings': prompt}
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  gradient = jax.jit(steps.prompt_gradient, static_argnums=(0, 4))
  expected = gradient(lm, params, prompt, batch, 1)
  for _ in range(2):  # computed, then kept
    context = kept.get(0, batch.source_ids, batch.source_mask)
    found = gradient(lm, params, prompt, batch, 1, context)
    jax.tree.map(close, found, expected)


def test_bfloat16_contexts_take_half_the_memory_and_keep_the_prompt_near(frozen_layout):
  batches = {0: _batch(np.random.default_rng(0))}
  prompt, whole = _train(frozen_layout, batches, 2, 10**9)
  rounded_prompt, half = _train(frozen_layout, batches, 2, 10**9, 'bfloat16')
  assert 0.5 < half.kept_bytes / whole.kept_bytes < 0.52  # the masks are as they were
  np.testing.assert_allclose(rounded_prompt, prompt, atol=0.02)


def test_the_budget_is_in_gigabytes_or_a_third_of_what_is_free(monkeypatch):
  assert contexts.capacity(0.5) == 500_000_000
  free = type('Memory', (), {'available': 9_000})
  monkeypatch.setattr(psutil, 'virtual_memory', lambda: free)
  monkeypatch.setattr(contexts, 'free_of_limits', lambda root: 12_000)
  assert contexts.capacity(-1) == 3_000
  monkeypatch.setattr(contexts, 'free_of_limits', lambda root: 6_000)
  assert contexts.capacity(-1) == 2_000


@pytest.mark.parametrize(
  'own, files, free',
  [
    ('0::/', {'memory.max': '900\n', 'memory.current': '300\n'}, 600),
    ('0::/', {'memory.max': 'max\n', 'memory.current': '300\n'}, math.inf),
    ('0::/', {'memory.max': '900\n', 'memory.current': '950\n'}, 0),
    ('0::/', {}, math.inf),
    # Of a group and those that hold it, the one that leaves the least.
    (
      '0::/job/step',
      {
        'job/step/memory.max': 'max',
        'job/step/memory.current': '100',
        'job/memory.max': '500',
        'job/memory.current': '200',
      },
      300,
    ),
    # Version 1; a container's own group is the root of what it sees.
    (
      '4:cpu,memory:/docker/1a2b\n1:cpu:/other',
      {'memory/memory.limit_in_bytes': '800', 'memory/memory.usage_in_bytes': '100'},
      700,
    ),
    # Files that were read are in a group's use, and give way.
    (
      '0::/job',
      {
        'job/memory.max': '500',
        'job/memory.current': '450',
        'job/memory.stat': 'anon 30\ninactive_file 400\nactive_file 20\n',
      },
      450,
    ),
    (
      '4:memory:/',
      {
        'memory/memory.limit_in_bytes': '800',
        'memory/memory.usage_in_bytes': '790',
        'memory/memory.stat': 'inactive_file 3\ntotal_inactive_file 400\n',
      },
      410,
    ),
    (
      '4:memory:/\n1:cpu:/other',
      {
        'memory/memory.limit_in_bytes': '800',
        'memory/memory.usage_in_bytes': '100',
        'memory/other/memory.limit_in_bytes': '1',
        'memory/other/memory.usage_in_bytes': '1',
      },
      700,
    ),
  ],
)
def test_limits_of_containers_and_jobs_are_seen(tmp_path, own, files, free):
  files = {f'sys/fs/cgroup/{name}': text for name, text in files.items()}
  for name, text in {**files, 'proc/self/cgroup': own}.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  assert contexts.free_of_limits(tmp_path) == free


def test_a_system_without_control_groups_has_no_limits(tmp_path):
  assert contexts.free_of_limits(tmp_path) == math.inf


def test_contexts_of_a_bfloat16_model_are_kept_as_they_are(frozen_layout):
  lm, params, _ = frozen_layout
  batch = _batch(np.random.default_rng(0))
  half = dataclasses.replace(lm, dtype=jnp.bfloat16)
  run = functools.partial(contexts.compute, half, 'float32')
  context = jax.eval_shape(run, params, (batch.source_ids, batch.source_mask))
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(context.keys_values))
