"""A deep model's blocks in a loop: the same numbers, by a program that hardly grows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from jaxprompt import steps
from jaxprompt.lm import blocks
from jaxprompt.lm import gpt2
from jaxprompt.lm import llama

WIDTH = 24


def _gpt2(depth):
  config = transformers.GPT2Config(
    vocab_size=320, n_embd=WIDTH, n_layer=depth, n_head=4, n_positions=48
  )
  stock = transformers.FlaxGPT2LMHeadModel(config, _do_init=False)
  return gpt2.from_config(config, np.float32), stock.params_shape_tree


def _llama(depth):
  config = transformers.LlamaConfig(
    vocab_size=320,
    hidden_size=WIDTH,
    intermediate_size=40,
    num_hidden_layers=depth,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=48,
  )
  stock = transformers.FlaxLlamaForCausalLM(config, _do_init=False)
  return llama.from_config(config, np.float32), stock.params_shape_tree


@pytest.fixture(params=[_gpt2, _llama])
def compile_gradient(request, batch, soft_prompt):
  """Compiles the step's gradient for a model of so many blocks, and draws weights."""

  def compiled(depth, batch=batch):
    lm, shapes = request.param(depth)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), dict(shapes)
    )
    gradient = jax.jit(steps.prompt_gradient, static_argnums=(0, 4))
    return gradient.lower(lm, params, soft_prompt, batch, 1).compile(), params

  return compiled


@pytest.fixture
def one_by_one(monkeypatch):
  """Has all blocks run one by one from now on, however many there are."""
  return lambda: monkeypatch.setattr(blocks, '_LOOPED_FROM', 99)


@pytest.mark.parametrize('position', ['prefix', 'suffix'])
def test_the_loss_and_the_gradient_are_those_of_blocks_one_by_one(
  compile_gradient, one_by_one, batch, soft_prompt, position
):
  if position == 'suffix':  # after a source, whose keys and values are chosen too
    batch = dataclasses.replace(
      batch,
      source_ids=batch.input_ids[:, 2:8],
      source_mask=batch.attention_mask[:, 2:8],
    )
  compiled, params = compile_gradient(9, batch)
  (nats, count), gradient = compiled(params, soft_prompt, batch)
  one_by_one()
  compiled, params = compile_gradient(9, batch)
  (expected, same), by_each = compiled(params, soft_prompt, batch)
  assert count == same
  np.testing.assert_allclose(nats, expected, rtol=1e-5)
  scale = float(jnp.abs(by_each).max())
  assert scale > 0
  np.testing.assert_allclose(gradient, by_each, rtol=1e-4, atol=1e-4 * scale)


def test_a_program_hardly_grows_with_the_blocks(compile_gradient, one_by_one):
  def operations(depth):
    return compile_gradient(depth)[0].as_text().count(' = ')

  looped = [operations(depth) for depth in (9, 18)]
  assert looped[1] < 1.3 * looped[0]
  one_by_one()
  assert operations(9) > 1.3 * looped[0]


def test_the_loop_copies_no_weights(compile_gradient, one_by_one):
  def temporary():
    compiled, params = compile_gradient(9)
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    return compiled.memory_analysis().temp_size_in_bytes, weights

  looped, weights = temporary()
  one_by_one()
  each, _ = temporary()
  assert looped - each < 0.1 * weights
