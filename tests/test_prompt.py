"""The soft prompt by itself: how it begins, how it joins, what it is near to."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.prompts import prompt

TABLE = jax.random.normal(jax.random.key(0), (50, 7)) * 0.1 + 0.3  # [V, H]


def test_a_text_is_cut_or_repeated_to_the_length():
  for length, ids in ((2, [4, 9]), (3, [4, 9, 1]), (7, [4, 9, 1, 4, 9, 1, 4])):
    found = prompt.from_text(TABLE, length, text_ids=[4, 9, 1])
    np.testing.assert_array_equal(found, TABLE[jnp.asarray(ids)])


def test_sampled_vocabulary_is_of_the_table_and_repeats_with_the_key():
  one, two, other = (
    prompt.from_vocab(TABLE, 6, rng=jax.random.key(k)) for k in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)
  assert all(any(np.array_equal(row, known) for known in TABLE) for row in one)


def test_random_prompts_have_the_tables_own_scale():
  found = prompt.from_normal(TABLE, 4000, rng=jax.random.key(1))
  np.testing.assert_allclose(found.mean(axis=0), TABLE.mean(axis=0), atol=0.01)
  np.testing.assert_allclose(found.std(axis=0), TABLE.std(axis=0), atol=0.01)


def test_a_prompt_of_a_texts_embeddings_is_nearest_to_that_text():
  text = jnp.asarray([4, 9, 1])
  ids, cosines, norms = prompt.nearest_tokens(3 * TABLE[text], TABLE, 5)
  assert ids.shape == cosines.shape == (3, 5)
  np.testing.assert_array_equal(ids[:, 0], text)
  np.testing.assert_allclose(cosines[:, 0], 1.0, rtol=1e-5)
  assert np.all(np.diff(cosines) <= 0)
  table_norms = jnp.linalg.norm(TABLE, axis=1)
  np.testing.assert_allclose(
    norms, 3 * table_norms[text] / table_norms.mean(), rtol=1e-5
  )
