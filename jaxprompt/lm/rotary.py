"""Rotary position embeddings: Su et al. 2021 (arXiv:2104.09864)."""

import jax.numpy as jnp
import numpy as np


def angles(spec, position_ids):
  """Returns by what each pair of a head's places is turned, [..., D / 2] float32.

  Args:
    spec: `Spec` with a `rope_theta`.
    position_ids: [...].
  """
  exponents = np.arange(0, spec.head_dim, 2, dtype=np.float32) / spec.head_dim
  return position_ids[..., None] * spec.rope_theta**-exponents


def turn(x, angles):
  """Turns queries or keys [N, heads, D] by their tokens' angles [N, D / 2], in float32.

  A pair is a place of the head's first half and the same place of its second.
  """
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]  # [N, 1, D / 2]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)
