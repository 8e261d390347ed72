"""The programs that a run compiles, each with its arguments as shapes.

They are what the run itself calls, so what is read of them compiled is what it will
hold, send and compute; on devices that need not be there.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprompt.data import collate
from jaxprompt.data import contexts
from jaxprompt.devices import shapes
from jaxprompt.infer import labels
from jaxprompt.infer import predict
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import placement
from jaxprompt.runs import setup
from jaxprompt.training import loop
from jaxprompt.training import steps


class Program(NamedTuple):
  """A compiled function of a run."""

  name: str
  function: object  # jitted
  arguments: tuple  # trees of shapes, placed

  def traced(self):
    """Returns the function traced for its arguments, a `jax.stages.Traced`."""
    return self.function.trace(*self.arguments)


class Sizes(NamedTuple):
  """What the batches of a run are padded to; rows are the config's."""

  train: tuple[int, int]  # see `buckets.shapes`
  evaluation: tuple[int, int]
  source: int  # tokens before generation


def of_run(config, lm, layout, params, sizes, template=None):
  """Returns the `Program`s of a run, in the order in which they are first called.

  Args:
    config: of one run.
    lm: `lm.model.LanguageModel`, of the layout's platform.
    layout: `devices.Layout` over a mesh.
    params: the weights' shapes, see `setup.abstract_params`.
    sizes: `Sizes`.
    template: `template.Template`, for a classification, which ranks labels.
  """
  given = (config, lm, layout, params, sizes)
  found = [_train_step(*given), *_evaluation(*given, template)]
  suffix = config.prompt.position == 'suffix'
  return [_contexts(*given), *found] if suffix else found


def prompt(config, lm, params):
  """Returns the shapes of a prompt's arrays, see `kinds`."""
  embeddings = jax.ShapeDtypeStruct((config.prompt.length, lm.spec.width), jnp.float32)
  initialise = functools.partial(kinds.KINDS[config.prompt.kind], lm)
  return jax.eval_shape(initialise, params, embeddings, jax.random.key(0))


def _rows(layout, shape, batch_size, apart):
  """Returns the `Batch` of a global batch, as shapes."""
  return shapes.rows(layout, collate.collate([], shape, batch_size, 0, apart))


def _step_rows(config, layout, shape):
  train = config.train
  apart = config.prompt.position == 'suffix'
  return _rows(layout, shape, train.batch_size * train.accumulate, apart)


def _contexts(config, lm, layout, params, sizes):
  batch = _step_rows(config, layout, sizes.train)
  function = contexts.program(lm, layout, config.train.context_dtype)
  rows = (batch.source_ids, batch.source_mask)
  return Program('contexts', function, (params, rows))


def _train_step(config, lm, layout, params, sizes):
  pace = loop.pace_of(config.train, 1)
  tx_of = loop.optimizer(config.train)
  start = functools.partial(steps.init_state, tx=tx_of(pace))
  state = jax.eval_shape(start, prompt(config, lm, params), params)
  batch, context = _step_rows(config, layout, sizes.train), None
  if batch.source_ids is not None:
    compute = functools.partial(contexts.compute, lm, config.train.context_dtype)
    context = jax.eval_shape(compute, params, (batch.source_ids, batch.source_mask))
    context = shapes.rows(layout, context)
  function = loop.train_program(lm, layout, tx_of, config.train.accumulate)
  state, pace = shapes.everywhere(layout, (state, pace))
  shared = params, pace
  return Program('train step', function, (state, shared, (batch, context)))


def _evaluation(config, lm, layout, params, sizes, template):
  row_losses, generate, score = setup.programs_of(config.eval, lm, layout)
  place = functools.partial(kinds.place, position=config.prompt.position)
  arm = jax.eval_shape(place, prompt(config, lm, params))
  arm = shapes.everywhere(layout, arm)
  rows = layout.round_up(config.eval.batch_size)
  batch = _rows(layout, sizes.evaluation, rows, arm.splits_rows)
  tokens = shapes.rows(layout, collate.pad([], sizes.source, rows, 0))
  losses = Program('losses', row_losses, (params, arm, batch))
  if not config.example.labels:
    return [losses, Program('generation', generate, (params, arm, tokens))]
  empty = labels.empty_source(config.eval.calibration, arms.BARE, template)
  found = labels.tokenise(template, config.example.labels, empty)
  asked = (arm, shapes.everywhere(layout, found.arrays))
  return [losses, Program('ranking of labels', score, (params, asked, tokens))]


def of_predict(config, lm, layout, params, sizes):
  """Returns the `Program` that answers rows of two prompts, before and after a source.

  Arguments as of `of_run`.
  """
  virtual = np.zeros((config.prompt.length, lm.spec.width), np.float32)
  placements = placement.stack(
    [placement.place(virtual, position) for position in placement.POSITIONS]
  )
  rows = layout.round_up(config.eval.batch_size)
  which, limits = np.zeros((rows, 1), np.int32), np.zeros(rows, np.int32)
  seeds = np.zeros(rows, np.uint32)
  tokens = collate.pad([], sizes.source, rows, 0)
  settings = predict.Settings(max_new_tokens=config.eval.max_new_tokens)
  return Program(
    'generation, two prompts',
    predict.program(lm, None, layout, settings, None),
    (
      params,
      shapes.everywhere(layout, placements),
      shapes.rows(layout, (which, limits, seeds, *tokens)),
    ),
  )
