"""Prompts from where they are kept: runs, adapters, and what a config begins with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from jaxprompt import config as config_lib
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.devices import processes
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import peft
from jaxprompt.prompts import prompt
from jaxprompt.prompts import trained
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import tasks
from jaxprompt.tasks import template as template_lib
from jaxprompt.training import checkpoint


def best_prompt(workdir):
  """Returns the best prompt of a workdir, see `kinds`, and the epochs' records.

  Raises:
    UserError: if no epoch has been trained there.
  """
  best = checkpoint.read_best(workdir / 'checkpoints')
  if best is None:
    raise errors.UserError(
      f'{str(workdir)!r} has no checkpoint of a finished epoch; train there first'
    )
  return best[0], best[1]['epochs']


def initial_prompt(experiment):
  """Returns the prompt before training, see `kinds`."""
  config, seed = experiment.config.prompt, experiment.config.seed
  template, rng = experiment.template, jax.random.key(seed)
  if config.init == 'text':
    text = config.text or experiment.config.hard_prompt
    text_ids, _ = template_lib.encode(template.tokenizer, text)
    initialise = functools.partial(prompt.from_text, text_ids=text_ids)
  elif config.init == 'examples':
    rows = experiment.splits['train'].rows
    text_ids = arms.last_ids(template, rows, config.length, seed)
    initialise = functools.partial(prompt.from_text, text_ids=text_ids)
  elif config.init == 'vocab':
    initialise = functools.partial(prompt.from_vocab, rng=rng)
  elif config.init == 'random':
    initialise = functools.partial(prompt.from_normal, rng=rng)
  else:
    return _other_prompt(experiment)
  initialise = functools.partial(initialise, length=config.length)
  return _begun(experiment, setup.of_table(experiment.model, initialise))


def begun_at(experiment, arrays):
  """Returns a prompt of the config's kind that begins at another one's arrays."""
  config = experiment.config.prompt
  if 'embeddings' in arrays:
    return _begun(experiment, arrays['embeddings'])
  if config.kind != 'deep':
    raise errors.UserError(
      f'prompt.init {config.init!r} holds keys and values, which prompt.kind '
      f'{config.kind!r} cannot begin at; use prompt.kind=deep'
    )
  return arrays


def _begun(experiment, embeddings):
  """Returns a prompt of the config's kind that begins at embeddings, [P, H]."""
  begin = kinds.KINDS[experiment.config.prompt.kind]
  rng = jax.random.fold_in(jax.random.key(experiment.config.seed), 1)

  def of_params(params):
    return begin(experiment.lm, params, jnp.asarray(embeddings), rng)

  return jax.device_get(experiment.layout.whole(of_params)(experiment.params))


def _other_prompt(experiment):
  """Returns a prompt that begins at other runs' or adapters' prompts, or their mean."""
  config = experiment.config.prompt
  with processes.together():
    found = [_arrays(experiment, each.strip()) for each in config.init.split(',')]
    if len({tuple(arrays) for arrays in found}) > 1:
      raise errors.UserError(
        f'prompt.init {config.init!r} names prompts of different kinds, which have no '
        'mean; name prompts of one kind'
      )
  processes.check_same({'the content of prompt.init': kinds.digest(found)})
  mean = jax.tree.map(lambda *each: np.mean(each, axis=0, dtype=np.float32), *found)
  return begun_at(experiment, mean)


def _arrays(experiment, name):
  """Returns the arrays of the best prompt of a run's workdir, or of a PEFT adapter."""
  directory = workdir_lib.resolve(name)
  if _is_adapter(directory):
    found = _read_adapter(experiment, directory)
  else:
    best = checkpoint.read_best(directory / 'checkpoints')
    if best is None:
      if (directory / 'config.json').exists():
        records.read_run(directory)  # which says what of a sweep to take
      raise errors.UserError(
        f'prompt.init {name!r} holds no trained prompt; expected text, examples, '
        'vocab, random, the workdir of a run, or a PEFT adapter directory, or several, '
        'separated by commas'
      )
    records.check_content(directory, dict(experiment.model.fingerprint), 'prompt.init')
    found, _ = best
  wanted = experiment.config.prompt.length
  if kinds.length(found) != wanted:
    raise errors.UserError(
      f'prompt.init {name!r} is a prompt of {kinds.length(found)} tokens, expected '
      f'{wanted}; set prompt.length to that of the prompt'
    )
  return found


