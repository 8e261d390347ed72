"""From a config to what a run works with: model, rows, programs."""

import dataclasses
import functools
import logging

import jax
import numpy as np

from jaxprompt import config as config_lib
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.infer import labels as labels_lib
from jaxprompt.lm import loading
from jaxprompt.lm import model as lm_model
from jaxprompt.prompts import arms
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib
from jaxprompt.train import steps

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What all modes share, built once."""

  config: object  # ml_collections.ConfigDict
  task: tasks.Task
  lm: lm_model.LanguageModel
  layout: devices.Layout
  params: dict  # the frozen weights, placed
  template: template_lib.Template
  evaluator: evaluate.Evaluator
  fingerprints: dict[str, str]  # of the model, see `loading.Model`, and of the splits
  splits: dict[str, rows_lib.Rows] = dataclasses.field(default_factory=dict)
  wordings: dict[str, list[arms.Wording]] = dataclasses.field(default_factory=dict)


def build(config, layout, progress):
  """Loads data and model.

  Args:
    config: from `config.default`, checked.
    layout: `devices.Layout`.
    progress: see `evaluate.Evaluator`.

  Raises:
    UserError: for what the config asks for and cannot have.
  """
  # The data first: its mistakes show at once, a large model takes a while to load.
  path = embedded.data_path(config.data.path, config.task)
  raw = sources.read(path, config.data.subset, seed=config.data.seed)
  experiment = build_model(config, layout, progress)
  splits = {
    split: load_rows(experiment, split, raw.pop(split)) for split in sources.SPLITS
  }
  for split, rows in splits.items():
    log.info(
      '%s: %d rows, %d sources and %d targets cut, %d rows skipped',
      split,
      len(rows.rows),
      rows.sources_cut,
      rows.targets_cut,
      rows.skipped,
    )
  _check_rows(config, experiment.lm, splits)
  fingerprints = {split: rows.fingerprint for split, rows in splits.items()}
  return dataclasses.replace(
    experiment,
    splits=splits,
    fingerprints=experiment.fingerprints | fingerprints,
    wordings=_wordings(experiment, splits),
  )


def load_rows(experiment, name, split):
  """Returns the `rows_lib.Rows` that the config takes of a split of that name."""
  data, progress = experiment.config.data, experiment.evaluator.progress
  size = data[f'{name}_size']
  if data.sample == 'random':
    split = sources.sample(split, size, data.seed)
  return rows_lib.load(
    experiment.template,
    experiment.task,
    split,
    size=size,
    max_source_tokens=data.max_source_tokens,
    max_target_tokens=data.max_target_tokens,
    skip=data.bad_rows == 'skip',
    progress=lambda parts: progress(parts, f'{name} tokens'),
  )


def _wordings(experiment, splits):
  """Returns the `arms.Wording`s of each written arm.

  Raises:
    UserError: for an arm that the model cannot have, or has no positions for.
  """
  config, template = experiment.config, experiment.template
  positions = experiment.lm.spec.max_positions
  rows = [*splits['validation'].rows, *splits['test'].rows]

  def longest(source_ids, target_ids):
    answers = (max(len(ids), config.eval.max_new_tokens) for ids in target_ids)
    pairs = zip(source_ids, answers, strict=True)
    return max(len(ids) + answer for ids, answer in pairs)

  bare = arms.reworded(arms.Wording(arms.SOURCE), template, rows)
  given = arms.Given(
    template=template,
    examples=splits['train'].rows,
    hard_prompt=config.hard_prompt,
    hard_prompts=config.hard_prompts,
    shots=config.few_shot.examples,
    draws=config.few_shot.draws,
    room=positions - longest(*bare),
  )
  found = {
    name: arms.ARMS[name].wordings(given)
    for name in config.arms
    if arms.ARMS[name].wordings
  }
  for name, wordings in found.items():
    for wording in wordings:
      own = arms.reworded(wording, template, rows)
      total = len(arms.ids_in_front(wording, template)) + longest(*own)
      if total > positions:
        raise errors.UserError(
          f'the arm {name} with {wording.text!r:.80} makes a row of {total} tokens, '
          f'answer and all; model.path {config.model.path!r} has {positions} '
          'positions: shorten the text, or lower data.max_source_tokens'
        )
  return found


def build_model(config, layout, progress):
  """Loads the model alone; the arguments and errors are those of `build`."""
  task = config_lib.task_of(config)
  lm, params, tokenizer, fingerprint = loading.load(
    config.model.path, config.model.dtype, layout.placements
  )
  template = template_lib.Template(tokenizer, lm.end_ids)
  lm = lm.on(layout.platform)

  options = decode.Options(
    max_new_tokens=config.eval.max_new_tokens,
    end_ids=lm.end_ids,
    beams=config.eval.beams,
    axis_name=devices.DATA,
  )

  def generate(params, arm, rows):
    return decode.generate(lm, params, arm, *rows, options)

  evaluator = evaluate.Evaluator(
    task=task,
    template=template,
    layout=layout,
    params=params,
    row_losses=layout.gather(functools.partial(steps.row_losses, lm)),
    generate=layout.gather(generate),
    score=layout.gather(labels_lib.program(lm, template, config.eval.calibration)),
    batch_size=layout.round_up(config.eval.batch_size),
    progress=progress,
  )
  return Experiment(config, task, lm, layout, params, template, evaluator, fingerprint)


def check_positions(config, lm, template):
  """Refuses lengths that rows may have beyond the model's positions."""
  longest = config.data.max_source_tokens + template.frame_tokens
  _check_positions(
    config, lm, longest + config.eval.max_new_tokens, 'data.max_source_tokens'
  )


def _check_rows(config, lm, splits):
  """Refuses rows that are longer than the model's positions, answer and all."""
  for split, rows in splits.items():
    sources, targets = rows.rows.lengths.T  # [E] each
    if split != 'train':
      targets = np.maximum(targets, config.eval.max_new_tokens)
    longest = int((sources + targets).max())
    _check_positions(config, lm, longest, f'the longest row of {split}, answer and all')


def _check_positions(config, lm, longest, name):
  total = config.prompt.length + longest
  if total > lm.spec.max_positions:
    raise errors.UserError(
      f'prompt.length ({config.prompt.length}) and {name} make {total} tokens; '
      f'model.path {config.model.path!r} has {lm.spec.max_positions} positions: lower '
      'prompt.length, data.max_source_tokens, data.max_target_tokens or '
      'eval.max_new_tokens'
    )


def of_table(experiment, function):
  """Returns what a function of all tokens' embeddings gives, as host arrays."""
  lm = experiment.lm

  def of_params(params):
    return function(lm.vocabulary(params))

  return jax.device_get(experiment.layout.whole(of_params)(experiment.params))
