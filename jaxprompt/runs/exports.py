"""Ways out: a run's prompt as files that other programs read."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from jaxprompt import config as config_lib
from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.data import sources
from jaxprompt.devices import devices
from jaxprompt.infer import unchosen
from jaxprompt.lm import loading
from jaxprompt.prompts import embeddings
from jaxprompt.prompts import exported
from jaxprompt.prompts import merged
from jaxprompt.prompts import peft
from jaxprompt.prompts import trained
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts
from jaxprompt.tasks import template as template_lib

log = logging.getLogger(__name__)


class Format(NamedTuple):
  """A way out."""

  what: str  # that is written
  is_ours: Callable  # see `exported.check`
  refuse: (
    Callable  # config -> None; raises `UserError` for a prompt it has no place for
  )
  write: Callable  # (config, workdir, directory, progress) -> None


def export(config, workdir, directory, name, *, overwrite, progress):
  """Writes the best prompt of a run as files for other programs.

  Args:
    config: of the run.
    workdir: its epath.
    directory: a pathlib path.
    name: a key of `FORMATS`.
    overwrite: what an export of this format has written may be there.
    progress: see `evaluate.Evaluator`.

  Raises:
    UserError: if the format has no place for such a prompt, or something is there.
  """
  form = FORMATS[name]
  form.refuse(config)
  exported.check(directory, overwrite, form.what, form.is_ours)
  form.write(config, workdir, directory, progress)


def _peft(config, workdir, directory, progress):
  del progress
  prompt, loaded, template = _loaded(config, workdir)
  files = peft.files_of(
    prompt.arrays,
    base=embedded.model_path(config.model.path),
    weights=loaded.fingerprint['weights'],
    spec=loaded.lm.spec,
    name=prompt.task.prompt_name,
    task=prompt.task.name,
    template=prompt.task.template + template.tokenizer.eos_token,
  )
  exported.write(directory, files)


def _embeddings(config, workdir, directory, progress):
  del progress
  prompt, loaded, template = _loaded(config, workdir)
  files = embeddings.files_of(
    prompt,
    base=embedded.model_path(config.model.path),
    weights=loaded.fingerprint['weights'],
    spec=loaded.lm.spec,
    template=template,
  )
  exported.write(directory, files)


def _merged(config, workdir, directory, progress):
  prompt = _prompt(config, workdir)
  # The data first, as in `setup.build`.
  data = embedded.data_path(config.data.path, config.task)
  split = sources.read(data, config.data.subset, seed=config.data.seed)['validation']
  experiment = setup.build_model(config, devices.layout(**config.parallel), progress)
  lm, template, evaluator = experiment.lm, experiment.template, experiment.evaluator
  found = setup.load_rows(
    experiment.task, template, 'validation', split, config.data, progress
  )
  fingerprints = {**experiment.fingerprints, 'validation': found.fingerprint}
  records.check_content(workdir, fingerprints)
  low = unchosen.measure(lm, evaluator, prompt.placement, found.rows)
  del experiment, evaluator  # the weights, which are read again from their files
  log.info(
    'the virtual tokens have the lowest logits at %d of %d validation tokens',
    low.last,
    low.tokens,
  )
  if low.last < low.tokens:
    log.warning(
      'the model may choose a virtual token; use an engine that does as '
      'suppress_tokens in generation_config.json says'
    )
  with exported.replacing(directory) as temporary:
    merged.write(
      temporary,
      prompt,
      path=embedded.model_path(config.model.path),
      lm=lm,
      template=template,
      unchosen=low.row,
      texts=[row.source for row in found.rows],
    )


def _refuse_suffix(config):
  if config.prompt.position != 'prefix':
    raise errors.UserError(
      f'prompt.position is {config.prompt.position!r}; PEFT knows only a prompt in '
      'front, so only a prefix can be exported; --format=merged and '
      '--format=embeddings take both'
    )


def _refuse_deep(config):
  if config.prompt.kind == 'deep':
    raise errors.UserError(
      "prompt.kind is 'deep', keys and values of every block, which no row of an "
      'embedding table stands for; use --format=peft, or train prompt.kind=embedding'
    )


FORMATS = {
  'peft': Format('an adapter', peft.is_ours, _refuse_suffix, _peft),
  'merged': Format(merged.WHAT, merged.is_ours, _refuse_deep, _merged),
  'embeddings': Format(embeddings.WHAT, embeddings.is_ours, _refuse_deep, _embeddings),
}


def _prompt(config, workdir):
  """Returns the `trained.TrainedPrompt` of a run."""
  best, _ = trained_prompts.best_prompt(workdir)
  return trained.as_configured(best, config_lib.task_of(config), config)


def _loaded(config, workdir):
  """Returns a run's `trained.TrainedPrompt`, `loading.Model` and `Template`."""
  prompt = _prompt(config, workdir)
  loaded = loading.load(config.model.path, config.model.dtype)
  records.check_content(workdir, loaded.fingerprint)
  template = template_lib.Template(loaded.tokenizer, loaded.lm.end_ids)
  return prompt, loaded, template
