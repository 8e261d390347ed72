"""Generation: the cache, padding and beams against the plain definitions."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.data import collate
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.prompts import kinds
from jaxprompt.prompts import model
from jaxprompt.prompts import placement

EOS = 0
OPTIONS = decode.Options(max_new_tokens=6, end_ids=(EOS,))
_generate = jax.jit(decode.generate, static_argnames=('lm', 'options'))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(lm, params, soft_prompt, ids, mask):
  in_front = jnp.ones((1, len(soft_prompt)), bool)
  embeds = jnp.concatenate([soft_prompt[None], lm.embed(params, ids)], axis=1)
  mask = jnp.concatenate([in_front, mask], axis=1)
  hidden, _ = model.hidden_states(lm, params, embeds, mask)
  last = jnp.sum(mask) - 1
  return jax.nn.log_softmax(lm.next_token_logits(params, hidden[0, last]))


def _next_log_probs(lm, params, soft_prompt, ids):
  """Log-probabilities [V] of the next token from the whole text, without a cache.

  Of several prompts together: their mean, normalised.
  """
  if isinstance(soft_prompt, tuple):
    each = [_next_log_probs(lm, params, own, ids) for own in soft_prompt]
    return np.asarray(jax.nn.log_softmax(np.mean(each, axis=0)))
  padded, mask = collate.pad([ids], 16, 1, pad_id=EOS)
  return np.asarray(_log_probs(lm, params, soft_prompt, padded, mask))


def _uncached_greedy(lm, params, soft_prompt, ids, new_tokens):
  out = []
  while len(out) < new_tokens and EOS not in out:
    log_probs = _next_log_probs(lm, params, soft_prompt, [*ids, *out])
    out.append(int(log_probs.argmax()))
  return out + [EOS] * (new_tokens - len(out))


@pytest.fixture(scope='module')
def generate(frozen):
  """Greedy generation of six tokens, compiled once per shape."""
  lm, params, _ = frozen
  return functools.partial(_generate, lm, params, options=OPTIONS)


def test_cached_decoding_equals_uncached_for_rows_of_different_lengths(
  frozen, soft_prompt, generate
):
  lm, params, _ = frozen
  rows = [[7, 81, 300, 12, 45], [9, 200], [33, 4, 150, 6]]
  for side in ('left', 'right'):
    ids, mask = np.full((3, 5), 11, np.int32), np.zeros((3, 5), bool)
    for i, row in enumerate(rows):
      at = slice(5 - len(row), 5) if side == 'left' else slice(0, len(row))
      ids[i, at], mask[i, at] = row, True
    out = generate(placement.place(soft_prompt, 'prefix'), ids, mask)
    for i, row in enumerate(rows):
      expected = _uncached_greedy(lm, params, soft_prompt, row, 6)
      np.testing.assert_array_equal(out[i], expected, err_msg=f'{side}, row {i}')


def test_a_suffix_prompt_decodes_as_that_prompt_placed_after_the_source_by_hand(
  frozen, generate
):
  lm, params, _ = frozen
  rows, prompt_ids = [[7, 81, 300, 12, 45], [9, 200]], [17, 250, 3]
  soft_prompt = lm.embed(params, jnp.asarray(prompt_ids))
  ids, mask = collate.pad(rows, 5, 2, pad_id=11)
  out = generate(placement.place(soft_prompt, 'suffix'), ids, mask)
  none = jnp.zeros((0, lm.spec.width))
  for i, row in enumerate(rows):
    expected = _uncached_greedy(lm, params, none, [*row, *prompt_ids], 6)
    np.testing.assert_array_equal(out[i], expected, err_msg=f'row {i}')


def test_a_row_ends_at_the_end_of_text_and_a_padding_row_at_once(frozen, generate):
  lm, params, _ = frozen
  ids = np.asarray([[7, 81, 300], [1, 1, 1]], np.int32)
  mask = np.asarray([[True] * 3, [False] * 3])
  prompt = jnp.zeros((2, lm.spec.width))
  first = _uncached_greedy(lm, params, prompt, ids[0].tolist(), 2)
  options = decode.Options(max_new_tokens=4, end_ids=(first[1],))
  out = _generate(lm, params, placement.place(prompt, 'prefix'), ids, mask, options)
  assert out[0].tolist() == [first[0], *[first[1]] * 3]
  assert out[1].tolist() == [first[1]] * 4


def test_any_end_of_text_ends_a_row_and_the_first_of_them_fills(gpt2):
  lm, params, _ = gpt2
  ids, mask = np.asarray([[7, 81, 300]], np.int32), np.ones((1, 3), bool)
  none = jnp.zeros((0, lm.spec.width))
  first = _uncached_greedy(lm, params, none, ids[0].tolist(), 1)
  for beams in (1, 2):
    options = decode.Options(4, end_ids=(5, first[0]), beams=beams)
    out = _generate(lm, params, placement.place(none, 'prefix'), ids, mask, options)
    if beams == 1:
      assert out[0].tolist() == [first[0], 5, 5, 5]
    assert evaluate.until_end(np.asarray(out), options.end_ids)[0] != [first[0]]


@dataclasses.dataclass(frozen=True)
class _MarkovModel:
  """A model whose next token depends on the last alone, by a table [V][V]."""

  log_probs: tuple

  def embed(self, params, ids):
    return jax.nn.one_hot(ids, len(self.log_probs))

  def sequence(
    self, params, embeds, position_ids, mask, soft_prompt=None, outputs=None
  ):
    entry = jnp.zeros((embeds.shape[0], 1, mask.shape[1], 1))
    if outputs is not None:
      embeds = jnp.take_along_axis(embeds, outputs[:, :, None], axis=1)
    return embeds, ((entry, entry),)

  def step(self, params, embeds, position_ids, mask, cache, slot):
    return embeds, cache

  def next_token_logits(self, params, hidden):
    return hidden @ jnp.asarray(self.log_probs)


def _markov_model(log_probs):
  return _MarkovModel(tuple(map(tuple, np.asarray(log_probs, np.float32).tolist())))


@pytest.mark.parametrize('seed', range(8))
def test_a_wide_beam_finds_the_likeliest_sequence_per_token(seed):
  vocab, new_tokens = 3, 4
  logits = 2 * np.random.default_rng(seed).normal(size=(vocab, vocab))
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  best, best_score = None, -np.inf
  for tokens in itertools.product(range(vocab), repeat=new_tokens):
    length = tokens.index(EOS) + 1 if EOS in tokens else new_tokens
    steps = zip((2, *tokens), tokens[:length], strict=False)
    score = sum(log_probs[a, b] for a, b in steps) / length
    if score > best_score + 1e-9:
      best, best_score = [*tokens[:length], *[EOS] * (new_tokens - length)], score
  out = decode.generate(
    _markov_model(log_probs),
    {},
    placement.place(jnp.zeros((0, vocab)), 'prefix'),
    jnp.asarray([[1, 2]]),
    jnp.ones((1, 2), bool),
    decode.Options(new_tokens, (EOS,), beams=vocab**new_tokens),
  )
  assert out[0].tolist() == best


def test_as_many_beams_go_on_where_a_text_has_several_ends():
  worst = float(np.finfo(np.float32).min)
  log_probs = np.log(np.tile([0.3, 0.25, 0.2, 0.14, 0.11], (1, 2, 1)))
  scores, none = jnp.asarray([[0, worst]]), jnp.full((1, 2), worst)
  blank = jnp.zeros((1, 2, 3), jnp.int32)
  ends = (0, 1, 2)
  _, live, last, *_ = decode._extend_beams(
    0, scores, jnp.asarray(log_probs), blank, none, blank, ends
  )
  assert last.tolist() == [[3, 4]]
  assert live[0, :, 0].tolist() == [3, 4]


def _uncached_beams(lm, params, soft_prompt, source, new_tokens, beams):
  """Beam search on whole sequences: the likeliest per token of all that it saw end."""
  live, done = [(0.0, [])], []
  for length in range(1, new_tokens + 1):
    options = []
    for score, tokens in live:
      log_probs = _next_log_probs(lm, params, soft_prompt, [*source, *tokens])
      options += [(score + log_probs[i], [*tokens, i]) for i in range(len(log_probs))]
    options = sorted(options, reverse=True)[: 2 * beams]
    done += [(s / length, t) for s, t in options if t[-1] == EOS]
    live = [(s, t) for s, t in options if t[-1] != EOS][:beams]
  done += [(score / new_tokens, tokens) for score, tokens in live]
  best = max(done)[1]
  return best + [EOS] * (new_tokens - len(best))


def test_cached_beams_equal_uncached_beams(frozen):
  lm, params, _ = frozen
  rng = np.random.default_rng(3)
  prompt = jnp.zeros((0, lm.spec.width))
  rows = [rng.integers(1, 320, length).tolist() for length in (5, 3, 5, 4, 2, 5)]
  ids, mask = collate.pad(rows, 5, len(rows), pad_id=EOS)
  bare = placement.place(prompt, 'prefix')
  beams = _generate(lm, params, bare, ids, mask, decode.Options(6, (EOS,), beams=3))
  greedy = _generate(lm, params, bare, ids, mask, OPTIONS)
  for i, row in enumerate(rows):
    expected = _uncached_beams(lm, params, prompt, row, 6, 3)
    np.testing.assert_array_equal(beams[i], expected, err_msg=f'row {i}')
  assert not np.array_equal(beams, greedy)


def _each(lm, params, prompts, ids, mask, *, limits=None, seeds=None, **options):
  """Generates with a prompt of each row's own."""
  seeds = np.arange(len(ids), dtype=np.uint32) if seeds is None else seeds
  stacked = placement.stack(prompts)
  options = OPTIONS._replace(**options)
  return _generate(lm, params, stacked, ids, mask, options, limits, seeds)


