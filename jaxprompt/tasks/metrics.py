"""The registry of metrics: their titles, which way is better, how they are measured."""

import collections
import functools
import re
import string
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprompt import errors
from jaxprompt import own
from jaxprompt.tasks import rouge
from jaxprompt.tasks import statistics

_PUNCTUATION = frozenset(string.punctuation)


class Outputs(NamedTuple):
  """What is measured: the outputs for E rows, and what they should have been.

  Attributes:
    predictions: texts.
    references: of each row, all texts that count as right.
    output_ids, target_ids: token ids, without the end of text.
    labels: of a classification, the texts that a prediction may be; () of others.
  """

  predictions: Sequence[str]
  references: Sequence[Sequence[str]]
  output_ids: Sequence[Sequence[int]] = ()
  target_ids: Sequence[Sequence[int]] = ()
  labels: tuple[str, ...] = ()

  def mean(self, score, scale=100):
    """Returns the mean of `scale` times a function of (prediction, references)."""
    pairs = zip(self.predictions, self.references, strict=True)
    return statistics.mean([scale * score(*pair) for pair in pairs], top=scale)


class Metric(NamedTuple):
  """A metric.

  Attributes:
    title: for people.
    unit: its unit or range.
    measure: from `Outputs` to `statistics.Statistics`.
    lower_is_better: whether it is, as with a loss.
    signature: from all rows' references to the version and the settings that it is
      computed with.
  """

  title: str
  unit: str
  measure: Callable[[Outputs], statistics.Statistics] | None = None
  lower_is_better: bool = False
  signature: Callable[[Sequence], str] | None = None

  @property
  def description(self):
    """The unit, and which way is better."""
    return f'{self.unit}; {"lower" if self.lower_is_better else "higher"} is better'


def token_match(outputs):
  """Shares of the distinct output tokens that are also target tokens, in percent.

  An empty output scores 0.
  """
  scores = []
  for output, target in zip(outputs.output_ids, outputs.target_ids, strict=True):
    distinct = set(output)
    scores.append(100 * len(distinct & set(target)) / max(len(distinct), 1))
  return statistics.mean(scores, top=100)


def normalize_answer(text):
  """Normalises case, punctuation, articles and space as SQuAD v1.1 officially does."""
  text = ''.join(c for c in text.lower() if c not in _PUNCTUATION)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def _squad_em(prediction, references):
  found = normalize_answer(prediction)
  return float(any(found == normalize_answer(each) for each in references))


def _squad_f1(prediction, references):
  return max(_token_f1(prediction, each) for each in references)


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


def _exact_match(prediction, references):
  return float(prediction.strip() in {each.strip() for each in references})


def _numbered(outputs):
  """Returns the labels, and which of them is each row's gold and predicted one, [E]."""
  golds = [references[0] for references in outputs.references]
  labels = outputs.labels or tuple(sorted({*golds, *outputs.predictions}))
  place = {label: i for i, label in enumerate(labels)}
  return labels, [place[x] for x in golds], [place[x] for x in outputs.predictions]


def confusion(outputs):
  """Returns how often each label was predicted for each gold one: labels, [L, L]."""
  labels, gold, predicted = _numbered(outputs)
  counts = np.zeros((len(labels), len(labels)), int)
  np.add.at(counts, (gold, predicted), 1)
  return labels, counts


def _by_label(outputs):
  """Returns of each row whether each label is right, gold, predicted, [E, 3 * L]."""
  labels, gold, predicted = _numbered(outputs)
  one_hot = np.eye(len(labels))
  gold, predicted = one_hot[gold], one_hot[predicted]  # [E, L]
  return np.concatenate([gold * predicted, gold, predicted], axis=1)


def macro_f1(outputs):
  """The mean F1 over the labels that occur in gold or predictions, 0 to 100."""

  def value(sums):
    right, gold, predicted = np.split(sums, 3, axis=-1)  # [..., L]
    occurs = gold + predicted > 0
    f1 = 2 * right / np.where(occurs, gold + predicted, 1)
    return 100 * f1.sum(axis=-1) / occurs.sum(axis=-1)

  return statistics.Statistics(_by_label(outputs), value, top=100)


def matthews(outputs):
  """Matthews' correlation of several labels, -1 to 1; 0 where all are one label.

  Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
  coefficient".
  """

  def value(sums):
    right, gold, predicted = np.split(sums, 3, axis=-1)  # [..., L]
    size = gold.sum(axis=-1)
    spread = (size**2 - (gold**2).sum(-1)) * (size**2 - (predicted**2).sum(-1))
    above = right.sum(-1) * size - (gold * predicted).sum(-1)
    return np.where(spread > 0, above / np.sqrt(np.where(spread > 0, spread, 1)), 0)

  return statistics.Statistics(_by_label(outputs), value)


def _rouge(kind):
  score = functools.partial(rouge.score, kind)
  measure = functools.partial(Outputs.mean, score=score, scale=1)
  title = kind.replace('rouge', 'ROUGE-')
  return Metric(title, '0 to 1', measure, signature=lambda _: rouge.signature())


