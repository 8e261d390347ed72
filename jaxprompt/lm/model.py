"""The frozen language model: pure functions of its weights, for every family.

A sequence is run in one of three ways: whole (`sequence`), after keys and values that
were kept (`after`), or one token that is written into a cache (`step`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.lm import attention
from jaxprompt.lm import modules
from jaxprompt.lm import products
from jaxprompt.lm import rotary
from jaxprompt.lm import spec as spec_lib


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A causal language model without its weights, which each function takes first.

  Position ids are [B, T]. A mask is True at the keys of real tokens, [B, S]; a token
  sees those up to its own. Keys and values are a tuple of (keys, values) of every
  block, each [B, G, S, D] with G the heads that have their own.
  """

  spec: spec_lib.Spec
  dtype: Any  # of the computation
  tokens: int | None = None  # of the tokenizer; the table may be padded; None = all
  end_ids: tuple[int, ...] = ()  # those that end a text, the tokenizer's own first
  precision: jax.lax.Precision | None = None  # of all products
  dot_general: Callable = jax.lax.dot_general  # of those with the weights

  def on(self, platform, precision):
    """Returns the model with its products as a kind of device is to compute them.

    Args:
      platform: 'cpu', 'gpu' or 'tpu'.
      precision: a key of `products.PRECISIONS`, for a model in float32. Products of
        bfloat16 lose nothing that could be kept.
    """
    exact = products.PRECISIONS[precision] if self.dtype == jnp.float32 else None
    return dataclasses.replace(
      self, precision=exact, dot_general=products.dot_general(platform, exact)
    )

  def embed(self, params, ids):
    """Returns the embeddings of ids [...], [..., H]."""
    embeds = self._table(params)[ids]
    if self.spec.embedding_scale is None:
      return embeds
    return embeds * jnp.asarray(self.spec.embedding_scale, embeds.dtype)

  def vocabulary(self, params):
    """Returns the embeddings of all ids that the tokenizer has, [tokens, H]."""
    return self.embed(params, jnp.arange(self.tokens or self.spec.vocab_size))

  def logits(self, params, hidden):
    """Applies the head to hidden states [..., H]; returns [..., V] float32."""
    if self.spec.tied:
      table, axis = self._table(params), 1  # [V, H]
    else:
      table, axis = params[self.spec.names.head]['kernel'], 0  # [H, V]
    contracted = (((hidden.ndim - 1,), (axis,)), ((), ()))
    logits = self.dot_general(
      hidden, table, contracted, preferred_element_type=jnp.float32
    )
    cap = self.spec.logit_cap
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def next_token_logits(self, params, hidden):
    """Returns `logits` of which no id that the tokenizer lacks can be chosen."""
    logits = self.logits(params, hidden)
    if self.tokens in (None, self.spec.vocab_size):
      return logits
    return jnp.where(jnp.arange(self.spec.vocab_size) < self.tokens, logits, -jnp.inf)

  def sequence(
    self, params, embeds, position_ids, mask, soft_prompt=None, outputs=None
  ):
    """Runs a whole sequence.

    Args:
      params: the weights.
      embeds: [B, T, H].
      position_ids: [B, T].
      mask: [B, P + T].
      soft_prompt: [P, H] that stands before every row, from position 0 on, and is run
        once for all of them; or None, and P is 0.
      outputs: [B, N], the positions of T whose hidden states are wanted; None = all.

    Returns:
      Final hidden states [B, N, H] or [B, T, H]; keys and values, S = P + T.
    """
    streams = [(embeds, position_ids)]
    if soft_prompt is not None:
      # In the rows' own products: the weights are read once, and the program is a third
      # shorter.
      streams.insert(0, (soft_prompt[None], jnp.arange(len(soft_prompt))[None]))
    return self._run(params, streams, mask, outputs=outputs)

  def after(self, params, embeds, position_ids, mask, cache, outputs=None):
    """Runs tokens after others whose keys and values were kept.

    Args: as `sequence`, and
      mask: [B, S + T].
      cache: parts of the S tokens, in order: of every block, keys and values
        [B, G, s, D], or [1, G, s, D] if they are the same for all rows.

    Returns:
      As `sequence`; the keys and values are those of all S + T tokens.
    """
    return self._run(
      params, [(embeds, position_ids)], mask, cache=cache, outputs=outputs
    )

  def step(self, params, embeds, position_ids, mask, cache, slot):
    """Runs one token a row, [B, 1, H], and writes its keys and values into the cache.

    Args: as `sequence`, and
      mask: [B, S], True at the token's own slot, False at those after.
      cache: keys and values, each [B, G, S, D].
      slot: [] int32, of S.

    Returns:
      Hidden states [B, 1, H], and the cache.
    """
    extend = functools.partial(attention.write, slot)
    return self._run(
      params, [(embeds, position_ids)], mask, cache=[cache], extend=extend
    )

  def _table(self, params):
    names = self.spec.names
    return params[names.root][names.embedding]['embedding']

  def _run(
    self, params, streams, mask, *, cache=(), outputs=None, extend=attention.append
  ):
    """Runs (embeddings, position ids) of each stream side by side, the rows last."""
    own = params[self.spec.names.root]
    shapes = [x.shape[:2] for x, _ in streams]
    # The first block takes the streams apart: what the prompt does not reach there is
    # not differentiated. From then on the tokens of all are one long row.
    parts = [_flat(self._enter(own, *stream)) for stream in streams]
    angles = self._angles([_flat(position_ids) for _, position_ids in streams])
    windows = dict.fromkeys(self.spec.windows)
    run_block = {window: self._block(shapes, extend, window) for window in windows}
    weights = own[self.spec.names.blocks]
    caches = list(zip(*cache, strict=True)) or [()] * len(weights)
    kept = []
    for i, own_cache in enumerate(caches):
      wanted = outputs if i == len(caches) - 1 else None
      turned = list(zip(parts, angles[self.spec.rotary[i]], strict=True))
      x, keys_values = run_block[self.spec.windows[i]](
        weights[str(i)], turned, mask, own_cache, wanted
      )
      kept.append(keys_values)
      parts = [x]
      if i == 0:
        angles = {key: [modules.joined(each)] for key, each in angles.items()}
    batch, length = shapes[-1] if outputs is None else outputs.shape
    x = x[-batch * length :].reshape(batch, length, -1)
    final_norm = modules.norm(self.spec, self.dtype)
    final = {'params': own[self.spec.names.final_norm]}
    return final_norm.apply(final, x), tuple(kept)

  def _enter(self, own, embeds, position_ids):
    """Returns what goes into the first block."""
    if self.spec.names.positions is None:
      return embeds
    table = own[self.spec.names.positions]['embedding']
    return embeds + table[position_ids]

  def _angles(self, positions):
    """Returns {frequencies of `Spec.rotary`: the angles of each stream's tokens}."""
    return {
      frequencies: [
        None if frequencies is None else rotary.angles(frequencies, position_ids)
        for position_ids in positions
      ]
      for frequencies in dict.fromkeys(self.spec.rotary)
    }

  def _block(self, shapes, extend, window):
    """Returns (weights, parts, mask, cache, outputs) -> x [M, H], keys and values.

    The backward pass keeps the outputs of the weights' products and computes the rest
    again (attention weights, activations, norms): a fifth less memory, as fast.
    """
    spec = self.spec
    block = modules.Block(spec, self.dtype, self.dot_general)
    divisor = spec.query_divisor or spec.head_dim**0.5
    rule = attention.Rule(divisor, spec.score_cap, window, self.precision)

    def run(weights, parts, mask, cache, outputs):
      def mix(projected):
        streams = _by_stream(projected, shapes)
        return attention.mix(streams, mask, cache, outputs, extend, rule)

      def keep(x):
        if outputs is None:
          return x
        batch, length = shapes[-1]
        rows = x[-batch * length :].reshape(batch, length, -1)
        return _flat(jnp.take_along_axis(rows, outputs[:, :, None], axis=1))

      return block.apply({'params': weights}, parts, mix, keep)

    policy = jax.checkpoint_policies.save_only_these_names(modules.PRODUCT)
    return jax.checkpoint(run, policy=policy)


