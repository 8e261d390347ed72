"""What a run would be: its rows, steps, shapes, memory and operations.

Data and a model's shapes are loaded, no weights. What a device holds is read of the
compiled programs, for the longest rows.
"""

import collections
import dataclasses
from typing import NamedTuple

import jax

from jaxprompt.data import loader
from jaxprompt.devices import compiled
from jaxprompt.devices import devices
from jaxprompt.runs import programs
from jaxprompt.runs import results
from jaxprompt.runs import setup
from jaxprompt.training import loop


class Split(NamedTuple):
  """The rows of a split, tokenised."""

  rows: int
  skipped: int
  sources_cut: int
  targets_cut: int
  tokens: int  # of sources and targets, none of a prompt


class Use(NamedTuple):
  """What a program takes of one device."""

  memory: compiled.Memory
  operations: int  # of matrix products, in floating point


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a run would be.

  Attributes:
    weights: of the model, and their bytes over all devices, each once.
    devices: {'data' or 'model': how many share a batch, or the weights}.
    splits: {name: `Split`}.
    batches: {padded shape of training rows, see `buckets.shapes`: steps an epoch}.
    batch_rows: of an optimiser step, over all devices.
    padding: the share of an epoch's tokens.
    steps: optimiser steps of the run.
    uses: {program: `Use`}.
  """

  weights: tuple[int, int]
  devices: dict[str, int]
  splits: dict[str, Split]
  batches: dict[tuple[int, int], int]
  batch_rows: int
  padding: float
  steps: int
  uses: dict[str, Use]


def plan(config, progress):
  """Returns the `Plan` of a config's run on the devices that JAX sees.

  Raises:
    UserError: as `setup.build`, but for the weights.
  """
  # A program under `pmap` is the one over a mesh.
  layout = devices.layout('jit', config.parallel.data, config.parallel.model)
  layout.check_divides(config.train.batch_size)
  experiment = setup.build(config, layout, progress, weights=False)
  train = loop.train_loader(experiment, config, keeps_contexts=False)
  batches = collections.Counter(shape for _, shape in train.in_order())
  weights = jax.tree.leaves(experiment.params)
  return Plan(
    weights=(experiment.model.size, sum(x.size * x.dtype.itemsize for x in weights)),
    devices=dict(layout.mesh.shape),
    splits={name: _split(rows) for name, rows in experiment.splits.items()},
    batches={shape: batches[shape] for shape in train.shapes if shape in batches},
    batch_rows=config.train.batch_size * config.train.accumulate,
    padding=train.padding,
    steps=loop.total_steps(config, len(train)),
    uses=_uses(experiment, train),
  )


def _split(rows):
  return Split(
    len(rows.rows),
    rows.skipped,
    rows.sources_cut,
    rows.targets_cut,
    int(rows.rows.lengths.sum()),
  )


def _uses(experiment, train):
  """Returns {program: `Use`} of the longest rows of each split."""
  config, layout = experiment.config, experiment.layout
  prompt = programs.prompt(config, experiment.lm, experiment.params)
  loop.try_optimizer(config.train, experiment.params, prompt)
  tables = [experiment.splits[name].rows for name in ('validation', 'test')]
  measured = [
    loader.Loader(
      rows,
      layout,
      batch_size=experiment.evaluator.batch_size,
      pad_id=0,
      apart=config.prompt.position == 'suffix',
    )
    for rows in tables
  ]
  sizes = programs.Sizes(
    max(train.shapes, key=sum),
    max((shape for each in measured for shape in each.shapes), key=sum),
    max(int(rows.lengths[:, 0].max()) for rows in tables),
  )
  found = programs.of_run(
    config, experiment.lm, layout, experiment.params, sizes, experiment.template
  )
  return {program.name: _use(program, layout) for program in found}


def _use(program, layout):
  traced = program.traced()
  memory = compiled.memory(traced.lower().compile())
  return Use(memory, compiled.operations(traced, layout))


def text(plan):
  """Returns a `Plan` as lines to print."""
  number, size = plan.weights
  data, model = (plan.devices[name] for name in (devices.DATA, devices.MODEL))
  tokens = plan.splits['train'].tokens
  return '\n'.join(
    [
      f'model: {number:,} weights, {_bytes(size)}',
      f'devices: {data * model}, {data} sharing a batch x {model} sharing the weights',
      f'training: {plan.steps:,} steps of {plan.batch_rows:,} rows, '
      f'{sum(plan.batches.values()):,} an epoch of {tokens:,} tokens; padding is '
      f'{100 * plan.padding:.1f}% of what is run',
      '',
      results.aligned(
        [('rows', 'number', 'skipped', 'sources cut', 'targets cut', 'tokens')]
        + [(name, *map(_count, split)) for name, split in plan.splits.items()]
      ),
      '',
      results.aligned(
        [('training rows padded to', 'targets', 'steps an epoch')]
        + [(*map(_count, shape), _count(n)) for shape, n in plan.batches.items()]
      ),
      '',
      results.aligned(
        [('one device, the longest rows', 'held', 'at peak', 'GFLOP a call')]
        + [(name, *_use_cells(use)) for name, use in plan.uses.items()]
      ),
    ]
  )


def _use_cells(use):
  return *map(_bytes, use.memory), f'{use.operations / 1e9:,.3g}'


def _bytes(size):
  return f'{size / 1e9:.2f} GB' if size >= 1e9 else f'{size / 1e6:.2f} MB'


def _count(number):
  return f'{number:,}'