def _check_many_prompts(lm, params, beams):
  settings = [
    ('embedding', 5, 'prefix'),
    ('embedding', 3, 'suffix'),
    ('deep', 4, 'suffix'),
    ('deep', 2, 'prefix'),
    ('embedding', 2, 'prefix'),
  ]
  prompts = []
  for i, (kind, length, position) in enumerate(settings):
    embeddings = jax.random.normal(jax.random.key(i), (length, lm.spec.width))
    prompt = jax.jit(kinds.KINDS[kind], static_argnums=0)(lm, params, embeddings, None)
    prompts.append(kinds.place(prompt, position))
  rows = [[7, 81, 300, 12, 45], [9, 200], [33, 4, 150, 6], [5, 81, 12], [8, 4]]
  ids, mask = collate.pad(rows, 7, 5, pad_id=11)
  found = _each(lm, params, prompts, ids, mask, beams=beams)
  for i, prompt in enumerate(prompts):
    alone = _generate(
      lm,
      params,
      prompt,
      ids[i : i + 1],
      mask[i : i + 1],
      OPTIONS._replace(beams=beams),
    )
    np.testing.assert_array_equal(found[i], alone[0], err_msg=f'row {i}')


def test_rows_of_many_prompts_are_each_as_under_their_prompt_alone(frozen):
  lm, params, _ = frozen
  _check_many_prompts(lm, params, beams=1)


