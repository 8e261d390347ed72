"""The prompted model: equal to PyTorch, to hard prompts, and to itself unpadded."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_figures
import transformers
from conftest import FAMILIES
from conftest import FIXTURES
from conftest import flax_class

from jaxprompt.lm import loading
from jaxprompt.lm import model as lm_model
from jaxprompt.lm import products
from jaxprompt.prompts import batch as batch_lib
from jaxprompt.prompts import model
from jaxprompt.prompts import placement
from jaxprompt.training import steps

# Compiled whole: op by op, a test would compile dozens of programs.
prompt_gradient = jax.jit(steps.prompt_gradient, static_argnums=(0, 4))
source_context = jax.jit(model.source_context, static_argnums=0)
hidden_states = jax.jit(model.hidden_states, static_argnums=0)


def _placed(soft_prompt, batch):
  apart = batch.source_ids is not None
  return placement.place(soft_prompt, 'suffix' if apart else 'prefix')


@functools.partial(jax.jit, static_argnums=0)
def row_losses(lm, params, soft_prompt, batch):
  return steps.row_losses(lm, params, _placed(soft_prompt, batch), batch)


@functools.partial(jax.jit, static_argnums=0)
def target_logits(lm, params, soft_prompt, batch):
  placed = _placed(soft_prompt, batch)
  return lm.logits(params, model.target_hidden(lm, params, placed, batch))


@pytest.fixture(scope='module', params=FAMILIES)
def with_torch(request):
  """What a checkpoint's model computes, and what PyTorch does."""
  lm, params, *_ = loading.load(str(FIXTURES / request.param), 'float32')
  expected = torch_figures.stored(request.param)
  return torch_figures.computed(lm, params, expected), expected


@pytest.mark.parametrize('name', ['bare_logits', 'loss'])
def test_logits_and_loss_equal_pytorchs(with_torch, name):
  found, expected = with_torch
  np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_the_prompts_gradient_equals_pytorchs(with_torch):
  found, expected = (each['prompt_gradient'] for each in with_torch)
  np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_greedy_tokens_with_a_cache_are_pytorchs_without(with_torch):
  found, expected = (each['greedy_ids'] for each in with_torch)
  np.testing.assert_array_equal(found, expected)


def test_rows_of_the_table_beyond_the_tokenizer_are_padding(gpt2):
  lm, params, tokenizer = gpt2
  tokens = len(tokenizer)
  assert tokens < lm.spec.vocab_size
  table = lm.vocabulary(params)
  np.testing.assert_array_equal(table, lm.embed(params, jnp.arange(tokens)))
  hidden = jnp.ones((2, lm.spec.width))
  logits = lm.next_token_logits(params, hidden)
  np.testing.assert_array_equal(logits[:, tokens:], -np.inf)
  np.testing.assert_array_equal(
    logits[:, :tokens], lm.logits(params, hidden)[:, :tokens]
  )


STOCK = {
  'gpt2': 'FlaxGPT2LMHeadModel',
  'llama': 'FlaxLlamaForCausalLM',
  'llama_untied': 'FlaxLlamaForCausalLM',
}


@pytest.mark.parametrize('family', STOCK)
def test_the_weights_are_a_tree_of_transformers_own_flax_model(family):
  config = transformers.AutoConfig.from_pretrained(FIXTURES / family)
  stock = flax_class(STOCK[family])(config, _do_init=False).params_shape_tree
  lm = loading.load(str(FIXTURES / family), 'float32').lm
  expected = dict(jax.tree.map(lambda x: x.shape, stock))
  if config.tie_word_embeddings:
    expected.pop('lm_head', None)  # the stock Llama is never tied
  assert jax.tree.map(lambda x: x.shape, lm_model.shapes(lm)) == expected