def _flat(x):
  """Puts the tokens of all rows in one: [B, T, ...] -> [B * T, ...]."""
  return x.reshape(-1, *x.shape[2:])


def _by_stream(projected, shapes):
  """Returns query, key and value of each stream, [b, heads, t, D].

  Args:
    projected: those of the streams' tokens, [n, heads, D]; or of all tokens in one.
    shapes: (b, t) of each stream.
  """
  if len(projected) != len(shapes):
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    (projected,) = projected
    projected = zip(*(jnp.split(each, ends) for each in projected), strict=True)
  return [
    [each.reshape(*shape, *each.shape[1:]).swapaxes(1, 2) for each in parts]
    for parts, shape in zip(projected, shapes, strict=True)
  ]


def shapes(lm):
  """Returns the weights' shapes, a tree of `jax.ShapeDtypeStruct`."""
  spec, names = lm.spec, lm.spec.names
  x = np.zeros((1, spec.width), np.float32)
  block = modules.Block(spec, jnp.float32, jax.lax.dot_general)
  attended = np.zeros((1, spec.heads * spec.head_dim))

  def init(module, *args):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *args)['params'])

  def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  one_block = init(block, [(x, None)], lambda _: (attended, ()), lambda x: x)
  own = {
    names.embedding: {'embedding': array(spec.vocab_size, spec.width)},
    names.blocks: {str(i): one_block for i in range(spec.blocks)},
    names.final_norm: init(modules.norm(spec, jnp.float32), x),
  }
  if names.positions:
    own[names.positions] = {'embedding': array(spec.max_positions, spec.width)}
  if spec.tied:
    return {names.root: own}
  return {names.root: own, names.head: {'kernel': array(spec.width, spec.vocab_size)}}
