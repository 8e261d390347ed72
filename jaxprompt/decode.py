"""Generation with a KV cache: greedy, sampled or by beams, whole or token by token.

Prompt and source are run once (`prefill`); then each token is one pass of one
position over the cache (`advance`). Rows are padded to one length: a new token goes
into the same cache slot in every row, while its position id counts the row's own real
tokens. All functions can be jitted.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprompt import model
from jaxprompt import prompt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What the next token of every row sees, and where it goes.

  The S slots are those of prompt, source and new tokens.

  Rows may come in copies, as beams do: B here counts them.
  """

  cache: tuple  # keys and values of every block, each [B, G, S, D]
  mask: jax.Array  # [B, S] bool: the slots that hold a real token
  positions: jax.Array  # [B] int32: the next token's position id
  slot: jax.Array  # [] int32: the next token's slot


class Sampling(NamedTuple):
  """How tokens are drawn: from the likeliest `top_k`, of them the likeliest `top_p`."""

  temperature: float  # divides the logits
  top_k: int = 0  # tokens; 0 = all
  top_p: float = 1.0  # the least probability that those kept have together


def generate(
  lm,
  params,
  soft_prompt,
  input_ids,
  attention_mask,
  *,
  position,
  max_new_tokens,
  beams,
  eos_id,
  axis_name=None,
):
  """Generates a continuation of every row: the most likely token each, or beams.

  Args:
    lm: `lm.model.LanguageModel`.
    params: its weights.
    soft_prompt: [P, H].
    input_ids: [B, T] int32: source and newline, padded on either side.
    attention_mask: [B, T] bool; a row with no real token is padding, and ends at once.
    position: 'prefix' or 'suffix', where the prompt stands to the source.
    max_new_tokens: the most tokens to generate.
    beams: 1 for greedy; more for a beam search that ranks by mean log-likelihood.
    eos_id: the end of text.
    axis_name: of the devices that share the rows, if there are others. All go on until
      the last has ended: where they share weights too, a token is the work of several.

  Returns:
    Token ids [B, max_new_tokens] int32, `eos_id` from a row's end on.
  """
  logits, state = prefill(
    lm,
    params,
    soft_prompt,
    input_ids,
    attention_mask,
    position=position,
    max_new_tokens=max_new_tokens,
    copies=beams,
  )
  search = _search(beams, max_new_tokens, _likeliest)
  return _go_on(
    search, lm, params, logits, state, attention_mask, max_new_tokens, eos_id, axis_name
  )


def generate_each(
  lm,
  params,
  frames,
  limits,
  seeds,
  input_ids,
  attention_mask,
  *,
  max_new_tokens,
  beams,
  sampling,
  eos_id,
  axis_name=None,
):
  """Generates as `generate` does, under a prompt and a limit of each row's own.

  Args:
    frames: `prompt.Frames` of B prompts, one a row.
    limits: [B] int32: the most tokens for each row; beams take `max_new_tokens` alone.
    seeds: [B] uint32: a row's draws depend on its own seed alone, not on the batch.
    sampling: `Sampling`, or None for the most likely token each, or beams.

  The other arguments and the result are those of `generate`.
  """
  embeds = lm.embed(params, input_ids)
  embeds, mask = prompt.surround(frames, embeds, attention_mask)
  logits, state = _begin(lm, params, embeds, mask, max_new_tokens, beams)
  choose = _likeliest
  if sampling:
    choose = functools.partial(_draw, sampling, jax.vmap(jax.random.key)(seeds))
  search = _search(beams, limits, choose)
  return _go_on(
    search, lm, params, logits, state, attention_mask, max_new_tokens, eos_id, axis_name
  )


def _search(beams, limits, choose):
  """Returns how to search: by beams, or choosing one token after the other."""
  if beams > 1:
    return functools.partial(_beam_search, beams=beams)
  return functools.partial(_one_by_one, limits=limits, choose=choose)


def _go_on(
  search, lm, params, logits, state, attention_mask, max_new_tokens, eos_id, axis_name
):
  """Generates from a prefilled state; a row with no real token ends at once."""
  step = functools.partial(advance, lm, params)
  padding = ~jnp.any(attention_mask, axis=-1)  # [B]
  return search(logits, state, step, padding, max_new_tokens, eos_id, axis_name)


