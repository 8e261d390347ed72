"""From a config to what a run works with: model, rows, arms, and the comparison."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from jaxprompt import checkpoint
from jaxprompt import contexts
from jaxprompt import data
from jaxprompt import decode
from jaxprompt import devices
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt import evaluate
from jaxprompt import loader
from jaxprompt import peft
from jaxprompt import placement
from jaxprompt import prompt
from jaxprompt import records
from jaxprompt import results
from jaxprompt import sources
from jaxprompt import steps
from jaxprompt import tasks
from jaxprompt import template as template_lib
from jaxprompt import workdir as workdir_lib
from jaxprompt.lm import loading
from jaxprompt.lm import model as lm_model

log = logging.getLogger(__name__)

_NEAREST = 5  # vocabulary tokens named for each virtual one


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
  splits: dict[str, data.Rows] = dataclasses.field(default_factory=dict)


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
    split: data.load(
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
    config.model.path, config.model.dtype
  )
  template_lib.check_tokenizer(tokenizer, config.model.path)
  template = template_lib.Template(tokenizer)
  _check_positions(config, lm, template)
  lm, params = lm.on(layout.platform), layout.place_params(lm, params)

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


def train_loader(experiment, config, keeps_contexts=True):
  """Returns the `loader.Loader` of the training rows' optimiser steps.

  Args:
    experiment: `Experiment`.
    config: of the run.
    keeps_contexts: whether the sources before a suffix prompt are kept.
  """
  capacity = contexts.capacity(config.train.context_cache_gb) if keeps_contexts else 0
  return loader.Loader(
    experiment.splits['train'].rows,
    experiment.layout,
    batch_size=config.train.batch_size * config.train.accumulate,
    pad_id=experiment.template.end_id,
    apart=config.prompt.position == 'suffix',
    contexts=contexts.Contexts(
      experiment.lm,
      experiment.params,
      experiment.layout,
      dtype=config.train.context_dtype,
      capacity=capacity,
    ),
  )


def _check_positions(config, lm, template):
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


def _of_table(experiment, function):
  """Returns what a function of the embedding table [V, H] gives, as host arrays."""
  lm = experiment.lm

  def of_params(params):
    return function(lm.embed(params, jnp.arange(lm.spec.vocab_size)))

  return jax.device_get(experiment.layout.whole(of_params)(experiment.params))


def initial_prompt(experiment):
  """Returns the soft prompt before training, [P, H] float32."""
  config = experiment.config.prompt
  rng = jax.random.key(experiment.config.seed)
  if config.init == 'text':
    text = config.text or experiment.config.hard_prompt
    text_ids, _ = template_lib.encode(experiment.template.tokenizer, text)
    initialise = functools.partial(prompt.from_text, text_ids=text_ids)
  elif config.init == 'vocab':
    initialise = functools.partial(prompt.from_vocab, rng=rng)
  elif config.init == 'random':
    initialise = functools.partial(prompt.from_normal, rng=rng)
  else:
    return _other_prompt(experiment)
  return _of_table(experiment, functools.partial(initialise, length=config.length))


def _other_prompt(experiment):
  """Returns the best prompt of another run's workdir, or that of a PEFT adapter."""
  config, width = experiment.config.prompt, experiment.lm.spec.width
  directory = workdir_lib.resolve(config.init)
  if _is_adapter(directory):
    trained = _read_adapter(experiment, directory)
  else:
    best = checkpoint.read_best(directory / 'checkpoints')
    if best is None:
      raise errors.UserError(
        f'prompt.init {config.init!r} holds no trained prompt; expected text, vocab, '
        'random, the workdir of a run, or a PEFT adapter directory'
      )
    records.check_content(directory, _of_model(experiment), 'prompt.init')
    trained, _ = best
  if trained.shape != (config.length, width):
    raise errors.UserError(
      f'prompt.init {config.init!r} is a prompt of {trained.shape[0]} tokens of width '
      f'{trained.shape[1]}, expected {config.length} of width {width}; use the same '
      'model, and its prompt.length'
    )
  return trained


