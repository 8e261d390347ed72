"""Where a prompt stands: the same tokens in the same order, shared or a row's own."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.prompts import placement

PROMPT = jax.random.normal(jax.random.key(0), (2, 7))  # [P, H]
EMBEDS = jnp.arange(3 * 4 * 7, dtype=jnp.bfloat16).reshape(3, 4, 7)  # [B, T, H]
MASK = jnp.asarray([[True, True, False, False]] * 3)


def test_a_shared_prefix_is_left_to_be_run_once():
  placed = placement.place(PROMPT, 'prefix')
  prefix, embeds, mask = placement.around(placed, EMBEDS, MASK)
  np.testing.assert_array_equal(prefix, PROMPT)
  np.testing.assert_array_equal(embeds, EMBEDS)
  np.testing.assert_array_equal(mask, MASK)


def test_a_shared_suffix_comes_after_every_source_and_before_every_target():
  placed = placement.place(PROMPT, 'suffix')
  prefix, embeds, mask = placement.around(placed, EMBEDS, MASK)
  assert prefix is None
  assert embeds.shape == (3, 6, 7) and embeds.dtype == jnp.bfloat16
  for row in embeds:
    np.testing.assert_array_equal(row[4:], PROMPT.astype(jnp.bfloat16))
  assert mask.tolist() == [[True, True, False, False, True, True]] * 3
  embeds, mask = placement.before_targets(placed, EMBEDS, MASK)
  for row in embeds:
    np.testing.assert_array_equal(row[:2], PROMPT.astype(jnp.bfloat16))
  assert mask.tolist() == [[True, True, True, True, False, False]] * 3


def test_each_rows_own_prompt_is_padded_and_masked():
  prompts = [(PROMPT, 'prefix'), (PROMPT[:1], 'suffix'), (PROMPT[:0], 'prefix')]
  stacked = placement.stack([placement.place(*each) for each in prompts])
  prefix, embeds, mask = placement.around(stacked, EMBEDS, MASK)
  assert prefix is None and embeds.shape == (3, 2 + 4 + 1, 7)
  source = [True, True, False, False]
  assert mask.tolist() == [
    [True, True, *source, False],
    [False, False, *source, True],
    [False, False, *source, False],
  ]
  np.testing.assert_array_equal(embeds[0, :2], PROMPT.astype(jnp.bfloat16))
  np.testing.assert_array_equal(embeds[1, -1], PROMPT[0].astype(jnp.bfloat16))
