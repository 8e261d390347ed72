"""Metrics against values worked out by hand."""

import importlib.metadata

import numpy as np
import pytest
import sacrebleu

from jaxprompt import errors
from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics


def _figure(name, predictions, references, labels=(), **ids):
  outputs = metrics.Outputs(predictions, references, labels=labels, **ids)
  return statistics.figure(metrics.resolve(name).measure(outputs))


def test_token_match_counts_distinct_output_tokens_and_an_empty_output_as_zero():
  # {1, 2, 3} has 2 of its 3 tokens in the target; {7} none; nothing scores nothing.
  ids = {
    'output_ids': [[1, 1, 2, 3], [7], []],
    'target_ids': [[1, 2, 9, 9], [8], [5]],
  }
  found = _figure('token_match', ['', '', ''], [['']] * 3, **ids)
  assert found == pytest.approx((200 / 3 + 0 + 0) / 3)


def test_rouge_is_the_stemmed_f_measure():
  # 3 of 4 unigrams on both sides ("sat" is not "runs"; "dogs" stems to "dog"): 0.75.
  # Bigrams: "the dog" and "dog in" would need "dogs": 2 of 3, the last one broken.
  texts = ['the dogs in houses'], [['The dog in runs']]
  assert _figure('rouge1', *texts) == pytest.approx(0.75)
  assert _figure('rouge2', *texts) == pytest.approx(2 / 3)
  assert _figure('rougeL', *texts) == pytest.approx(0.75)


def test_rouge_lsum_takes_line_by_line_what_rouge_l_takes_in_one():
  texts = ['a cat sat\na dog ran'], [['a dog ran\na cat sat']]
  assert _figure('rougeL', *texts) == pytest.approx(0.5)
  assert _figure('rougeLsum', *texts) == pytest.approx(1)


def test_rouge_takes_the_best_of_several_references():
  assert _figure('rouge1', ['a cat'], [['one dog', 'a cat']]) == 1


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
  assert _figure('rouge1', [prediction], [[target]]) == pytest.approx(expected)


def test_squad_takes_the_best_gold_answer_after_official_normalisation():
  predictions = ['The Watt!', 'James', 'nothing']
  golds = [['Newton', 'watt'], ['James Watt', 'W. James'], ['a']]
  # EM: 1, 0, 0. F1: 1; precision 1, recall 1/2 -> 2/3; 0 ("a" normalises to "").
  assert _figure('squad_em', predictions, golds) == pytest.approx(100 / 3)
  expected = pytest.approx(100 * (1 + 2 / 3) / 3)
  assert _figure('squad_f1', predictions, golds) == expected


PREDICTIONS = ['ein Mann geht durch die Stadt', 'zwei Kinder', 'ein Haus']
GOLDS = [['ein Mann geht durch die Stadt'], ['zwei Kinder spielen'], ['im Garten']]


def test_bleu_and_chrf_are_sacrebleus_over_the_corpus_not_a_mean_of_sentences():
  firsts = [[gold[0] for gold in GOLDS]]
  bleu = _figure('bleu', PREDICTIONS, GOLDS)
  assert bleu == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, firsts).score)
  chrf = sacrebleu.corpus_chrf(PREDICTIONS, firsts).score
  assert _figure('chrf', PREDICTIONS, GOLDS) == pytest.approx(chrf)
  alone = list(map(sacrebleu.sentence_bleu, PREDICTIONS, GOLDS))
  assert abs(bleu - np.mean([score.score for score in alone])) > 5


def test_bleu_takes_all_references_of_a_row_also_if_rows_have_different_numbers():
  golds = [GOLDS[0], [*GOLDS[1], 'zwei Kinder'], [*GOLDS[2], 'Häuser', 'ein Haus']]
  streams = [[gold[i] if i < len(gold) else None for gold in golds] for i in range(3)]
  expected = sacrebleu.corpus_bleu(PREDICTIONS, streams).score
  assert _figure('bleu', PREDICTIONS, golds) == pytest.approx(expected)
  assert expected > sacrebleu.corpus_bleu(PREDICTIONS, streams[:1]).score + 5