def as_configured(arrays, config):
  """Returns the `TrainedPrompt` of a prompt's arrays, to use as a run's config says."""
  return trained.TrainedPrompt(
    arrays=jax.tree.map(np.asarray, arrays),
    position=config.prompt.position,
    task=config_lib.task_of(config),
    max_source_tokens=config.data.max_source_tokens,
    max_new_tokens=config.eval.max_new_tokens,
    beams=config.eval.beams,
    calibration=config.eval.calibration,
  )


def load_prompt(experiment, directory, *, task=None, settings=None):
  """Loads a trained prompt for use with the experiment's model.

  Args:
    experiment: `setup.Experiment`.
    directory: an epath: the workdir of a run, used as that run used it; or a PEFT
      adapter, which says nothing of its use, so that the experiment's config does.
    task: the name of a built-in task that an adapter is of, if it is another than the
      config's; or None.
    settings: {field: value} to use instead of a workdir's own, or None.

  Returns:
    `TrainedPrompt`.

  Raises:
    UserError: if it is none, or of another model.
  """
  if _is_adapter(directory):
    config = adopt(experiment.config, directory)
    if task and task != config.task:
      config.update_from_flattened_dict(config_lib.of_task(tasks.TASKS[task]))
    arrays = _read_adapter(experiment, directory)
  else:
    config = _run_config(directory)
    theirs, ours = config.model.dtype, experiment.config.model.dtype
    if theirs != ours:
      raise errors.UserError(
        f'--prompt {str(directory)!r} was trained with model.dtype {theirs}, not '
        f'{ours}; use prompts of one model'
      )
    records.check_content(directory, dict(experiment.model.fingerprint), '--prompt')
    config.update_from_flattened_dict(settings or {})
    arrays, _ = best_prompt(directory)
  use, template = as_configured(arrays, config), experiment.template
  # Rows of training may all be short; a longer source is cut to what there is room for.
  room = setup.source_room(
    experiment.lm, template, kinds.length(arrays), use.answer_tokens(template)
  )
  return dataclasses.replace(use, max_source_tokens=min(use.max_source_tokens, room))


def adopt(config, directory):
  """Returns a copy of a config whose prompt is that of a workdir or a PEFT adapter."""
  config = config.copy_and_resolve_references()
  if _is_adapter(directory):
    kind, length, position = *peft.kind_and_length(directory), 'prefix'
  else:
    theirs = _run_config(directory).prompt
    kind, length, position = theirs.kind, theirs.length, theirs.position
  config.prompt.update(init=str(directory), kind=kind, length=length, position=position)
  return config


def _run_config(directory):
  if not (directory / 'config.json').exists():
    raise errors.UserError(
      f'--prompt {str(directory)!r} holds no trained prompt; expected the workdir of a '
      'run, or a PEFT adapter directory'
    )
  return config_dict.ConfigDict(records.read_run(directory)['config'])


def _is_adapter(directory):
  return (directory / peft.CONFIG).exists()


def check_holds(directory):
  """Raises `UserError` for a directory that is neither a run's nor an adapter."""
  if not ((directory / 'config.json').exists() or _is_adapter(directory)):
    raise errors.UserError(
      f'{str(directory)!r} holds no trained prompt; expected the workdir of a run, or '
      'a PEFT adapter directory'
    )


def _read_adapter(experiment, directory):
  return peft.read(
    directory,
    base=embedded.model_path(experiment.config.model.path),
    weights=experiment.fingerprints['weights'],
    spec=experiment.lm.spec,
  )
