"""The devices that JAX finds: as exact as a CPU, as small as compiled, and busy.

  python -m pytest -m accelerator

takes minutes and is no part of the suite. On a machine that has a CPU alone, it is
compared with itself.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_figures
from conftest import CHECKPOINT
from conftest import FAMILIES
from conftest import FIXTURES
from conftest import train_step

from jaxprompt.devices import compiled as compiled_lib
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.lm import model as model_lib
from jaxprompt.lm.families import gpt2
from jaxprompt.training import loop
from jaxprompt.training import optim
from jaxprompt.training import steps

pytestmark = pytest.mark.accelerator


@pytest.mark.parametrize('family', FAMILIES)
def test_logits_gradients_and_tokens_are_those_of_pytorch_on_a_cpu(family):
  lm, params, *_ = loading.load(str(FIXTURES / family), 'float32')
  expected = torch_figures.stored(family)
  lm = lm.on(jax.devices()[0].platform, 'highest')
  found = torch_figures.computed(lm, params, expected)
  for name in ('loss', 'bare_logits', 'prompt_gradient'):
    np.testing.assert_allclose(found[name], expected[name], 1e-4, 1e-4, err_msg=name)
  np.testing.assert_array_equal(found['greedy_ids'], expected['greedy_ids'])


def _losses(device, dtype, batch, soft_prompt):
  """Returns the losses of 20 steps on one device."""
  layout = devices.layout('jit', 1, 1, devices=[device])
  lm, params, *_ = loading.load(str(CHECKPOINT), dtype, layout.placements)
  tx = optim.prompt_only(0.05, clip_norm=1.0)
  lm = lm.on(layout.platform, 'highest')
  step = loop.train_program(lm, layout, lambda _: tx, 1)
  state = steps.init_state({'embeddings': soft_prompt}, params, tx)
  state = layout.replicate(jax.device_get(state))
  rows, found = layout.place_rows((jax.device_get(batch), None)), []
  for _ in range(20):
    state, scalars = step(state, (params, ()), rows)
    found.append(float(scalars['loss']))
  return found


@pytest.mark.parametrize(('dtype', 'apart'), [('float32', 1e-4), ('bfloat16', 0.03)])
def test_twenty_steps_have_a_cpus_losses(dtype, apart, batch, soft_prompt):
  own, cpu = (
    _losses(device, dtype, batch, soft_prompt)
    for device in (jax.devices()[0], jax.devices('cpu')[0])
  )
  assert own[-1] < own[0]
  np.testing.assert_allclose(own, cpu, rtol=apart)


def _array(shape):
  """Returns an array of a shape; numbers of no interest, and no padding."""
  key = jax.random.key(len(shape.shape))
  if jnp.issubdtype(shape.dtype, jnp.floating):
    array = 0.02 * jax.random.normal(key, shape.shape, shape.dtype)
  else:
    array = jnp.ones(shape.shape, shape.dtype)
  return jax.device_put(array, shape.sharding)


@pytest.fixture(scope='module')
def step():
  """A step's compiled program and its arguments, and the operations that it does.

  Of GPT-2 small in bfloat16, 8 rows of 256 tokens; on a CPU, of a smaller one.
  """
  layout = devices.layout('jit', 1, 1, devices=jax.devices()[:1])
  small = layout.platform == 'cpu'
  config = {'model_type': 'gpt2', 'n_layer': 3 if small else 12}
  lm = model_lib.LanguageModel(
    gpt2.read_config('', config), jnp.float32 if small else jnp.bfloat16
  ).on(layout.platform, 'highest')
  rows = 1 if small else 8
  program = train_step(lm, layout, rows=rows, prompt=20, tokens=256, targets=32)
  traced = program.traced()
  state, *others = program.arguments
  state = jax.tree.map(lambda x: jnp.zeros_like(x, device=x.sharding), state)
  operations = compiled_lib.operations(traced, layout)
  arguments = (state, *jax.tree.map(_array, others))
  return traced.lower().compile(), arguments, operations


@pytest.fixture
def say(capsys):
  """Prints a line that pytest shows."""

  def show(text):
    with capsys.disabled():
      print(f'\n{jax.devices()[0].device_kind}: {text}')

  return show


def _seconds(call, times):
  """Returns the median time of a call, after one that is not counted."""
  found = []
  for _ in range(1 + times):
    began = time.perf_counter()
    jax.block_until_ready(call())
    found.append(time.perf_counter() - began)
  return statistics.median(found[1:])


def test_a_step_is_at_least_a_tenth_as_fast_as_a_product_of_its_shapes(step, say):
  compiled, (state, shared, rows), operations = step
  states = [state]  # the last one, since a step gives its own away

  def take():
    own, scalars = compiled(states.pop(), shared, rows)
    states.append(own)
    return scalars

  taken = operations / _seconds(take, 10)
  params, _ = shared
  table = params['transformer']['wte']['embedding']
  tokens, width = rows[0].input_ids.size, table.shape[1]
  left = jnp.ones((tokens, width), table.dtype)
  right = jnp.ones((width, 4 * width), table.dtype)
  product = jax.jit(lambda: jnp.matmul(left, right, precision='highest'))
  at_best = 2 * left.size * right.shape[1] / _seconds(product, 20)
  say(f'a step at {taken / 1e12:.2f} TFLOP/s, a product at {at_best / 1e12:.2f}')
  assert taken > at_best / 10


def test_a_step_takes_the_memory_that_was_compiled_for_it(step, say):
  stats = jax.devices()[0].memory_stats()
  if stats is None:
    pytest.skip('a CPU does not say what its arrays take')
  compiled = step[0]
  expected, peak = compiled_lib.memory(compiled).peak, stats['peak_bytes_in_use']
  say(f'{peak / 1e9:.2f} GB at peak, {expected / 1e9:.2f} as compiled')
  assert peak < 1.5 * expected
