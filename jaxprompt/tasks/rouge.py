"""ROUGE of any script: `rouge-score`, with words of Unicode where it keeps none."""

import functools
import importlib.metadata
import re
import unicodedata

# Thai and Lao, Burmese, Khmer, kana, Chinese characters: written without spaces.
_SPACELESS = re.compile(
  '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]'
)


def score(kind, prediction, references):
  """Returns the F-measure of a prediction, the best over its references, 0 to 1.

  Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries". `rouge-score`
  keeps a-z and 0-9 alone, so that a text in other letters would score 0: where these
  are most of a reference's, its tokens and the prediction's are Unicode words, and
  single characters where words have no spaces between them, as in Chinese, Japanese
  and Thai.

  Args:
    kind: 'rouge1', 'rouge2', 'rougeL' (the longest common subsequence of the whole
      texts), or 'rougeLsum' (of their lines, what most papers on summaries mean).
    prediction: a text.
    references: texts.
  """
  return max(
    _scorer(kind, _is_latin(each)).score(each, prediction)[kind].fmeasure
    for each in references
  )


def signature():
  """Returns the version and the settings that ROUGE is computed with."""
  version = importlib.metadata.version('rouge-score')
  return f'rouge-score {version}, stemmed; of other letters: Unicode words'


@functools.cache
def _scorer(kind, is_latin):
  from rouge_score import rouge_scorer  # here: a quarter of the start, for one metric

  if is_latin:
    return rouge_scorer.RougeScorer([kind], use_stemmer=True)
  return rouge_scorer.RougeScorer([kind], tokenizer=_UnicodeWords())


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