def _of_model(experiment):
  return {name: experiment.fingerprints[name] for name in ('weights', 'tokenizer')}


def _is_adapter(directory):
  return (directory / peft.CONFIG).exists()


def _read_adapter(experiment, directory):
  lm = experiment.lm
  return peft.read(
    directory,
    base=embedded.model_path(experiment.config.model.path),
    weights=experiment.fingerprints['weights'],
    width=lm.spec.width,
    blocks=lm.spec.blocks,
    heads=lm.spec.heads,
  )


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained prompt to use, and the config that it is used with."""

  soft_prompt: np.ndarray  # [P, H]
  config: object  # ml_collections.ConfigDict


def load_prompt(experiment, directory, *, task, eval_config):
  """Loads a trained prompt for use with the experiment's model.

  Args:
    experiment: `Experiment`.
    directory: an epath: the workdir of a run, used as that run used it; or a PEFT
      adapter, which says nothing of its use, so that the experiment's config does.
    task: of an adapter, if it is another than the config's; or None.
    eval_config: the section `eval` to use instead of a workdir's own, or None.

  Returns:
    `Trained`.

  Raises:
    UserError: if it is none, or of another model.
  """
  if _is_adapter(directory):
    config = adopt(experiment.config, directory)
    config.task = task or config.task
    soft_prompt = _read_adapter(experiment, directory)
  else:
    config = _run_config(directory)
    theirs, ours = config.model.dtype, experiment.config.model.dtype
    if theirs != ours:
      raise errors.UserError(
        f'--prompt {str(directory)!r} was trained with model.dtype {theirs}, not '
        f'{ours}; use prompts of one model'
      )
    records.check_content(directory, _of_model(experiment), '--prompt')
    if eval_config is not None:
      config.eval = eval_config
    soft_prompt, _ = best_prompt(directory)
  _check_positions(config, experiment.lm, experiment.template)
  return Trained(np.asarray(soft_prompt), config)


def adopt(config, directory):
  """Returns a copy of a config whose prompt is that of a workdir or a PEFT adapter."""
  config = config.copy_and_resolve_references()
  if _is_adapter(directory):
    length, position = peft.length(directory), 'prefix'
  else:
    theirs = _run_config(directory).prompt
    length, position = theirs.length, theirs.position
  config.prompt.update(init=str(directory), length=length, position=position)
  return config


def _run_config(directory):
  if not (directory / 'config.json').exists():
    raise errors.UserError(
      f'--prompt {str(directory)!r} holds no trained prompt; expected the workdir of a '
      'run, or a PEFT adapter directory'
    )
  return config_dict.ConfigDict(records.read_config(directory)['config'])


def arms(experiment, soft_prompt):
  """Returns {arm: `placement.Placement`}; a hard text always stands in front."""
  ids = np.asarray(experiment.template.in_front(experiment.config.hard_prompt))
  embed = experiment.layout.whole(experiment.lm.embed)
  hard = jax.device_get(embed(experiment.params, ids)).astype(np.float32)
  none = np.zeros((0, experiment.lm.spec.width), np.float32)
  return {
    'none': placement.place(none, 'prefix'),
    'hard': placement.place(hard, 'prefix'),
    'soft': placement.place(soft_prompt, experiment.config.prompt.position),
  }


def adapter(config, workdir):
  """Returns the files of a run's PEFT adapter, {name: bytes}.

  Args:
    config: of the run.
    workdir: its epath.
  """
  soft_prompt, _ = best_prompt(workdir)
  lm, _, tokenizer, fingerprint = loading.load(config.model.path, config.model.dtype)
  records.check_content(workdir, fingerprint)
  return peft.files_of(
    soft_prompt,
    base=embedded.model_path(config.model.path),
    weights=fingerprint['weights'],
    blocks=lm.spec.blocks,
    heads=lm.spec.heads,
    name=config.prompt.name,
    task=config.task,
    template=tasks.TASKS[config.task].template + tokenizer.eos_token,
  )


def _read_prompt(experiment, soft_prompt, initial_prompt):
  """Returns for each virtual token what it is near to, as results.json has it."""
  ids, cosines, norms = _of_table(
    experiment, lambda table: prompt.nearest_tokens(soft_prompt, table, _NEAREST)
  )
  found = [
    {
      'tokens': [evaluate.piece(experiment.template.tokenizer, i) for i in token_ids],
      'cosines': token_cosines.tolist(),
      'relative_norm': float(norm),
    }
    for token_ids, token_cosines, norm in zip(ids, cosines, norms, strict=True)
  ]
  if initial_prompt is not None:
    change = soft_prompt - initial_prompt
    drifts = _of_table(experiment, functools.partial(prompt.relative_norms, change))
    for near, drift in zip(found, drifts, strict=True):
      near['drift'] = float(drift)
  return found


def _data_summary(experiment):
  """Returns for each split its rows, how many were cut, and the share of padding."""
  config = experiment.config
  step_rows = config.train.batch_size * config.train.accumulate
  apart, summary = config.prompt.position == 'suffix', {}
  for split, rows in experiment.splits.items():
    batch_size = step_rows if split == 'train' else experiment.evaluator.batch_size
    summary[split] = {
      'rows': len(rows.rows),
      'sources_cut': rows.sources_cut,
      'targets_cut': rows.targets_cut,
      'skipped': rows.skipped,
      'padding': data.padding(rows.rows, apart, batch_size),
    }
  return summary


def best_prompt(workdir):
  """Returns the best prompt of a workdir, [P, H], and the epochs' records.

  Raises:
    UserError: if no epoch has been trained there.
  """
  best = checkpoint.read_best(workdir / 'checkpoints')
  if best is None:
    raise errors.UserError(
      f'--workdir {str(workdir)!r} has no checkpoint of a finished epoch; train there '
      'first (--mode=train)'
    )
  return np.asarray(best[0]), best[1]['epochs']


def compare(experiment, soft_prompt, epochs, workdir, initial_prompt=None):
  """Measures the three arms on the test rows; writes predictions and results.json.

  Args:
    experiment: `Experiment`.
    soft_prompt: the best prompt, [P, H].
    epochs: the records of the epochs trained.
    workdir: an epath.
    initial_prompt: what it was before them, [P, H], if that is known.

  Returns:
    The content of results.json.
  """
  config = experiment.config
  rows = experiment.splits['test'].rows
  test = {}
  for name, arm in arms(experiment, soft_prompt).items():
    measured = evaluate.evaluate(experiment.evaluator, arm, rows, f'test, {name}')
    test[name] = results.arm(measured, config.seed)
    workdir_lib.write_jsonl(
      workdir / 'predictions' / f'{name}.jsonl',
      [
        {
          'id': row.id,
          'source': row.source,
          'target': row.target,
          'prediction': prediction,
          'references': row.references,
          'scores': scores,
        }
        for row, prediction, scores in zip(
          rows, measured.predictions, measured.row_figures(), strict=True
        )
      ],
    )
  found = {
    'task': config.task,
    'model': config.model.path,
    'model_parameters': sum(x.size for x in jax.tree.leaves(experiment.params)),
    **results.setting(config, experiment.fingerprints),
    'signatures': experiment.task.signatures(),
    'data': _data_summary(experiment),
    'prompt': {
      'name': config.prompt.name,
      'length': config.prompt.length,
      'init': config.prompt.init,
      'position': config.prompt.position,
      'parameters': int(np.size(soft_prompt)),
    },
    'nearest_tokens': _read_prompt(experiment, soft_prompt, initial_prompt),
    'epochs': epochs,
    'best_epoch': results.best_epoch(epochs),
    'test': test,
  }
  workdir_lib.write_json(workdir / 'results.json', found)
  return found
