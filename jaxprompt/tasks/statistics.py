"""Figures as functions of sums over rows, and their bootstrap intervals.

Every metric, the corpus-level ones included, is a function of statistics that are
summed over rows. So each is returned as `Statistics`: a figure is its value at the sum,
and a bootstrap sample is its value at a resampled sum.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BOOTSTRAP_SAMPLES = 1000


class Statistics(NamedTuple):
  """A metric over E rows."""

  rows: np.ndarray  # [E, K] float64: what is summed over the rows
  value: Callable[[np.ndarray], float]  # from the sum [K] to the figure


def figure(statistics):
  """Returns the metric over all rows."""
  return float(statistics.value(statistics.rows.sum(axis=0)))


def row_figures(statistics):
  """Returns the metric over each row alone, E floats."""
  return [float(statistics.value(row)) for row in statistics.rows]


def interval(statistics, seed):
  """Returns the 95% percentile bootstrap interval over rows, [low, high].

  Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. The
  same seed resamples the same rows for every metric and arm.
  """
  rng = np.random.default_rng(seed)
  size = len(statistics.rows)
  samples = [
    statistics.value(statistics.rows[rng.integers(0, size, size)].sum(axis=0))
    for _ in range(BOOTSTRAP_SAMPLES)
  ]
  low, high = np.percentile(samples, [2.5, 97.5])
  return [float(low), float(high)]


def ratio(numerators, denominators):
  """Returns sum over sum, e.g. nats per token, from two sequences of E numbers."""
  rows = np.stack([numerators, denominators], axis=1).astype(np.float64)
  return Statistics(rows, lambda total: total[0] / total[1])


def mean(scores):
  """Returns the mean of E scores."""
  return ratio(scores, np.ones(len(scores)))
