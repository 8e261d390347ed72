"""Metrics: strings (or token ids) in, `statistics.Statistics` out."""

import collections
import importlib.metadata
import re
import string
import unicodedata
from collections.abc import Sequence

import numpy as np
from sacrebleu import metrics as sacrebleu_metrics

from jaxprompt.tasks import statistics

ROUGE_TYPES = ('rouge1', 'rouge2', 'rougeL')
_PUNCTUATION = frozenset(string.punctuation)
# Thai and Lao, Burmese, Khmer, kana, Chinese characters: written without spaces.
_SPACELESS = re.compile(
  '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]'
)


def token_match(outputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]):
  """Shares of the distinct output tokens that are also target tokens, in percent.

  An empty output scores 0. Token ids are the model's, without the end of text.
  """
  scores = []
  for output, target in zip(outputs, targets, strict=True):
    distinct = set(output)
    scores.append(100 * len(distinct & set(target)) / max(len(distinct), 1))
  return {'token_match': statistics.mean(scores, top=100)}


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]):
  """ROUGE-1, -2 and -L F-measures with stemming, 0 to 1, by `rouge-score`.

  Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". The first
  reference counts. `rouge-score` keeps a-z and 0-9 alone, so that a text in other
  letters would score 0: where these are most of a reference's, its tokens and the
  prediction's are Unicode words, and single characters where words have no spaces
  between them, as in Chinese, Japanese and Thai.
  """
  from rouge_score import rouge_scorer  # here: a quarter of the start, for one task

  stemmed = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True)
  unicode = rouge_scorer.RougeScorer(ROUGE_TYPES, tokenizer=_UnicodeWords())
  scores = [
    (stemmed if _is_latin(refs[0]) else unicode).score(refs[0], prediction)
    for prediction, refs in zip(predictions, references, strict=True)
  ]
  return {
    t: statistics.mean([s[t].fmeasure for s in scores], top=1) for t in ROUGE_TYPES
  }


def rouge_signature():
  """Returns what ROUGE was computed with, {'rouge': text}."""
  version = importlib.metadata.version('rouge-score')
  return {'rouge': f'rouge-score {version}, stemmed; of other letters: Unicode words'}


def _is_latin(text):
  """Returns whether most of a text's letters are those that `rouge-score` keeps."""
  letters = [c for c in text.lower() if c.isalnum()]
  return 2 * sum(c.isascii() for c in letters) >= len(letters)


class _UnicodeWords:
  """A tokenizer as `rouge-score` takes one."""

  def tokenize(self, text):
    words, before = [], ''  # the character before, '' if it ends a word
    for c in unicodedata.normalize('NFC', text.lower()):
      kind = unicodedata.category(c)[0]
      alone = _SPACELESS.match(c) or _SPACELESS.match(before)
      if before and (kind == 'M' or (kind in 'LN' and not alone)):
        words[-1] += c  # a mark is of its letter, such as a vowel sign in Hindi
      elif kind in 'LN':
        words.append(c)
      before = c if kind in 'LN' else before if kind == 'M' else ''
    return words


def normalize_answer(text):
  """Normalises case, punctuation, articles and space as SQuAD v1.1 officially does."""
  text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def squad(predictions: Sequence[str], references: Sequence[Sequence[str]]):
  """SQuAD exact match and F1, 0 to 100, each the best over all gold answers.

  Rajpurkar et al. 2016 (arXiv:1606.05250), as in their evaluate-v1.1.py.
  """
  pairs = list(zip(predictions, references, strict=True))
  return {
    name: statistics.mean(
      [100 * max(score(p, ref) for ref in refs) for p, refs in pairs], top=100
    )
    for name, score in (('squad_em', _exact_match), ('squad_f1', _token_f1))
  }


def _exact_match(prediction, reference):
  return float(normalize_answer(prediction) == normalize_answer(reference))


def _token_f1(prediction, reference):
  prediction = normalize_answer(prediction).split()
  reference = normalize_answer(reference).split()
  common = sum(
    (collections.Counter(prediction) & collections.Counter(reference)).values()
  )
  if common == 0:
    return 0.0
  precision, recall = common / len(prediction), common / len(reference)
  return 2 * precision * recall / (precision + recall)


def _corpus_metrics():
  return {'bleu': sacrebleu_metrics.BLEU(), 'chrf': sacrebleu_metrics.CHRF()}


def translation(predictions: Sequence[str], references: Sequence[Sequence[str]]):
  """Corpus BLEU and chrF, 0 to 100, by `sacrebleu` with its defaults.

  Post 2018, "A Call for Clarity in Reporting BLEU Scores" (arXiv:1804.08771). The
  first reference counts.
  """
  firsts = [[refs[0] for refs in references]]
  return {
    name: _corpus_statistics(metric, predictions, firsts)
    for name, metric in _corpus_metrics().items()
  }


def _corpus_statistics(metric, predictions, references):
  # sacrebleu's own bootstrap sums the same rows; they have no public name.
  rows = metric._extract_corpus_statistics(predictions, references)

  def score(sums):
    return metric._compute_score_from_stats([int(x) for x in sums]).score

  return statistics.Statistics(
    np.asarray(rows, np.float64),
    lambda sums: np.apply_along_axis(score, -1, sums),
    top=100,
  )


def sacrebleu_signatures():
  """Returns {metric: sacrebleu's signature}, which names every setting of a score."""
  out = {}
  for name, metric in _corpus_metrics().items():
    metric.corpus_score(['a'], [['a']])  # a signature needs a score with references
    out[name] = str(metric.get_signature())
  return out
