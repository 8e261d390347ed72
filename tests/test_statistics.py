"""Figures, their intervals, and the differences of arms on the same rows."""

import numpy as np
import pytest
import sacrebleu

from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics


def test_loss_is_averaged_over_tokens_not_over_rows():
  assert statistics.figure(statistics.ratio([6.0, 1.0], [3, 1])) == pytest.approx(7 / 4)


def test_intervals_hold_the_figure_shrink_with_rows_and_repeat_with_the_seed():
  rng = np.random.default_rng(0)
  few, many = (statistics.mean(rng.normal(5.0, 1.0, size)) for size in (20, 2000))
  low, high = statistics.interval(few, seed=3)
  assert low < statistics.figure(few) < high
  assert statistics.interval(few, seed=3) == [low, high]
  narrow = statistics.interval(many, seed=3)
  # The normal approximation: 1.96 standard errors on either side.
  assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.15)
  assert high - low > 5 * (narrow[1] - narrow[0])


def test_an_interval_of_equal_scores_is_a_point():
  assert statistics.interval(statistics.mean([0.25] * 7), seed=0) == [0.25, 0.25]


@pytest.mark.parametrize('score, expected', [(0, [0, 35.43]), (100, [64.57, 100])])
def test_a_proportion_of_0_or_100_percent_has_wilsons_interval(score, expected):
  # z^2 / (n + z^2) with n = 7 and z = 1.96 is 0.3543.
  found = statistics.interval(statistics.mean([score] * 7, top=100), seed=0)
  assert found == pytest.approx(expected, abs=0.01)


def _differ(first, second, seed=0):
  """The second less the first."""
  (found,) = statistics.differences({'first': first, 'second': second}, seed)
  return found


def test_arms_that_are_the_same_in_every_row_may_still_differ_in_others():
  right, wrong = (statistics.mean([score] * 7, top=100) for score in (100, 0))
  assert _differ(right, right).interval == pytest.approx((-35.43, 35.43), abs=0.01)
  assert _differ(wrong, right)[:3] == ('second', 'first', 100)
  assert _differ(wrong, right).interval == pytest.approx((64.57, 100), abs=0.01)


def test_what_is_hard_for_both_arms_cancels_in_their_difference():
  rng = np.random.default_rng(0)
  hardness = rng.normal(5, 3, 50)
  first, second = (
    statistics.mean(hardness + shift + rng.normal(0, 0.1, 50)) for shift in (0.2, 0)
  )
  low, high = _differ(second, first).interval
  assert 0.1 < low < 0.2 < high < 0.3
  assert statistics.interval(first, 0)[0] < statistics.interval(second, 0)[1]


def test_a_difference_of_corpus_bleu_is_that_of_corpora_of_the_same_rows():
  rng = np.random.default_rng(1)
  words = ['der', 'die', 'das', 'Frau', 'Haus', 'geht', 'sieht', 'alte', 'rote']
  golds = [' '.join(rng.choice(words, 9)) for _ in range(12)]
  worse = [text.replace('Haus', 'Auto') for text in golds]
  worst = [text.replace('Haus', 'Auto').replace('rote', 'neue') for text in golds]
  first, second = (
    metrics.METRICS['bleu'].measure(metrics.Outputs(texts, [[gold] for gold in golds]))
    for texts in (worst, worse)
  )
  found = _differ(first, second, seed=5)
  drawn = np.random.default_rng(5).integers(0, 12, (statistics.BOOTSTRAP_SAMPLES, 12))
  firsts = [[golds[i] for i in drawn[0]]]
  by_hand = [
    sacrebleu.corpus_bleu([texts[i] for i in drawn[0]], firsts).score
    for texts in (worst, worse)
  ]
  samples = [statistics.bootstrap(each, seed=5)[0] for each in (first, second)]
  assert samples == pytest.approx(by_hand)
  assert found.interval[0] > 0
  assert found.interval[0] < found.difference < found.interval[1]


@pytest.mark.parametrize('kind', ['mean', 'ratio'])
def test_a_paired_interval_holds_the_true_difference_in_95_percent_of_draws(kind):
  rng = np.random.default_rng(2)
  held = 0
  for draw in range(1000):
    hardness, lengths = rng.exponential(2, 100), rng.integers(1, 9, 100)
    noise = rng.normal(0, 0.5, (2, 100))
    losses = hardness + noise + [[0.3], [0]]  # a token; true difference: 0.3
    if kind == 'ratio':
      first, second = (statistics.ratio(x * lengths, lengths) for x in losses)
    else:
      first, second = map(statistics.mean, losses)
    low, high = _differ(second, first, seed=draw).interval
    held += low <= 0.3 <= high
  assert 930 <= held <= 970


def test_several_measurements_of_the_same_rows_are_averaged_over_them():
  found = statistics.averaged(
    [statistics.ratio([2, 3], [1, 4]), statistics.ratio([4, 1], [1, 4])]
  )
  assert statistics.figure(found) == pytest.approx((5 / 5 + 5 / 5) / 2)
  assert statistics.row_figures(found) == [3, 0.5]


def test_a_corpus_metric_of_several_measurements_is_the_mean_of_theirs():
  def squared(sums):
    return sums[..., 0] ** 2 / sums[..., 1]

  draws = [statistics.Statistics(np.array(x), squared) for x in ([[3, 1]], [[1, 1]])]
  assert statistics.figure(statistics.averaged(draws)) == (9 + 1) / 2
