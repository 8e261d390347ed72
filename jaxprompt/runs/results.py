"""results.json and the table: what a finished run found."""

import importlib.metadata
import math
import platform

import jax

ARMS = ('none', 'hard', 'soft')
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
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}


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


def arm(evaluation, seed):
  """Returns one arm's entry of results.json.

  Args:
    evaluation: `evaluate.Evaluation`.
    seed: of the bootstrap.
  """
  figures = evaluation.figures()
  loss = figures.pop('loss')
  confusion = {}
  if evaluation.confusion is not None:  # gold by predicted, in the labels' order
    confusion['confusion'] = evaluation.confusion.tolist()
  return {
    'loss': loss,
    'perplexity': math.exp(min(loss, 700.0)),  # JSON has no infinity
    'examples': len(evaluation.predictions),
    **figures,
    **confusion,
    'ci95': evaluation.intervals(seed),
  }


def table(results, columns):
  """Returns the three arms as a text table, with 95% intervals.

  Args:
    results: as in results.json.
    columns: names of figures.
  """
  titles = [name if name != 'token_match' else '% Exact Match' for name in columns]
  rows = [['arm', *titles]]
  for name in ARMS:
    entry = results['test'][name]
    cells = [_cell(entry[column], entry['ci95'][column]) for column in columns]
    rows.append([name, *cells])
  soft_prompt = results['prompt']
  head = (
    f'{results["task"]}, {results["model"]}: {results["test"]["soft"]["examples"]} '
    f'test rows, {soft_prompt["length"]} virtual tokens ({soft_prompt["parameters"]} '
    f'parameters), best epoch {results["best_epoch"]}'
  )
  return f'{head}\n{aligned(rows)}'


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


def _cell(value, interval):
  low, high = interval
  return f'{value:.3f} [{low:.3f}, {high:.3f}]'