def prefill(
  lm,
  params,
  soft_prompt,
  input_ids,
  attention_mask,
  *,
  position,
  max_new_tokens,
  copies=1,
):
  """Runs prompt and source, and copies each row's state `copies` times.

  Args: as `generate`.

  Returns:
    The logits of the first new token, [B, V] float32, and the `State` of
    B * copies rows, with room for `max_new_tokens`.
  """
  if position == 'suffix':
    in_front = {'before': model.source_context(lm, params, input_ids, attention_mask)}
    none = input_ids[:, :0]
    embeds, mask = prompt.prepend(soft_prompt, lm.embed(params, none), none > 0)
  else:
    in_front = {'soft_prompt': soft_prompt}
    embeds, mask = lm.embed(params, input_ids), attention_mask
  return _begin(lm, params, embeds, mask, max_new_tokens, copies, **in_front)


def _begin(lm, params, embeds, mask, max_new_tokens, copies, **in_front):
  """Runs embeddings, after what `model.hidden_states` takes; returns as `prefill`."""
  length = mask.shape[1]
  last = length - 1 - jnp.argmax(mask[:, ::-1], axis=-1)  # [B]: the last real token
  hidden, (keys_values, mask) = model.hidden_states(
    lm, params, embeds, mask, outputs=last[:, None], **in_front
  )
  logits = lm.logits(params, hidden[:, 0])

  slot = mask.shape[1]  # the first new one
  # Room for the new tokens: [B, G, P + T + new, D].
  room = [(0, 0), (0, 0), (0, max_new_tokens), (0, 0)]
  cache = jax.tree.map(
    lambda x: jnp.repeat(jnp.pad(x, room), copies, axis=0), keys_values
  )
  mask = jnp.repeat(jnp.pad(mask, [(0, 0), (0, max_new_tokens)]), copies, axis=0)
  positions = jnp.sum(mask, axis=-1, dtype=jnp.int32)
  return logits, State(cache, mask, positions, jnp.int32(slot))


def advance(lm, params, state, tokens):
  """Feeds every row its next token, [B]; returns the logits [B, V] and the state."""
  embeds = lm.embed(params, tokens[:, None])  # [B, 1, H]
  mask = state.mask.at[:, state.slot].set(True)
  hidden, cache = lm.step(
    params, embeds, state.positions[:, None], mask, state.cache, state.slot
  )
  state = State(cache, mask, state.positions + 1, state.slot + 1)
  return lm.logits(params, hidden[:, 0]), state


def _anywhere(x, axis_name):
  """Says whether any of x is true, on any device."""
  found = jnp.any(x)
  return found if axis_name is None else jax.lax.pmax(found, axis_name)


def _likeliest(t, logits):
  """Returns the token [B] of each row for its logits [B, V]."""
  del t
  return jnp.argmax(logits, axis=-1)


def _draw(sampling, rngs, t, logits):
  """Draws token number `t` of each row, with the row's own key of `rngs` [B]."""
  logits = logits / sampling.temperature
  if sampling.top_k or sampling.top_p < 1:
    top_k = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    ordered, _ = jax.lax.top_k(logits, top_k)  # [B, top_k]
    shares = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(shares, axis=-1) - shares  # what the likelier ones have
    kept = jnp.where(before < sampling.top_p, ordered, jnp.inf)
    logits = jnp.where(logits < kept.min(axis=-1, keepdims=True), -jnp.inf, logits)
  # By token id, not by rank: ranks of equally unlikely tokens swap with rounding.
  return jax.vmap(jax.random.categorical)(
    jax.vmap(jax.random.fold_in, (0, None))(rngs, t), logits
  )