def _corpus(title, scorer, **settings):
  """Returns a `Metric` of sacrebleu's, over the corpus and all references of a row.

  Post 2018, "A Call for Clarity in Reporting BLEU Scores" (arXiv:1804.08771).
  """

  def made():
    from sacrebleu import metrics

    try:
      return getattr(metrics, scorer)(**settings)
    except (ImportError, RuntimeError) as e:  # a tokenizer that is a package of its own
      raise errors.UserError(
        f'the metric {title} cannot be computed: {errors.reason(e)}'
      ) from e

  def measure(outputs):
    metric = made()
    # sacrebleu's own bootstrap sums the same rows; they have no public name.
    rows = metric._extract_corpus_statistics(
      outputs.predictions, _streams(outputs.references)
    )

    def score(sums):
      return metric._compute_score_from_stats([int(x) for x in sums]).score

    return statistics.Statistics(
      np.asarray(rows, np.float64),
      lambda sums: np.apply_along_axis(score, -1, sums),
      top=100,
    )

  def signature(references):
    metric = made()
    # A signature needs a score; of rows it tells how many references they have.
    rows = [['a'] * count for count in {len(each) for each in references}]
    metric.corpus_score(['a'] * len(rows), _streams(rows))
    return str(metric.get_signature())

  return Metric(title, '0 to 100', measure, signature=signature)


def _streams(references):
  """Returns every row's first reference, its second, ...; None where it has fewer."""
  most = max(map(len, references))
  return [
    [each[i] if i < len(each) else None for each in references] for i in range(most)
  ]


def _bleus():
  """Returns BLEU by each of sacrebleu's tokenizers, of cased text and of lowercased."""
  found = {}
  for tokenizer in ('13a', 'zh', 'ja-mecab', 'ko-mecab', 'intl', 'char', 'none'):
    for lowercase in (False, True):
      own = [tokenizer] * (tokenizer != '13a') + ['lowercase'] * lowercase
      title = ' '.join(['BLEU', f'({", ".join(own)})']) if own else 'BLEU'
      found['-'.join(['bleu', *own])] = _corpus(
        title, 'BLEU', tokenize=tokenizer, lowercase=lowercase
      )
  return found


LOSS = 'loss'
METRICS = {
  'token_match': Metric('% Exact Match', 'of distinct output tokens', token_match),
  'exact_match': Metric(
    'Exact match',
    '0 to 100',
    functools.partial(Outputs.mean, score=_exact_match),
  ),
  'squad_f1': Metric(
    'SQuAD F1', '0 to 100', functools.partial(Outputs.mean, score=_squad_f1)
  ),
  'squad_em': Metric(
    'SQuAD exact match', '0 to 100', functools.partial(Outputs.mean, score=_squad_em)
  ),
  **{kind: _rouge(kind) for kind in ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')},
  **_bleus(),
  'chrf': _corpus('chrF', 'CHRF'),
  'accuracy': Metric(
    'Accuracy', '0 to 100', functools.partial(Outputs.mean, score=_exact_match)
  ),
  'macro_f1': Metric('Macro F1', '0 to 100', macro_f1),
  'matthews': Metric("Matthews' correlation", '-1 to 1', matthews),
}
_LOSS = Metric('Loss', 'nats per target token', lower_is_better=True)
# Of whole classes of rows: only a classification has them.
OF_LABELS = ('macro_f1', 'matthews')


def of(name):
  """Returns the `Metric` of a figure's name, for titles; one's own is not imported."""
  if name == LOSS:
    return _LOSS
  return METRICS.get(name) or Metric(name.rpartition(':')[2], 'of its own')


def resolve(name):
  """Returns the `Metric` of a name, ready to measure.

  Args:
    name: of `METRICS`; or 'package.module:function', of (predictions, references) as in
      `Outputs` that returns a number for each row, of which the mean is the figure.

  Raises:
    UserError: if there is none.
  """
  if name in METRICS:
    return METRICS[name]
  known = [each for each in METRICS if '-' not in each]
  score = own.function(name, 'metrics', [*known, 'bleu-char and the like'])
  return of(name)._replace(measure=functools.partial(_measure_own, name, score))


def _measure_own(name, function, outputs):
  expected = f'{len(outputs.predictions)} numbers, one a row'
  try:
    scores = function(outputs.predictions, outputs.references)
    scores = np.asarray(list(scores), np.float64)
  except Exception as e:  # whatever the user's own function raises
    raise errors.UserError(
      f'the metric {name} fails: {errors.reason(e)}; expected {expected}'
    ) from e
  if scores.shape != (len(outputs.predictions),) or not np.isfinite(scores).all():
    raise errors.UserError(
      f'the metric {name} gives {scores.tolist()!s:.60}; expected {expected}'
    )
  return statistics.mean(scores)


def signatures(names, references):
  """Returns {metric: the settings that it is computed with} of those that say them.

  Args:
    names: of metrics.
    references: of every row, as in `Outputs`.
  """
  found = {name: METRICS[name].signature for name in names if name in METRICS}
  return {name: signature(references) for name, signature in found.items() if signature}
