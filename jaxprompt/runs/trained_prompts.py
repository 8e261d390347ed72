"""Prompts from where they are kept: runs, adapters, and what a config begins with."""

import functools

import jax
from ml_collections import config_dict

from jaxprompt import config as config_lib
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.lm import loading
from jaxprompt.prompts import peft
from jaxprompt.prompts import prompt
from jaxprompt.prompts import trained
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import workdir as workdir_lib
from jaxprompt.tasks import template as template_lib
from jaxprompt.train import checkpoint


def best_prompt(workdir):
  """Returns the best prompt of a workdir, see `kinds`, and the epochs' records.

  Raises:
    UserError: if no epoch has been trained there.
  """
  best = checkpoint.read_best(workdir / 'checkpoints')
  if best is None:
    raise errors.UserError(
      f'--workdir {str(workdir)!r} has no checkpoint of a finished epoch; train there '
      'first (--mode=train)'
    )
  return best[0], best[1]['epochs']


def initial_prompt(experiment):
  """Returns the prompt before training, see `kinds`."""
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
  initialise = functools.partial(initialise, length=config.length)
  return {'embeddings': setup.of_table(experiment, initialise)}


def _other_prompt(experiment):
  """Returns the best prompt of another run's workdir, or that of a PEFT adapter."""
  config, width = experiment.config.prompt, experiment.lm.spec.width
  directory = workdir_lib.resolve(config.init)
  if _is_adapter(directory):
    found = _read_adapter(experiment, directory)
  else:
    best = checkpoint.read_best(directory / 'checkpoints')
    if best is None:
      raise errors.UserError(
        f'prompt.init {config.init!r} holds no trained prompt; expected text, vocab, '
        'random, the workdir of a run, or a PEFT adapter directory'
      )
    records.check_content(directory, _of_model(experiment), 'prompt.init')
    found, _ = best
  shape = found['embeddings'].shape
  if shape != (config.length, width):
    raise errors.UserError(
      f'prompt.init {config.init!r} is a prompt of {shape[0]} tokens of width '
      f'{shape[1]}, expected {config.length} of width {width}; use the same '
      'model, and its prompt.length'
    )
  return found


def load_prompt(experiment, directory, *, task, eval_config):
  """Loads a trained prompt for use with the experiment's model.

  Args:
    experiment: `setup.Experiment`.
    directory: an epath: the workdir of a run, used as that run used it; or a PEFT
      adapter, which says nothing of its use, so that the experiment's config does.
    task: the name of a built-in task that an adapter is of, if it is another than the
      config's; or None.
    eval_config: the section `eval` to use instead of a workdir's own, or None.

  Returns:
    `TrainedPrompt`.

  Raises:
    UserError: if it is none, or of another model.
  """
  if _is_adapter(directory):
    config = adopt(experiment.config, directory)
    if task and task != config.task:
      config.update(
        {
          name: config_lib.default(task)[name]
          for name in ('task', 'example', 'metrics')
        }
      )
    arrays = _read_adapter(experiment, directory)
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
    arrays, _ = best_prompt(directory)
  setup.check_positions(config, experiment.lm, experiment.template)
  return trained.as_configured(arrays, config_lib.task_of(config), config)


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


def _of_model(experiment):
  return {name: experiment.fingerprints[name] for name in ('weights', 'tokenizer')}


def _is_adapter(directory):
  return (directory / peft.CONFIG).exists()


def _read_adapter(experiment, directory):
  lm = experiment.lm
  soft_prompt = peft.read(
    directory,
    base=embedded.model_path(experiment.config.model.path),
    weights=experiment.fingerprints['weights'],
    width=lm.spec.width,
    blocks=lm.spec.blocks,
    heads=lm.spec.heads,
  )
  return {'embeddings': soft_prompt}


def adapter(config, workdir):
  """Returns the files of a run's PEFT adapter, {name: bytes}.

  Args:
    config: of the run.
    workdir: its epath.
  """
  best, _ = best_prompt(workdir)
  lm, _, tokenizer, fingerprint = loading.load(config.model.path, config.model.dtype)
  records.check_content(workdir, fingerprint)
  return peft.files_of(
    best['embeddings'],
    base=embedded.model_path(config.model.path),
    weights=fingerprint['weights'],
    blocks=lm.spec.blocks,
    heads=lm.spec.heads,
    name=config.prompt.name,
    task=config.task,
    template=config_lib.task_of(config).template + tokenizer.eos_token,
  )