def _one_by_one(
  logits, state, step, ended, max_new_tokens, eos_id, axis_name, *, limits, choose
):
  """Chooses token after token until every row has ended or is at its limit."""

  def add(t, out, logits, ended):
    tokens = jnp.where(ended, eos_id, choose(t, logits)).astype(jnp.int32)  # [B]
    ended = ended | (tokens == eos_id) | (t + 1 >= limits)
    return out.at[:, t].set(tokens), tokens, ended

  def unfinished(carry):
    t, _, _, ended, _ = carry
    return (t < max_new_tokens) & _anywhere(~ended, axis_name)

  def body(carry):
    t, out, tokens, ended, state = carry
    logits, state = step(state, tokens)
    return t + 1, *add(t, out, logits, ended), state

  out = jnp.full((len(ended), max_new_tokens), eos_id, jnp.int32)
  carry = 1, *add(0, out, logits, ended), state
  return jax.lax.while_loop(unfinished, body, carry)[1]


def _beam_search(
  logits, state, step, padding, max_new_tokens, eos_id, axis_name, *, beams
):
  """Keeps the `beams` likeliest unfinished continuations, and as many finished ones.

  A finished one is ranked by its log-likelihood per token, the end of text among
  them. The search ends when no unfinished one can still overtake: its likelihood can
  only fall, so the best it can become is its present sum over the most tokens.
  """
  batch, vocab = logits.shape
  rows = jnp.arange(batch)[:, None]  # [B, 1]
  worst = jnp.finfo(jnp.float32).min

  def extend(t, scores, log_probs, live, done_scores, done):
    """From log-probabilities [B, K, V] of token t to the next live and done sets."""
    totals = scores[..., None] + log_probs  # [B, K, V]
    # Twice the beams: even if `beams` of them end here, as many go on.
    top, flat = jax.lax.top_k(totals.reshape(batch, -1), 2 * beams)  # [B, 2K]
    parent, token = flat // vocab, (flat % vocab).astype(jnp.int32)
    sequences = live[rows, parent].at[:, :, t].set(token)  # [B, 2K, new]
    ends = token == eos_id
    final = jnp.where(ends, top / (t + 1), worst)
    done_scores = jnp.concatenate([done_scores, final], axis=1)
    done_scores, best = jax.lax.top_k(done_scores, beams)
    done = jnp.concatenate([done, sequences], axis=1)[rows, best]
    scores, go_on = jax.lax.top_k(jnp.where(ends, worst, top), beams)  # [B, K]
    return (
      scores,
      sequences[rows, go_on],
      token[rows, go_on],
      parent[rows, go_on],
      done_scores,
      done,
    )

  def unfinished(carry):
    t, scores, _, _, _, done_scores, _ = carry
    overtakes = scores[:, 0] / max_new_tokens > done_scores[:, -1]
    return (t < max_new_tokens) & _anywhere(overtakes & ~padding, axis_name)

  def body(carry):
    t, scores, live, tokens, state, done_scores, done = carry
    logits, state = step(state, tokens.reshape(-1))
    log_probs = jax.nn.log_softmax(logits).reshape(batch, beams, vocab)
    scores, live, tokens, parent, done_scores, done = extend(
      t, scores, log_probs, live, done_scores, done
    )
    origin = (rows * beams + parent).reshape(-1)  # [B * K]
    # The beams of a row differ in their cache alone.
    cache = jax.tree.map(lambda x: x[origin], state.cache)
    state = dataclasses.replace(state, cache=cache)
    return t + 1, scores, live, tokens, state, done_scores, done

  # All beams of a row are the same before the first token: only one may count.
  scores = jnp.full((batch, beams), worst).at[:, 0].set(0.0)
  empty = jnp.full((batch, beams, max_new_tokens), eos_id, jnp.int32)
  log_probs = jnp.repeat(jax.nn.log_softmax(logits)[:, None], beams, axis=1)
  none_done = jnp.full((batch, beams), worst)
  scores, live, tokens, _, done_scores, done = extend(
    0, scores, log_probs, empty, none_done, empty
  )
  carry = 1, scores, live, tokens, state, done_scores, done
  carry = jax.lax.while_loop(unfinished, body, carry)
  _, scores, live, _, _, done_scores, done = carry
  # A row where too few ended in time is completed by what was still going on.
  scores = jnp.concatenate([done_scores, scores / max_new_tokens], axis=1)
  candidates = jnp.concatenate([done, live], axis=1)
  best = candidates[jnp.arange(batch), jnp.argmax(scores, axis=1)]  # [B, new]
  return jnp.where(padding[:, None], eos_id, best)