def test_beams_of_many_prompts_are_each_as_under_their_prompt_alone(gpt2):
  lm, params, _ = gpt2
  _check_many_prompts(lm, params, beams=2)


def _together(lm, params, placements, ids, mask, **options):
  """Generates with several prompts, which answer every row together."""
  members = len(placements)
  options['members'] = members
  return _each(lm, params, placements * len(ids), ids, mask, **options)


@pytest.mark.parametrize('beams', [1, 3])
def test_prompts_together_choose_by_the_mean_of_their_log_probabilities(gpt2, beams):
  lm, params, _ = gpt2
  prompts = tuple(
    3 * jax.random.normal(jax.random.key(i), (length, lm.spec.width))
    for i, length in enumerate((5, 2))
  )
  placements = [placement.place(prompt, 'prefix') for prompt in prompts]
  rows = [[7, 81, 300, 12, 45], [9, 200], [33, 4, 150, 6]]
  ids, mask = collate.pad(rows, 6, 4, pad_id=11)
  found = _together(lm, params, placements, ids, mask, beams=beams).tolist()
  alone = [_together(lm, params, [x], ids, mask, beams=beams) for x in placements]
  assert found[3] == [EOS] * 6  # padding
  assert not any(np.array_equal(found, x) for x in alone)
  search = (
    functools.partial(_uncached_beams, beams=3) if beams > 1 else _uncached_greedy
  )
  for i, row in enumerate(rows):
    assert found[i] == search(lm, params, prompts, row, new_tokens=6), f'row {i}'


