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

from jaxprompt import errors
from jaxprompt.prompts import model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What the next token of every row sees, and where it goes.

  The S slots are those of prompt, source and new tokens.

  Rows may come in copies, as beams do, and under several prompts: B here counts them.
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


def sampling(temperature, top_k, top_p):
  """Returns the `Sampling` that is asked for, or None at temperature 0.

  Raises:
    UserError: if the others are of no use then.
  """
  if temperature:
    return Sampling(temperature, top_k, top_p)
  if top_k or top_p < 1:
    raise errors.UserError(
      '--top_k and --top_p are of sampling, which is off; set --temperature, 1 to draw '
      'as likely as the model says'
    )
  return None


class Options(NamedTuple):
  """How to generate; of the compiled program, not of a row.

  Attributes:
    max_new_tokens: the most tokens to generate.
    end_ids: the ids that end a text, such as a chat's end of turn; the first fills.
    beams: 1 for one token after the other; more for a beam search that ranks by mean
      log-likelihood.
    members: M, the prompts of a source. Of an ensemble, all M rows of a source get the
      same tokens, chosen by the mean of their log-probabilities.
    sampling: how to draw tokens; None = the most likely each. Beams do not draw.
    axis_name: of the devices that share the rows, if there are others. All go on until
      the last has ended: where they share weights too, a token is the work of several.
  """

  max_new_tokens: int
  end_ids: tuple[int, ...]
  beams: int = 1
  members: int = 1
  sampling: Sampling | None = None
  axis_name: str | None = None


def generate(
  lm, params, placement, input_ids, attention_mask, options, limits=None, seeds=None
):
  """Generates a continuation of every row.

  Args:
    lm: `lm.model.LanguageModel`.
    params: its weights.
    placement: `placement.Placement`, shared or of each row; of an ensemble, of B * M
      rows, those of a source's prompts next to each other.
    input_ids: [B, T] int32: source and newline, padded on either side.
    attention_mask: [B, T] bool; a row with no real token is padding, and ends at once.
    options: `Options`, static.
    limits: [B] int32: the most tokens for each row, if it is fewer; not for beams.
    seeds: [B] uint32, of sampling: a row's draws depend on its own seed alone.

  Returns:
    Token ids [B, max_new_tokens] int32, the first of `end_ids` after a row's end.
  """
  members, beams = options.members, options.beams
  first, state = prefill(
    lm,
    params,
    placement,
    jnp.repeat(input_ids, members, axis=0),
    jnp.repeat(attention_mask, members, axis=0),
    max_new_tokens=options.max_new_tokens,
    copies=beams,
  )
  first = _mean_of_members(first, members)

  def step(state, tokens):  # [B * K], each for the M rows of its source
    tokens = jnp.repeat(tokens.reshape(-1, beams), members, axis=0)  # [B * M, K]
    logits, state = advance(lm, params, state, tokens.reshape(-1))
    return _mean_of_members(logits, members, beams), state

  padding = ~jnp.any(attention_mask, axis=-1)  # [B]
  if beams > 1:
    return _beam_search(first, state, step, padding, options)
  choose = _likeliest
  if options.sampling:
    choose = functools.partial(_draw, options.sampling, jax.vmap(jax.random.key)(seeds))
  limits = options.max_new_tokens if limits is None else limits
  return _one_by_one(first, state, step, padding, options, limits=limits, choose=choose)


def prefill(
  lm, params, placement, input_ids, attention_mask, *, max_new_tokens, copies=1
):
  """Runs prompt and source, and copies each row's state `copies` times.

  Args: as `generate`.

  Returns:
    The logits of the first new token, [B, V] float32, and the `State` of
    B * copies rows, with room for `max_new_tokens`.
  """
  hidden, (keys_values, mask) = model.prompted_source(
    lm, params, placement, input_ids, attention_mask
  )
  logits = lm.next_token_logits(params, hidden)
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
  return lm.next_token_logits(params, hidden[:, 0]), state


def _mean_of_members(logits, members, copies=1):
  """Returns the mean over the M rows of a source, [B * M * K, V] -> [B * K, V].

  It is the mean of their log-probabilities, up to what all tokens have in common.
  """
  vocab = logits.shape[-1]
  return logits.reshape(-1, members, copies, vocab).mean(axis=1).reshape(-1, vocab)


def _anywhere(x, axis_name):
  """Returns whether any of x is true, on any device."""
  found = jnp.any(x)
  return found if axis_name is None else jax.lax.pmax(found, axis_name)


def _is_end(tokens, end_ids):
  return jnp.isin(tokens, jnp.asarray(end_ids, tokens.dtype))


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


