"""Metrics against values worked out by hand."""

import numpy as np
import pytest
import sacrebleu

from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics


def _figures(found):
  return {name: statistics.figure(own) for name, own in found.items()}


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
  assert statistics.figure(figures['rouge1']) == pytest.approx(expected)


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
