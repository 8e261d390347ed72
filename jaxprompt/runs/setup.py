"""From a config to what a run works with: model, rows, programs."""

import dataclasses
import functools
import logging

import jax

from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.data import rows as rows_lib
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.infer import decode
from jaxprompt.infer import evaluate
from jaxprompt.lm import loading
from jaxprompt.lm import model as lm_model
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
  raw = sources.read(path, config.data.subset)
  experiment = build_model(config, layout, progress)
  splits = {
    split: rows_lib.load(
      experiment.template,
      experiment.task,
      raw[split],
      size=config.data[f'{split}_size'],
      max_source_tokens=config.data.max_source_tokens,
      max_target_tokens=config.data.max_target_tokens,
      skip=config.data.bad_rows == 'skip',
    )
    for split in sources.SPLITS
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
  fingerprints = {split: rows.fingerprint for split, rows in splits.items()}
  return dataclasses.replace(
    experiment, splits=splits, fingerprints=experiment.fingerprints | fingerprints
  )


def build_model(config, layout, progress):
  """Loads the model alone; the arguments and errors are those of `build`."""
  task = tasks.TASKS[config.task]
  lm, params, tokenizer, fingerprint = loading.load(
    config.model.path, config.model.dtype, layout.placements
  )
  template_lib.check_tokenizer(tokenizer, config.model.path)
  template = template_lib.Template(tokenizer)
  check_positions(config, lm, template)
  lm = lm.on(layout.platform)

  options = decode.Options(
    max_new_tokens=config.eval.max_new_tokens,
    eos_id=tokenizer.eos_token_id,
    beams=config.eval.beams,
    axis_name=devices.DATA,
  )

  def generate(params, arm, rows):
    return decode.generate(lm, params, arm, *rows, options)

  evaluator = evaluate.Evaluator(
    task=task,
    tokenizer=tokenizer,
    layout=layout,
    params=params,
    row_losses=layout.gather(functools.partial(steps.row_losses, lm)),
    generate=layout.gather(generate),
    batch_size=layout.round_up(config.eval.batch_size),
    progress=progress,
  )
  return Experiment(config, task, lm, layout, params, template, evaluator, fingerprint)


def check_positions(config, lm, template):
  """Refuses lengths beyond the position table, where Flax would compute NaN."""
  prompts = {
    'prompt.length': config.prompt.length,
    'the tokens of hard_prompt': len(template.in_front(config.hard_prompt)),
  }
  newline, end_of_text = template.newline_tokens, 1
  after = {
    'data.max_target_tokens': config.data.max_target_tokens + end_of_text,
    'eval.max_new_tokens': config.eval.max_new_tokens,
  }
  prompt_name = max(prompts, key=prompts.get)
  after_name = max(after, key=after.get)
  total = prompts[prompt_name] + config.data.max_source_tokens + newline
  total += after[after_name]
  if total > lm.spec.max_positions:
    raise errors.UserError(
      f'{prompt_name} ({prompts[prompt_name]}) + data.max_source_tokens '
      f'({config.data.max_source_tokens}) + newline + {after_name} '
      f'({after[after_name]}) is {total} tokens; model.path {config.model.path!r} has '
      f'{lm.spec.max_positions} positions: lower one of them'
    )


def of_table(experiment, function):
  """Returns what a function of all tokens' embeddings gives, as host arrays."""
  lm = experiment.lm

  def of_params(params):
    return function(lm.vocabulary(params))

  return jax.device_get(experiment.layout.whole(of_params)(experiment.params))