def _one_by_one(logits, state, step, padding, options, *, limits, choose):
  """Chooses token after token until every row has ended or is at its limit."""

  def add(t, out, logits, ended):
    tokens = jnp.where(ended, options.end_ids[0], choose(t, logits)).astype(
      jnp.int32
    )  # [B]
    ended = ended | _is_end(tokens, options.end_ids) | (t + 1 >= limits)
    return out.at[:, t].set(tokens), tokens, ended

  def unfinished(carry):
    t, _, _, ended, _ = carry
    return (t < options.max_new_tokens) & _anywhere(~ended, options.axis_name)

  def body(carry):
    t, out, tokens, ended, state = carry
    logits, state = step(state, tokens)
    return t + 1, *add(t, out, logits, ended), state

  out = jnp.full((len(padding), options.max_new_tokens), options.end_ids[0], jnp.int32)
  carry = 1, *add(0, out, logits, padding), state
  return jax.lax.while_loop(unfinished, body, carry)[1]


def _beam_search(logits, state, step, padding, options):
  """Keeps the `beams` likeliest unfinished continuations, and as many finished ones.

  A finished one is ranked by its log-likelihood per token, the end of text among
  them. The search ends when no unfinished one can still overtake: its likelihood can
  only fall, so the best it can become is its present sum over the most tokens.
  """
  beams, (batch, vocab) = options.beams, logits.shape
  worst = jnp.finfo(jnp.float32).min

  def unfinished(carry):
    t, scores, _, _, _, done_scores, _ = carry
    overtakes = scores[:, 0] / options.max_new_tokens > done_scores[:, -1]
    goes_on = _anywhere(overtakes & ~padding, options.axis_name)
    return (t < options.max_new_tokens) & goes_on

  def body(carry):
    t, scores, live, tokens, state, done_scores, done = carry
    logits, state = step(state, tokens.reshape(-1))
    log_probs = jax.nn.log_softmax(logits).reshape(batch, beams, vocab)
    scores, live, tokens, parent, done_scores, done = _extend_beams(
      t, scores, log_probs, live, done_scores, done, options.end_ids
    )
    parent = jnp.repeat(parent, options.members, axis=0)  # [B * M, K]
    origin = (beams * jnp.arange(len(parent))[:, None] + parent).reshape(-1)
    # The beams of a row differ in their cache alone.
    cache = jax.tree.map(lambda x: x[origin], state.cache)
    state = dataclasses.replace(state, cache=cache)
    return t + 1, scores, live, tokens, state, done_scores, done

  # All beams of a row are the same before the first token: only one may count.
  scores = jnp.full((batch, beams), worst).at[:, 0].set(0.0)
  empty = jnp.full(
    (batch, beams, options.max_new_tokens), options.end_ids[0], jnp.int32
  )
  log_probs = jnp.repeat(jax.nn.log_softmax(logits)[:, None], beams, axis=1)
  none_done = jnp.full((batch, beams), worst)
  scores, live, tokens, _, done_scores, done = _extend_beams(
    0, scores, log_probs, empty, none_done, empty, options.end_ids
  )
  carry = 1, scores, live, tokens, state, done_scores, done
  carry = jax.lax.while_loop(unfinished, body, carry)
  _, scores, live, _, _, done_scores, done = carry
  # A row where too few ended in time is completed by what was still going on.
  scores = jnp.concatenate([done_scores, scores / options.max_new_tokens], axis=1)
  candidates = jnp.concatenate([done, live], axis=1)
  best = candidates[jnp.arange(batch), jnp.argmax(scores, axis=1)]  # [B, new]
  return jnp.where(padding[:, None], options.end_ids[0], best)


def _extend_beams(t, scores, log_probs, live, done_scores, done, end_ids):
  """Extends each row's K beams by token number t.

  Args:
    t: the number of the token.
    scores: [B, K], the summed log-probabilities of the live beams.
    log_probs: [B, K, V], of their next token.
    live: [B, K, new], their tokens.
    done_scores: [B, K], the mean log-probabilities of the finished ones.
    done: [B, K, new], their tokens.
    end_ids: the ids that end a text.

  Returns:
    The live beams' scores, tokens, last tokens [B, K], and which beam each came from
    [B, K]; scores and tokens of the finished ones.
  """
  batch, beams, vocab = log_probs.shape
  rows, worst = jnp.arange(batch)[:, None], jnp.finfo(jnp.float32).min
  totals = scores[..., None] + log_probs  # [B, K, V]
  # So many that K go on even if all that can end here do.
  candidates = min((1 + len(end_ids)) * beams, beams * vocab)  # C
  top, flat = jax.lax.top_k(totals.reshape(batch, -1), candidates)  # [B, C]
  parent, token = flat // vocab, (flat % vocab).astype(jnp.int32)
  sequences = live[rows, parent].at[:, :, t].set(token)  # [B, C, new]
  ends = _is_end(token, end_ids)
  final = jnp.where(ends, top / (t + 1), worst)
  done_scores = jnp.concatenate([done_scores, final], axis=1)
  done_scores, best = jax.lax.top_k(done_scores, beams)
  done = jnp.concatenate([done, sequences], axis=1)[rows, best]
  scores, kept = jax.lax.top_k(jnp.where(ends, worst, top), beams)  # [B, K]
  return (
    scores,
    sequences[rows, kept],
    token[rows, kept],
    parent[rows, kept],
    done_scores,
    done,
  )
