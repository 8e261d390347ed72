"""Attention with windows and soft caps, against the plain definition."""

import jax
import numpy as np
import pytest

from jaxprompt.lm import attention


def _plain(query, key, value, seen, rule):
  """Softmax attention of [heads, T, D] over [G, S, D] where `seen` [T, S]."""
  heads, length, width = query.shape
  out = np.zeros((length, heads, width))
  for head in range(heads):
    group = head // (heads // len(key))
    scores = query[head] @ key[group].T / rule.divisor
    if rule.cap:
      scores = rule.cap * np.tanh(scores / rule.cap)
    weights = np.where(seen, np.exp(scores), 0)
    out[:, head] = (
      weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30) @ value[group]
    )
  return out.reshape(length, heads * width)


@pytest.mark.parametrize(
  'window, cap', [(None, None), (5, None), (40, 2.0), (999, 2.0)]
)
@pytest.mark.parametrize('queries', ['all', 'some', 'last'])
def test_a_window_counts_real_tokens_wherever_padding_is(window, cap, queries):
  rng = np.random.default_rng(0)
  batch, heads, groups, length, width = 2, 4, 2, 290, 6  # two blocks of queries
  query = rng.normal(size=(batch, heads, length, width)).astype(np.float32)
  key, value = rng.normal(size=(2, batch, groups, length, width)).astype(np.float32)
  mask = rng.random((batch, length)) < 0.7  # padding in the middle, too
  mask[:, -1] = True
  rule = attention.Rule(1.7, cap, window)
  slots = {
    'all': None,
    'some': np.tile([11, 200, 289], (batch, 1)),
    'last': None,
  }[queries]
  at = {'all': np.arange(length), 'some': slots, 'last': [length - 1]}[queries]
  at = np.broadcast_to(at, (batch, np.shape(at)[-1]))
  chosen = np.take_along_axis(query, at[:, None, :, None], axis=2)
  # Many queries have the parts joined, few do not.
  parts = [(key[:, :, own], value[:, :, own]) for own in np.s_[:200, 200:]]
  found = jax.jit(attention.attend, static_argnums=3)(chosen, parts, mask, rule, slots)
  count = np.cumsum(mask, axis=1)
  for row in range(batch):
    own = at[row][:, None]
    seen = mask[row] & (np.arange(length) <= own)
    seen &= count[row] > count[row][own] - (window or length)
    real = mask[row][at[row]]
    expected = _plain(chosen[row], key[row], value[row], seen, rule)
    np.testing.assert_allclose(found[row][real], expected[real], atol=1e-5)


@pytest.mark.parametrize('before, own, apart', [(3, 5, False), (5, 3, True)])
def test_keys_before_the_queries_own_are_joined_with_them_if_they_are_few(
  before, own, apart
):
  """A prefix of training is; a source before a suffix, which is long, is not copied."""

  def attend(query, *parts):
    mask = np.ones((2, before + own), bool)
    return attention.attend(query, parts, mask, attention.Rule(2.0))

  query = np.zeros((2, 1, 3, 8), np.float32)
  parts = [(np.zeros((2, 1, n, 8), np.float32),) * 2 for n in (before, own)]
  program = str(jax.make_jaxpr(attend)(query, *parts))
  assert program.count('dot_general[') == (4 if apart else 2)


def test_a_token_that_is_written_amid_the_cache_sees_the_window_before_itself():
  """As in generation: its slot is the last real one, later ones are free."""
  rng = np.random.default_rng(1)
  batch, heads, keys, width = 2, 3, 9, 4
  query = rng.normal(size=(batch, heads, 1, width)).astype(np.float32)
  key, value = rng.normal(size=(2, batch, heads, keys, width)).astype(np.float32)
  mask = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0, 0]], bool)
  rule = attention.Rule(2.0, None, window=3)
  found = attention.attend(query, [(key, value)], mask, rule)
  for row, seen in enumerate([[4, 5, 6], [2, 3, 6]]):
    only = np.isin(np.arange(keys), seen)[None]
    expected = _plain(query[row], key[row], value[row], only, rule)
    np.testing.assert_allclose(found[row], expected, atol=1e-5)
