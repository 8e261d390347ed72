"""Rotary position embeddings: Su et al. 2021 (arXiv:2104.09864).

Frequencies are those of a head's pairs of places, in radians a position. Places beyond
the last pair are not turned.
"""

import jax.numpy as jnp
import numpy as np


def frequencies(base, size):
  """Returns the frequencies of the pairs of `size` places, [size / 2] float32."""
  exponents = np.arange(0, size, 2, dtype=np.float32) / size
  return float(base) ** -exponents


def llama3(
  frequencies,
  factor,
  low_freq_factor,
  high_freq_factor,
  original_max_position_embeddings,
):
  """Divides by the factor what turns less than `low_freq_factor` times in training.

  Frequencies that turn more than `high_freq_factor` times over the positions of the
  original training stay; between the two the divisor goes from one to the other. This
  is Llama 3.1's (transformers' `_compute_llama3_parameters`).
  """
  turns = original_max_position_embeddings * frequencies / (2 * np.pi)
  kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
  kept = np.clip(kept, 0, 1).astype(np.float32)
  return kept * frequencies + (1 - kept) * frequencies / np.float32(factor)


def angles(frequencies, position_ids):
  """Returns by what each pair of a head's places is turned, [..., pairs] float32.

  Args:
    frequencies: of each pair.
    position_ids: [...].
  """
  return position_ids[..., None] * np.asarray(frequencies, np.float32)


def turn(x, angles):
  """Turns queries or keys [N, heads, D] by their tokens' angles [N, pairs], in float32.

  A pair is a place of the first half of those that are turned and the same place of
  their second half.
  """
  pairs = angles.shape[-1]
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]  # [N, 1, pairs]
  first, second, rest = jnp.split(x.astype(jnp.float32), [pairs, 2 * pairs], axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin, rest]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)