def test_gpt2_computes_what_transformers_flax_gpt2_does(gpt2):
  lm, params, _ = gpt2
  config = transformers.AutoConfig.from_pretrained(FIXTURES / 'gpt2')
  stock = flax_class('FlaxGPT2LMHeadModel')(config, _do_init=False)
  ids = jnp.asarray([[7, 81, 300, 12, 45], [9, 200, 11, 11, 11]])
  mask = jnp.asarray([[True] * 5, [True] * 2 + [False] * 3])
  hidden, _ = hidden_states(lm, params, lm.embed(params, ids), mask)
  expected = stock(ids, mask, params=params).logits
  real = np.asarray(mask)
  np.testing.assert_allclose(
    lm.logits(params, hidden)[real], expected[real], rtol=1e-5, atol=1e-5
  )


@pytest.mark.perf
@pytest.mark.parametrize(('tokens', 'weight_left'), [(1, True), (4, True), (50, False)])
def test_a_cpu_multiplies_few_tokens_with_the_weight_on_the_left(tokens, weight_left):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, tokens, 5)).astype(np.float32)
  weight = rng.normal(size=(7, 5)).astype(np.float32)
  dot_general = products.dot_general('cpu', None)
  product = jax.jit(lambda x, weight: dot_general(x, weight, (((2,), (1,)), ((), ()))))
  compiled = product.lower(x, weight).compile()
  np.testing.assert_allclose(compiled(x, weight), x @ weight.T, rtol=1e-5, atol=1e-6)
  shape = (7, 3 * tokens) if weight_left else (3 * tokens, 7)
  assert f'f32[{shape[0]},{shape[1]}]{{1,0}} dot(' in compiled.as_text()


def test_a_soft_prompt_of_a_texts_embeddings_is_that_hard_prompt(frozen, batch):
  lm, params, _ = frozen
  text = jnp.asarray([17, 250, 3, 99])
  soft = lm.embed(params, text)
  as_soft = target_logits(lm, params, soft, batch)
  rows = batch.input_ids.shape[0]
  in_front = jnp.tile(text, (rows, 1))
  as_text = target_logits(
    lm,
    params,
    jnp.zeros((0, lm.spec.width)),
    dataclasses.replace(
      batch,
      input_ids=jnp.concatenate([in_front, batch.input_ids], axis=1),
      attention_mask=jnp.concatenate(
        [jnp.ones(in_front.shape, bool), batch.attention_mask], axis=1
      ),
      target_positions=batch.target_positions + len(text),
    ),
  )
  np.testing.assert_allclose(as_soft[:2], as_text[:2], atol=1e-5)


@pytest.mark.perf
def test_the_prompt_shares_the_rows_products_from_the_second_block_on(
  frozen, soft_prompt, batch
):
  lm, params, _ = frozen

  def products(soft_prompt):
    compiled = row_losses.lower(lm, params, soft_prompt, batch).compile()
    lines = compiled.as_text().splitlines()
    return sum(' dot(' in line and 'batch_dims' not in line for line in lines)

  of_its_own = products(soft_prompt) - products(soft_prompt[:0])
  assert 1 <= of_its_own <= 3  # query, key and value of the first block


def _suffix(batch, source):
  """The same rows with the prompt after the first `source` tokens."""
  return batch_lib.Batch(
    input_ids=batch.input_ids[:, source:],
    attention_mask=batch.attention_mask[:, source:],
    target_positions=jnp.where(batch.loss_mask, batch.target_positions - source, 1),
    loss_mask=batch.loss_mask,
    source_ids=batch.input_ids[:, :source],
    source_mask=batch.attention_mask[:, :source],
  )


def test_a_suffix_prompt_is_that_text_between_source_and_target(frozen, batch):
  lm, params, _ = frozen
  text, source = jnp.asarray([17, 250, 3, 99]), 5
  rows = batch.input_ids.shape[0]

  def between(x, y):
    y = jnp.tile(y, (rows, 1))
    return jnp.concatenate([x[:, :source], y, x[:, source:]], axis=1)

  as_text = target_logits(
    lm,
    params,
    jnp.zeros((0, lm.spec.width)),
    dataclasses.replace(
      batch,
      input_ids=between(batch.input_ids, text),
      attention_mask=between(batch.attention_mask, jnp.ones(len(text), bool)),
      target_positions=batch.target_positions + len(text),
    ),
  )
  soft = lm.embed(params, text)
  as_soft = target_logits(lm, params, soft, _suffix(batch, source))
  real = np.asarray(batch.loss_mask)
  np.testing.assert_allclose(as_soft[real], as_text[real], atol=2e-5)