@pytest.mark.parametrize(
  'options', [{}, {'beams': 2}, {'sampling': decode.Sampling(1.0, top_k=9)}]
)
def test_copies_of_one_prompt_are_that_prompt(gpt2, options):
  lm, params, _ = gpt2
  embeddings = jax.random.normal(jax.random.key(0), (3, lm.spec.width))
  deep = jax.jit(kinds.KINDS['deep'], static_argnums=0)(lm, params, embeddings, None)
  placed = kinds.place(deep, 'suffix')
  ids, mask = collate.pad([[7, 81, 300, 12, 45], [9, 200]], 5, 3, pad_id=11)
  limits = np.asarray([6, 2, 6])
  one, three = (
    _together(lm, params, [placed] * copies, ids, mask, limits=limits, **options)
    for copies in (1, 3)
  )
  np.testing.assert_array_equal(three, one)


def test_a_row_stops_at_its_own_limit(gpt2):
  lm, params, _ = gpt2
  ids, mask = collate.pad([[7, 81, 300, 12, 45]] * 3, 5, 3, pad_id=11)
  none = [placement.place(np.zeros((0, lm.spec.width)), 'prefix')] * 3
  limits = np.asarray([2, 6, 1])
  limited = _each(lm, params, none, ids, mask, limits=limits, end_ids=(319,))
  assert [row.index(319) for row in limited.tolist() if 319 in row] == [2, 1]
  np.testing.assert_array_equal(limited[0, :2], limited[1, :2])


# Of the tokens 0 to 3 after any token. 9 is the end of text, so that none ends.
SHARES = np.asarray([0.1, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
  'sampling, expected',
  [
    (decode.Sampling(1.0), SHARES),
    (decode.Sampling(0.5), SHARES**2),
    (decode.Sampling(1.0, top_k=2), [0, 0.4, 0.3, 0]),
    (decode.Sampling(1.0, top_p=0.75), [0, 0.4, 0.3, 0.2]),
    (decode.Sampling(1.0, top_p=0.69), [0, 0.4, 0.3, 0]),
    (decode.Sampling(1.0, top_k=3, top_p=0.4), [0, 1, 0, 0]),
  ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling, expected):
  lm = _markov_model(np.log(np.tile(SHARES, (4, 1))))
  rows = 500
  ids, mask = np.ones((rows, 1), np.int32), np.ones((rows, 1), bool)
  none = [placement.place(np.zeros((0, 4)), 'prefix')] * rows
  drawn = _each(lm, {}, none, ids, mask, sampling=sampling, end_ids=(9,))
  found = np.bincount(np.ravel(drawn), minlength=4) / drawn.size
  expected = np.asarray(expected) / np.sum(expected)
  np.testing.assert_allclose(found, expected, atol=0.03)
  assert not found[expected == 0].any()


def test_what_is_drawn_for_a_row_depends_on_its_seed_alone(gpt2):
  lm, params, _ = gpt2
  rows = [[7, 81, 300, 12, 45], [9, 200], [9, 200], [9, 200]]
  ids, mask = collate.pad(rows, 5, 4, pad_id=11)
  prompts = [placement.place(np.full((2, lm.spec.width), 0.5), 'prefix')] * 4
  sampling = decode.Sampling(1.0)
  seeds = np.asarray([3, 8, 8, 4], np.uint32)
  drawn = _each(lm, params, prompts, ids, mask, sampling=sampling, seeds=seeds)
  np.testing.assert_array_equal(drawn[1], drawn[2])
  assert not np.array_equal(drawn[1], drawn[3])
  ids, mask = collate.pad(rows[3:], 3, 1, pad_id=11)
  alone = _each(
    lm,
    params,
    prompts[3:],
    ids,
    mask,
    sampling=sampling,
    seeds=seeds[3:],
    limits=np.asarray([6]),
  )
  np.testing.assert_array_equal(alone[0], drawn[3])
