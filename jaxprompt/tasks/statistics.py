"""What is said of a metric: its value, its interval, and how two arms differ in it.

Every metric here, the corpus-level ones included, is a function of statistics that
are summed over examples. So each is returned as `Statistics`: a figure is its value
at the sum, and a bootstrap sample is its value at a resampled sum. Arms are measured
on the same examples and resampled alike, so that their difference has an interval of
its own, in which what is hard for both cancels.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; paired, as
in Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BOOTSTRAP_SAMPLES = 1000
_DRAWN_AT_ONCE = 2**22  # examples; bounds the memory
_Z = 1.959964  # of a normal distribution, 95% lie between -z and z


class Statistics(NamedTuple):
  """A metric over E examples."""

  rows: np.ndarray  # [E, K] float64: what is summed over the examples
  value: Callable[[np.ndarray], np.ndarray]  # from sums [..., K] to figures [...]
  top: float | None = None  # of a figure from 0 to `top`, such as 100 of a percentage


class Difference(NamedTuple):
  """By how much a figure of one arm is above that of another, with its 95% interval."""

  arm: str
  other: str
  difference: float
  interval: tuple[float, float]


def figure(statistics):
  """Returns the metric over all examples."""
  return float(statistics.value(statistics.rows.sum(axis=0)))


def row_figures(statistics):
  """Returns the metric over each example alone, E floats."""
  return statistics.value(statistics.rows).tolist()


def bootstrap(statistics, seed):
  """Returns the metric over resampled examples, [BOOTSTRAP_SAMPLES].

  The same seed resamples the same examples for every metric and arm.
  """
  rng = np.random.default_rng(seed)
  size = len(statistics.rows)
  at_once = max(1, _DRAWN_AT_ONCE // size)
  sums = []
  for start in range(0, BOOTSTRAP_SAMPLES, at_once):
    samples = min(at_once, BOOTSTRAP_SAMPLES - start)
    drawn = rng.integers(0, size, (samples, size))
    drawn += size * np.arange(samples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=samples * size)
    sums.append(counts.reshape(samples, size) @ statistics.rows)
  return statistics.value(np.concatenate(sums))


def interval(statistics, seed):
  """Returns the 95% percentile bootstrap interval over examples, [low, high]."""
  return _percentiles(bootstrap(statistics, seed), statistics, lowest=0)


def differences(arms, seed):
  """Compares every arm with those before it, the later less the earlier.

  Args:
    arms: {arm: `Statistics`} of one metric over the same examples.
    seed: of the resampling.

  Returns:
    A list of `Difference`s.
  """
  samples = {arm: bootstrap(own, seed) for arm, own in arms.items()}
  figures = {arm: figure(own) for arm, own in arms.items()}
  names = list(arms)
  return [
    Difference(
      arm,
      other,
      figures[arm] - figures[other],
      tuple(_percentiles(samples[arm] - samples[other], arms[arm], lowest=-1)),
    )
    for i, arm in enumerate(names)
    for other in names[:i]
  ]


def _percentiles(samples, statistics, lowest):
  """Returns the interval of samples, [low, high].

  Where all are the same, as of figures of 0% and 100%, the width is that of Wilson's
  interval at such a proportion. Wilson 1927, "Probable Inference, the Law of
  Succession, and Statistical Inference".

  Args:
    samples: figures, or differences of two.
    statistics: that they are of, or those of one of the two.
    lowest: the lowest value possible as a multiple of the `top`.
  """
  low, high = np.percentile(samples, [2.5, 97.5])
  if low == high and statistics.top is not None:
    width = statistics.top * _Z**2 / (len(statistics.rows) + _Z**2)
    low = max(low - width, lowest * statistics.top)
    high = min(high + width, statistics.top)
  return [float(low), float(high)]


def ratio(numerators, denominators, top=None):
  """Returns sum over sum, e.g. nats per token, from two sequences of E numbers."""
  rows = np.stack([numerators, denominators], axis=1).astype(np.float64)
  return Statistics(rows, lambda sums: sums[..., 0] / sums[..., 1], top)


def mean(scores, top=None):
  """Returns the mean of E scores, which go from 0 to `top` if that is given."""
  return ratio(scores, np.ones(len(scores)), top)


def averaged(draws):
  """Returns the mean of a metric over the same examples measured several times.

  Args:
    draws: the `Statistics` of each time, N in all.
  """

  def value(sums):  # [..., N * K]
    each = np.split(sums, len(draws), axis=-1)
    return np.mean([draws[0].value(own) for own in each], axis=0)

  rows = np.concatenate([each.rows for each in draws], axis=-1)
  return draws[0]._replace(rows=rows, value=value)