def test_a_context_kept_from_before_gives_the_same_loss_and_gradient(
  frozen, soft_prompt, batch
):
  lm, params, _ = frozen
  suffix = _suffix(batch, 5)
  kept = source_context(lm, params, suffix.source_ids, suffix.source_mask)
  with_kept, without = (
    prompt_gradient(lm, params, {'embeddings': soft_prompt}, suffix, 1, before)
    for before in (kept, None)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, with_kept, without)


@pytest.mark.perf
def test_some_tokens_logits_exist_at_a_time_and_once(frozen, monkeypatch):
  monkeypatch.setattr(model, '_HEAD_TOKENS', 64)
  lm, params, _ = frozen
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((5, 50, lm.spec.width)), jnp.float32)
  ids = jnp.asarray(rng.integers(0, lm.spec.vocab_size, (5, 50)))

  def in_parts(hidden):
    return jnp.sum(model.token_losses(lm, params, hidden, ids))

  def at_once(hidden):
    own = jax.nn.log_softmax(lm.logits(params, hidden))
    return -jnp.sum(jnp.take_along_axis(own, ids[..., None], axis=-1))

  parts, whole = (
    jax.jit(jax.value_and_grad(loss)).lower(hidden).compile()
    for loss in (in_parts, at_once)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, parts(hidden), whole(hidden))
  logits = 4 * 64 * lm.spec.vocab_size  # bytes
  assert parts.memory_analysis().temp_size_in_bytes < 2 * logits + 2 * hidden.nbytes


@pytest.mark.parametrize('pad_id', [0, 5, 319])
@pytest.mark.parametrize('left, right', [(3, 0), (0, 4), (2, 1)])
def test_padding_changes_nothing(frozen, soft_prompt, left, right, pad_id):
  lm, params, _ = frozen
  ids = jnp.asarray([[7, 81, 300, 12, 45, 6]], jnp.int32)
  targets = jnp.asarray([[4, 5]])
  ones = jnp.ones((1, 2), bool)
  plain = batch_lib.Batch(ids, jnp.ones(ids.shape, bool), targets, ones)
  pads = [(0, 0), (left, right)]
  padded = batch_lib.Batch(
    jnp.pad(ids, pads, constant_values=pad_id),
    jnp.pad(plain.attention_mask, pads),
    targets + left,
    ones,
  )
  np.testing.assert_allclose(
    target_logits(lm, params, soft_prompt, padded),
    target_logits(lm, params, soft_prompt, plain),
    atol=1e-5,
  )


def test_a_row_of_padding_alone_counts_nothing_and_is_finite(
  frozen, soft_prompt, batch
):
  lm, params, _ = frozen
  nats, counts = row_losses(lm, params, soft_prompt, batch)
  np.testing.assert_array_equal(counts, [4, 2, 0])
  assert nats[2] == 0
  _, gradient = prompt_gradient(lm, params, {'embeddings': soft_prompt}, batch, 1)
  assert np.isfinite(gradient['embeddings']).all()


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_keeps_logits_in_float32_and_the_loss_close(family):
  lm, params, *_ = loading.load(str(FIXTURES / family), 'bfloat16')
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}
  expected = torch_figures.stored(family)
  rows, soft_prompt = torch_figures.rows(expected), expected['soft_prompt']
  of_prompt = functools.partial(target_logits, lm, params)
  logits = jax.eval_shape(of_prompt, soft_prompt, rows)
  assert logits.dtype == jnp.float32
  nats, counts = row_losses(lm, params, soft_prompt, rows)
  np.testing.assert_allclose(nats.sum() / counts.sum(), expected['loss'], rtol=0.01)
