"""Labels by their likelihood: as if each had been the target, on every family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprompt.data import buckets
from jaxprompt.data import collate
from jaxprompt.data import rows as rows_lib
from jaxprompt.infer import evaluate
from jaxprompt.infer import labels as labels_lib
from jaxprompt.prompts import arms
from jaxprompt.prompts import placement
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import steps

TEXTS = ('no', 'it may well be', 'yes')
SOURCES = ('The film was long.\n', 'A joy to watch, again and again.\n')


def _sources(tokenizer):
  ids = [template_lib.encode(tokenizer, text)[0] for text in SOURCES]
  return ids, collate.pad(ids, max(map(len, ids)) + 2, 3, 0)


def _expected(lm, params, template, placed, sources):
  """The log-likelihood of every text as the target of every source, [B, L]."""
  pairs = [
    (source, template.target(text, None)[1]) for source in sources for text in TEXTS
  ]
  rows, apart = rows_lib.table(*zip(*pairs, strict=True)), placed.splits_rows
  shape = buckets.bucket_sizes(rows.lengths, apart).max(axis=0)
  batch = collate.collate(rows, tuple(shape), len(rows), 0, apart)
  nats, _ = jax.jit(functools.partial(steps.row_losses, lm))(params, placed, batch)
  return -nats.reshape(len(sources), len(TEXTS))


@pytest.mark.parametrize('position', placement.POSITIONS)
def test_a_label_scores_what_it_scores_as_a_target(frozen, position):
  lm, params, tokenizer = frozen
  template = template_lib.Template(tokenizer)
  soft_prompt = jax.random.normal(jax.random.key(0), (4, lm.spec.width))
  placed = placement.place(soft_prompt, position)
  ids, rows = _sources(tokenizer)
  labels = labels_lib.tokenise(template, TEXTS, template.empty_source)
  score = jax.jit(labels_lib.program(lm, 'none'))
  found = score(params, (placed, labels.arrays), rows)
  assert found.shape == (3, 1, len(TEXTS))  # the last row is padding
  expected = _expected(lm, params, template, placed, ids)
  np.testing.assert_allclose(found[:2, 0], expected, rtol=1e-5)


def test_prompts_together_score_a_label_as_each_does_alone(gpt2):
  lm, params, tokenizer = gpt2
  template = template_lib.Template(tokenizer)
  each = [
    placement.place(jax.random.normal(jax.random.key(i), (4 + i, 24)), position)
    for i, position in enumerate(placement.POSITIONS)
  ]
  ids, rows = _sources(tokenizer)
  labels = labels_lib.tokenise(template, TEXTS, template.empty_source)
  score = jax.jit(labels_lib.program(lm, 'none', members=2))
  found = score(params, (placement.stack(each * 3), labels.arrays), rows)
  for i, placed in enumerate(each):
    expected = _expected(lm, params, template, placed, ids)
    np.testing.assert_allclose(found[:2, i], expected, rtol=1e-5)


def test_most_prompts_decide_and_of_a_tie_their_mean():
  scores = np.array([[0.0, -1.0, -9.0], [0.0, -1.0, -9.0], [-9.0, -1.0, 0.0]])
  assert labels_lib.choice(scores) == 0  # the mean is highest of label 1
  assert labels_lib.choice(scores[1:] - [0, 0, 0.5]) == 0
  assert labels_lib.choice(scores[1:] - [0.5, 0, 0]) == 2
  found = labels_lib.answer(TEXTS, np.log([[0.9, 0.05, 0.05], [0.3, 0.3, 0.4]]))
  shares = dict(zip(TEXTS, (0.6, 0.175, 0.225), strict=True))
  assert found == {'prediction': TEXTS[0], 'scores': pytest.approx(shares)}


def test_calibration_takes_off_what_a_label_has_without_a_source(gpt2):
  lm, params, tokenizer = gpt2
  template = template_lib.Template(tokenizer)
  placed = placement.place(jnp.zeros((0, lm.spec.width)), 'prefix')
  _, rows = _sources(tokenizer)
  asked = placed, labels_lib.tokenise(template, TEXTS, template.empty_source).arrays
  plain, calibrated = (
    jax.jit(labels_lib.program(lm, name))(params, asked, rows)
    for name in labels_lib.CALIBRATIONS
  )
  empty = _expected(lm, params, template, placed, [template.empty_source])
  np.testing.assert_allclose((plain - calibrated)[0], empty, rtol=1e-5)


@pytest.mark.parametrize('text', ['Is it good?', 'Text: {source}\nVerdict:'])
def test_an_arm_is_calibrated_by_its_own_text_without_a_source(frozen, text):
  lm, params, tokenizer = frozen
  template = template_lib.Template(tokenizer)
  wording = arms.written(template, text)
  front = arms.ids_in_front(wording, template)
  placed = placement.place(lm.embed(params, jnp.asarray(front, int)), 'prefix')
  empty = arms.empty_source(wording, template)
  lead = wording.target_lead
  _, rows = _sources(tokenizer)
  asked = placed, labels_lib.tokenise(template, TEXTS, empty, lead).arrays
  plain, calibrated = (
    jax.jit(labels_lib.program(lm, name))(params, asked, rows)
    for name in labels_lib.CALIBRATIONS
  )
  literal = text.format(source='') if '{' in text else f'{text} \n'
  ids = [*template.start_ids, *template_lib.encode(tokenizer, literal)[0]]
  assert [*front, *empty] == ids
  nothing = placement.place(jnp.zeros((0, lm.spec.width)), 'prefix')
  expected = _expected(lm, params, template, nothing, [ids])
  np.testing.assert_allclose((plain - calibrated)[0], expected, rtol=1e-4)


def test_probabilities_are_shares_of_the_labels_likelihoods():
  found = labels_lib.answer(TEXTS, np.log([[0.01, 0.03, 0.06]]))
  assert found['prediction'] == 'yes'
  assert found['scores'] == pytest.approx({TEXTS[0]: 0.1, TEXTS[1]: 0.3, TEXTS[2]: 0.6})
  tiny = labels_lib.probabilities(np.array([[-9000.0, -9000.0]]))
  assert tiny.tolist() == [0.5, 0.5]


def test_a_label_is_described_by_sum_mean_and_share(gpt2):
  template = template_lib.Template(gpt2[2])
  labels = labels_lib.tokenise(template, TEXTS, template.empty_source)
  found = labels_lib.described(labels, np.array([[-2.0, -8.0, -4.0]]))
  counts = [len(template.target(text, None)[1]) for text in TEXTS]
  assert counts[1] > counts[0]
  assert found['it may well be']['log_likelihood'] == -8
  assert found['it may well be']['per_token'] == -8 / counts[1]
  assert labels.tokens(1) == template.target(TEXTS[1], None)[1][:-1]


def test_draws_of_an_arm_have_their_confusion_together():
  once = evaluate.Evaluation({}, ['no', 'yes'], confusion=np.array([[1, 0], [2, 3]]))
  twice = evaluate.averaged([once, once, once])
  assert twice.confusion.tolist() == [[3, 0], [6, 9]]
  assert twice.predictions == ['no', 'yes']
