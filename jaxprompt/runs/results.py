"""results.json and the table: what a finished run found."""

import importlib.metadata
import itertools
import math
import platform
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprompt import errors
from jaxprompt.infer import evaluate
from jaxprompt.prompts import arms
from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics

# What an arm learned from, and what it costs; 0 where it is not said.
BUDGET = {
  'rows': 0,  # training rows seen
  'validation_rows': 0,  # rows that it was chosen by
  'steps': 0,  # optimiser steps
  'texts': 0,  # tried
  'parameters': 0,  # trained
  'tokens': 0.0,  # that every query has beyond the bare source's, a mean over rows
  'seconds': 0.0,  # of training, or of the choice
}
_VIRTUAL_TOKENS, _NEAREST = 10, 3  # shown in the terminal; results.json has all
_PACKAGES = (
  'jaxprompt',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'transformers',
  'tokenizers',
  'datasets',
  'sacrebleu',
  'rouge-score',
  'numpy',
)


def versions():
  """Returns {package: version} of all that can change a result."""
  found = {name: _version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


def _version(package):
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:  # a checkout on the path alone
    raise errors.UserError(
      f'the package {package} is not installed for {sys.executable}; expected what '
      '`pip install -c constraints.txt -e .` installs'
    ) from None


def devices():
  """Returns a name for each device, as JAX gives it."""
  return [
    f'{device.platform}:{device.id} {device.device_kind}' for device in jax.devices()
  ]


def setting(config, fingerprints):
  """Returns what config.json holds: the config, and what it runs with.

  Args:
    config: of the run.
    fingerprints: of the weights, the tokenizer and the splits, {name: hash}.
  """
  return {
    'config': config.to_dict(),
    'fingerprints': fingerprints,
    'versions': versions(),
    'devices': devices(),
  }


class Measured(NamedTuple):
  """What was measured of an arm on the test rows."""

  draws: list[evaluate.Evaluation]  # one; or of each draw of its examples
  tuning: dict  # see `BUDGET`; and the text, the texts tried with their losses
  wordings: Sequence[arms.Wording] = ()  # of each draw, of a written arm

  @property
  def evaluation(self):
    return evaluate.averaged(self.draws)


def compared(measured, seed):
  """Returns what results.json says of the arms: `test`, `differences`, `tuning`.

  Args:
    measured: {arm: `Measured`}.
    seed: of the bootstrap.
  """
  evaluations = {name: own.evaluation for name, own in measured.items()}
  figures = next(iter(evaluations.values())).statistics
  return {
    'test': {name: _entry(own, seed) for name, own in measured.items()},
    'differences': [
      _difference(figure, found)
      for figure in figures
      for found in statistics.differences(
        {name: own.statistics[figure] for name, own in evaluations.items()}, seed
      )
    ],
    'tuning': {name: {**BUDGET, **own.tuning} for name, own in measured.items()},
  }


def _entry(measured, seed):
  """Returns one arm's entry of `test`; several draws have their own figures in it."""
  evaluation = measured.evaluation
  figures = evaluation.figures()
  loss, confusion = figures.pop('loss'), {}
  if evaluation.confusion is not None:  # gold by predicted, in the labels' order
    confusion['confusion'] = evaluation.confusion.tolist()
  entry = {
    'loss': loss,
    'perplexity': math.exp(min(loss, 700.0)),  # JSON has no infinity
    'examples': len(evaluation.predictions),
    **figures,
    **confusion,
    'ci95': evaluation.intervals(seed),
  }
  if len(measured.draws) > 1:
    own = [each.figures() for each in measured.draws]
    entry['spread'] = {
      name: float(np.std([x[name] for x in own], ddof=1)) for name in own[0]
    }
    entry['draws'] = [
      {'shown': wording.shown, **each}
      for wording, each in zip(measured.wordings, own, strict=True)
    ]
  return entry


def _difference(figure, found):
  low, high = found.interval
  better = None
  if low > 0 or high < 0:
    better = (found.difference < 0) == metrics.of(figure).lower_is_better
  return {
    'figure': figure,
    'arm': found.arm,
    'other': found.other,
    'difference': found.difference,
    'ci95': [low, high],
    'better': better,
  }


def predictions(measured, rows):
  """Returns the lines of an arm's predictions, those of the test rows in order.

  Args:
    measured: `Measured`.
    rows: the test rows.
  """
  evaluation = measured.evaluation
  texts = zip(*(each.predictions for each in measured.draws), strict=True)
  return [
    {
      'id': row.id,
      'source': row.source,
      'target': row.target,
      'prediction': prediction,
      'references': row.references,
      'scores': scores,
      **labels,
      **({'draws': drawn} if len(drawn) > 1 else {}),
    }
    for row, prediction, scores, labels, drawn in zip(
      rows,
      evaluation.predictions,
      evaluation.row_figures(),
      evaluation.described_labels(),
      texts,
      strict=True,
    )
  ]


def difference(results, figure, arm, other):
  """Returns the entry of `differences` of two arms, whichever comes first there."""
  for found in results['differences']:
    if found['figure'] == figure and {found['arm'], found['other']} == {arm, other}:
      if found['arm'] == arm:
        return found
      low, high = found['ci95']
      better = None if found['better'] is None else not found['better']
      return {
        'figure': figure,
        'arm': arm,
        'other': other,
        'difference': -found['difference'],
        'ci95': [-high, -low],
        'better': better,
      }
  raise KeyError((figure, arm, other))


def across_seeds(runs):
  """Returns how trained prompts that differ in their seed alone compare.

  Args:
    runs: of each seed: the seed, soft's entry of `test`, its predictions' texts.

  Returns:
    The seeds; of every figure the mean, the standard deviation, and the worst with its
    seed; and the share of rows to which two seeds give the same text, a mean over
    pairs of seeds.
  """
  seeds, entries, texts = zip(*runs, strict=True)

  def spread(figure):
    values = [entry[figure] for entry in entries]
    worst = (np.argmax if metrics.of(figure).lower_is_better else np.argmin)(values)
    return {
      'mean': float(np.mean(values)),
      'deviation': float(np.std(values, ddof=1)),
      'worst': values[worst],
      'worst_seed': seeds[worst],
    }

  same = [
    np.mean([x == y for x, y in zip(one, other, strict=True)])
    for one, other in itertools.combinations(texts, 2)
  ]
  return {
    'seeds': list(seeds),
    'figures': {figure: spread(figure) for figure in entries[0]['ci95']},
    'agreement': float(np.mean(same)),
  }


def ensemble(together, alone, seed):
  """Returns what several prompts find together, and by how much that is better.

  Args:
    together: the `evaluate.Evaluation` of the prompts that answer together.
    alone: that of each by itself.
    seed: of the bootstrap.

  Returns:
    Their entry as in `test` of results.json, and the `differences` between that and
    `mean`, where the figures of each by itself are averaged.
  """
  found = compared(
    {
      'mean': Measured(alone, {}, [arms.Wording('')] * len(alone)),
      'ensemble': Measured([together], {}),
    },
    seed,
  )
  return {**found['test']['ensemble'], 'differences': found['differences']}


def best_other(results, figure):
  """Returns the arm that has the best figure but for soft; None if there is none."""
  others = [name for name in results['test'] if name != 'soft']
  sign = 1 if metrics.of(figure).lower_is_better else -1
  return min(others, key=lambda x: sign * results['test'][x][figure], default=None)


def table(results, columns):
  """Returns the arms as a text table, with 95% intervals, and how soft stands.

  Args:
    results: as in results.json.
    columns: names of figures.
  """
  test, soft_prompt = results['test'], results['prompt']
  trained = 'a prompt that was given'
  if results['epochs']:
    trained = f'best epoch {results["best_epoch"]}, one seed'
  head = (
    f'{results["task"]}, {results["model"]}: {test["soft"]["examples"]} '
    f'test rows, {soft_prompt["length"]} virtual tokens ({soft_prompt["parameters"]} '
    f'parameters), {trained}'
  )
  return '\n'.join([head, arms_table(test, columns), *_standing(results, columns)])


def arms_table(test, columns):
  """Returns the arms' figures of those names as a text table; `test` as in `table`."""
  rows = [['arm', *map(_title, columns)]]
  for name, entry in test.items():
    spread = entry.get('spread')  # over draws
    rows.append(
      [
        name,
        *(
          _cell(entry[column], entry['ci95'][column])
          + (f' ± {spread[column]:.3f}' if spread else '')
          for column in columns
        ),
      ]
    )
  return aligned(rows)


def _standing(results, columns):
  """Returns the lines that compare soft with the best other arm, row by row."""
  if best_other(results, 'loss') is None:
    return []
  rows = [['soft less the best other arm', '', 'so soft is']]
  for column in columns:
    other = best_other(results, column)
    found = difference(results, column, 'soft', other)
    rows.append(
      [
        f'{_title(column)}, {other}',
        _cell(found['difference'], found['ci95'], '+'),
        VERDICTS[found['better']],
      ]
    )
  return [aligned(rows)]


VERDICTS = {True: 'better', False: 'worse', None: 'undecided'}


def _title(figure):
  return {'token_match': '% Exact Match'}.get(figure, figure)


def nearest_table(results):
  """Returns what the first virtual tokens are near to, as a text table."""
  found = results.get('nearest_tokens', [])
  rows = [['virtual token', 'nearest, with the cosine', 'norm', 'drift']]
  for i, near in enumerate(found[:_VIRTUAL_TOKENS], 1):
    pairs = list(zip(near['tokens'], near['cosines'], strict=True))[:_NEAREST]
    words = '  '.join(f'{token!r} {cosine:.2f}' for token, cosine in pairs)
    drift = f'{near["drift"]:.2f}' if 'drift' in near else ''
    rows.append([str(i), words, f'{near["relative_norm"]:.2f}', drift])
  more = len(found) - _VIRTUAL_TOKENS
  rest = f'\nand {more} more in results.json' if more > 0 else ''
  return aligned(rows) + rest


def aligned(rows):
  """Returns rows of cells as lines, each column as wide as its widest cell."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )


def _cell(value, interval, sign=''):
  low, high = interval
  return f'{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'
