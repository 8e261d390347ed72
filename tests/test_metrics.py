"""Metrics against values worked out by hand, and their intervals."""

import numpy as np
import pytest
import sacrebleu

from jaxprompt.tasks import metrics


def _figures(statistics):
  return {name: metrics.figure(s) for name, s in statistics.items()}


def test_token_match_counts_distinct_output_tokens_and_an_empty_output_as_zero():
  # {1, 2, 3} has 2 of its 3 tokens in the target; {7} none; nothing scores nothing.
  outputs, targets = [[1, 1, 2, 3], [7], []], [[1, 2, 9, 9], [8], [5]]
  expected = pytest.approx((200 / 3 + 0 + 0) / 3)
  assert _figures(metrics.token_match(outputs, targets)) == {'token_match': expected}


def test_rouge_is_the_stemmed_f_measure():
  # 3 of 4 unigrams on both sides ("sat" is not "runs"; "dogs" stems to "dog"): 0.75.
  # Bigrams: "the dog" and "dog in" would need "dogs": 2 of 3, the last one broken.
  found = _figures(metrics.rouge(['the dogs in houses'], [['The dog in runs']]))
  assert found == pytest.approx({'rouge1': 0.75, 'rouge2': 2 / 3, 'rougeL': 0.75})


@pytest.mark.parametrize(
  'target, prediction, expected',
  [
    ('今天天气很好', '今天天气不好', 5 / 6),
    ('Γάτα λευκή κάθεται', 'γάτα λευκή τρέχει', 2 / 3),
    ('हिन्दी भाषा', 'हान्दु भूषे', 0),  # other vowel signs are other words
    ('ฉันรักแมว', 'ฉันรักหมา', 5 / 7),
    ('Die Tür ist zu', 'die Tür ist zu', 1),
  ],
)
def test_rouge_judges_text_in_other_letters(target, prediction, expected):
  figures = metrics.rouge([prediction], [[target]])
  assert metrics.figure(figures['rouge1']) == pytest.approx(expected)


def test_squad_takes_the_best_gold_answer_after_official_normalisation():
  predictions = ['The Watt!', 'James', 'nothing']
  golds = [['Newton', 'watt'], ['James Watt', 'W. James'], ['a']]
  # EM: 1, 0, 0. F1: 1; precision 1, recall 1/2 -> 2/3; 0 ("a" normalises to "").
  expected = {'squad_em': 100 / 3, 'squad_f1': 100 * (1 + 2 / 3) / 3}
  assert _figures(metrics.squad(predictions, golds)) == pytest.approx(expected)


def test_bleu_and_chrf_are_sacrebleus_over_the_corpus_not_a_mean_of_sentences():
  predictions = ['ein Mann geht durch die Stadt', 'zwei Kinder', 'ein Haus']
  golds = [['ein Mann geht durch die Stadt'], ['zwei Kinder spielen'], ['im Garten']]
  found = _figures(metrics.translation(predictions, golds))
  firsts = [[gold[0] for gold in golds]]
  assert found == pytest.approx(
    {
      'bleu': sacrebleu.corpus_bleu(predictions, firsts).score,
      'chrf': sacrebleu.corpus_chrf(predictions, firsts).score,
    }
  )
  alone = list(map(sacrebleu.sentence_bleu, predictions, golds))
  assert abs(found['bleu'] - np.mean([score.score for score in alone])) > 5


def test_signatures_name_every_setting():
  found = metrics.sacrebleu_signatures()
  assert 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:' in found['bleu']
  assert 'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:' in found['chrf']


def test_loss_is_averaged_over_tokens_not_over_rows():
  assert metrics.figure(metrics.ratio([6.0, 1.0], [3, 1])) == pytest.approx(7 / 4)


def test_intervals_hold_the_figure_shrink_with_rows_and_repeat_with_the_seed():
  rng = np.random.default_rng(0)
  few, many = (metrics.mean(rng.normal(5.0, 1.0, size)) for size in (20, 2000))
  low, high = metrics.interval(few, seed=3)
  assert low < metrics.figure(few) < high
  assert metrics.interval(few, seed=3) == [low, high]
  narrow = metrics.interval(many, seed=3)
  # The normal approximation: 1.96 standard errors on either side.
  assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.15)
  assert high - low > 5 * (narrow[1] - narrow[0])


def test_an_interval_of_equal_scores_is_a_point():
  assert metrics.interval(metrics.mean([0.25] * 7), seed=0) == [0.25, 0.25]
