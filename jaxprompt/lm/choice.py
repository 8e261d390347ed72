"""Weights that a running program chooses from: a loop over blocks that copies none.

A loop over stacked weights would copy those of each block out of the stack, forward and
back. Here the loop holds a product with each of them, and runs the one that is chosen.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Choice(NamedTuple):
  """One of several weights alike, which one a running program knows."""

  index: jax.Array  # [] int32
  weights: tuple[jax.Array, ...]


def apply(function, x, weight):
  """Returns function(x, weight).

  Args:
    function: linear in x, but for what it adds or puts beside it.
    x: an array.
    weight: an array, or a `Choice` of frozen ones: they get no gradient.
  """
  if isinstance(weight, Choice):
    return _apply_chosen(function, x, weight)
  return function(x, weight)


# JAX's own derivative of a switch would return the weight of the branch, a copy of it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply_chosen(function, x, choice):
  return jax.lax.switch(choice.index, _branches(function, choice), x)


def _branches(function, choice):
  return [lambda x, weight=weight: function(x, weight) for weight in choice.weights]


def _forward(function, x, choice):
  return _apply_chosen(function, x, choice), (x, choice)


def _backward(function, residuals, cotangent):
  x, choice = residuals  # of x no more than the shape
  pulls = [jax.linear_transpose(f, x) for f in _branches(function, choice)]
  (gradient,) = jax.lax.switch(choice.index, pulls, cotangent)
  return gradient, None


_apply_chosen.defvjp(_forward, _backward)


def loop(step, weights, carry):
  """Applies blocks alike one after the other, by one program for all of them.

  Args:
    step: (weights of a block, carry) -> carry and what else the block returns. Of the
      weights, vectors are arrays and what is larger are `Choice`s.
    weights: a tree for each block.
    carry: what goes into the first.

  Returns:
    The carry after the last block, and a list of what else each of them returned.
  """
  structure = jax.tree.structure(weights[0])
  alike = list(zip(*map(jax.tree.leaves, weights), strict=True))
  vectors = [jnp.stack(each) for each in alike if each[0].ndim < 2]

  def body(carry, block):
    index, vectors = block
    vectors = iter(vectors)
    leaves = [
      next(vectors) if each[0].ndim < 2 else Choice(index, each) for each in alike
    ]
    return step(jax.tree.unflatten(structure, leaves), carry)

  carry, found = jax.lax.scan(body, carry, (jnp.arange(len(weights)), vectors))
  return carry, [jax.tree.map(lambda a, i=i: a[i], found) for i in range(len(weights))]
