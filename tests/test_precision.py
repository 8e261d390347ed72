"""Matrix products are as precise as the config says, on every kind of device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CHECKPOINT

from jaxprompt import config as config_lib
from jaxprompt.devices import devices
from jaxprompt.lm import loading
from jaxprompt.prompts import placement
from jaxprompt.prompts import prompt
from jaxprompt.runs import programs
from jaxprompt.runs import setup
from jaxprompt.training import steps

_PRODUCT = re.compile(
  r'stablehlo\.dot_general .*precision = \[(\w+), (\w+)\].*: \(tensor<\S*x(\w+)>'
)


def _stated(dtype, precision, kind, position):
  """Returns the precisions of all products of a run's programs, by the program."""
  config = config_lib.default('qa')
  config.prompt.update(kind=kind, position=position)
  layout = devices.layout('jit', -1, 1)
  _, lm, _ = loading.describe(str(CHECKPOINT), dtype)
  lm = lm.on(layout.platform, precision)
  params = setup.abstract_params(lm, layout)
  sizes = programs.Sizes(train=(20, 6), evaluation=(20, 6), source=14)
  given = (config, lm, layout, params, sizes)
  found = {}
  for program in (*programs.of_run(*given), programs.of_predict(*given)):
    text = program.traced().lower().as_text()
    matches = _PRODUCT.findall(text)
    assert len(matches) == text.count('stablehlo.dot_general') > 0
    found[program.name] = {each for *both, _ in matches for each in both}
  return found


@pytest.mark.parametrize(
  ('kind', 'position'),
  [('embedding', 'prefix'), ('deep', 'suffix'), ('residual', 'prefix')],
)
def test_every_product_of_a_float32_model_is_in_float32(kind, position):
  found = _stated('float32', 'highest', kind, position)
  assert {'train step', 'losses', 'generation'} < found.keys()
  assert set.union(*found.values()) == {'HIGHEST'}


@pytest.mark.parametrize(
  ('dtype', 'precision'), [('float32', 'default'), ('bfloat16', 'highest')]
)
def test_other_products_are_left_to_the_device(dtype, precision):
  found = _stated(dtype, precision, 'embedding', 'suffix')
  assert set.union(*found.values()) == {'DEFAULT'}


def test_a_cpu_computes_in_float32_either_way(batch, soft_prompt):
  lm, params, *_ = loading.load(str(CHECKPOINT), 'float32')
  placed = placement.place(soft_prompt, 'prefix')
  found = [
    jax.jit(functools.partial(steps.row_losses, lm.on('cpu', precision)))(
      params, placed, batch
    )
    for precision in ('highest', 'default')
  ]
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_nearest_tokens_are_compared_in_float32():
  table, soft_prompt = jnp.ones((7, 4)), jnp.ones((2, 4))
  nearest = jax.jit(prompt.nearest_tokens, static_argnums=2)
  ((*both, _),) = _PRODUCT.findall(nearest.lower(soft_prompt, table, 3).as_text())
  assert both == ['HIGHEST', 'HIGHEST']