@pytest.mark.parametrize(
  'name, settings',
  [
    ('bleu-zh', {'tokenize': 'zh'}),
    ('bleu-lowercase', {'lowercase': True}),
    ('bleu-char-lowercase', {'tokenize': 'char', 'lowercase': True}),
  ],
)
def test_bleus_tokenizer_and_case_are_in_its_name(name, settings):
  predictions, firsts = ['今天 天气很 GUT'], ['今天天气很好 gut']
  expected = sacrebleu.corpus_bleu(predictions, [firsts], **settings).score
  assert _figure(name, predictions, [firsts]) == pytest.approx(expected)


def test_a_tokenizer_that_is_not_installed_is_named():
  with pytest.raises(errors.UserError, match=r'BLEU \(ja-mecab\) cannot be computed'):
    _figure('bleu-ja-mecab', ['a'], [['a']])


def test_signatures_name_every_setting():
  found = metrics.signatures(['rouge1', 'squad_f1', 'bleu', 'chrf'], [['a'], ['b']])
  assert 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:' in found['bleu']
  assert 'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:' in found['chrf']
  assert importlib.metadata.version('rouge-score') in found['rouge1']
  assert 'squad_f1' not in found
  several = metrics.signatures(['bleu'], [['a'], ['b', 'c']])
  assert several['bleu'].startswith('nrefs:var|')


LABELS = ('no', 'maybe', 'yes')
# gold by predicted: no 3 0 1, maybe 0 0 0, yes 2 0 4
CLASSIFIED = {
  'predictions': ['no'] * 3 + ['yes'] + ['no'] * 2 + ['yes'] * 4,
  'references': [['no']] * 4 + [['yes']] * 6,
  'labels': LABELS,
}


def test_a_classification_is_measured_by_its_confusion_matrix():
  labels, counts = metrics.confusion(metrics.Outputs(**CLASSIFIED))
  assert (labels, counts.tolist()) == (LABELS, [[3, 0, 1], [0, 0, 0], [2, 0, 4]])
  assert _figure('accuracy', **CLASSIFIED) == pytest.approx(70)
  # F1: no 6 / 9, yes 8 / 11; maybe occurs neither in gold nor in predictions.
  assert _figure('macro_f1', **CLASSIFIED) == pytest.approx(100 * (6 / 9 + 8 / 11) / 2)
  # (TP TN - FP FN) / sqrt(...), yes being positive.
  expected = (4 * 3 - 1 * 2) / np.sqrt(5 * 6 * 4 * 5)
  assert _figure('matthews', **CLASSIFIED) == pytest.approx(expected)


def test_many_labels_keep_three_numbers_each_and_not_a_matrix():
  labels = tuple(map(str, range(200)))
  texts = {'predictions': ['7'], 'references': [['9']], 'labels': labels}
  for name in ('macro_f1', 'matthews'):
    found = metrics.resolve(name).measure(metrics.Outputs(**texts))
    assert found.rows.shape == (1, 600)


def test_matthews_correlation_with_a_constant_is_zero():
  golds = [['no'], ['yes']]
  assert _figure('matthews', ['yes', 'yes'], golds, labels=LABELS) == 0


def test_a_metric_of_ones_own_is_the_mean_of_what_its_function_gives(
  tmp_path, monkeypatch
):
  (tmp_path / 'own_scores.py').write_text(
    'def length(predictions, references):\n  return [len(p) for p in predictions]\n'
    'def short(predictions, references):\n  return [1]\n'
    'def broken(predictions, references):\n  return 1 / 0\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  texts = ['abc', 'a'], [['x'], ['y']]
  assert _figure('own_scores:length', *texts) == 2
  assert metrics.of('own_scores:length').title == 'length'
  for name, message in (
    ('own_scores:short', r'own_scores:short gives \[1.0\]; expected 2 numbers'),
    (
      'own_scores:broken',
      'own_scores:broken fails: division by zero; expected 2',
    ),
    ('own_scores:other', "has no attribute 'other'"),
    ('no_such_module:length', "No module named 'no_such_module'"),
    ('bleurt', "metrics has 'bleurt'; expected of token_match, .*module:function"),
  ):
    with pytest.raises(errors.UserError, match=message):
      _figure(name, *texts)
