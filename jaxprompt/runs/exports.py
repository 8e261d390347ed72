"""Ways out: trained prompts as files that other programs read."""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

from jaxprompt import embedded
from jaxprompt import errors
from jaxprompt.devices import devices
from jaxprompt.infer import evaluate
from jaxprompt.infer import unchosen
from jaxprompt.prompts import embeddings
from jaxprompt.prompts import exported
from jaxprompt.prompts import merged
from jaxprompt.prompts import peft
from jaxprompt.runs import records
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts

log = logging.getLogger(__name__)


class Format(NamedTuple):
  """A way out."""

  what: str  # that is written
  is_ours: Callable  # see `exported.check`
  refuse: Callable  # `TrainedPrompt` -> None; raises `UserError` if it has no place
  files: Callable | None  # of one prompt: see `embeddings.files_of`


def export(runs, directory, name, *, overwrite, progress):
  """Writes the best prompts of runs as files for other programs.

  Args:
    runs: {name of the prompt: (config, epath of the workdir)}, of one model; several
      for `merged` alone.
    directory: a pathlib path.
    name: a key of `FORMATS`.
    overwrite: what an export of this format has written may be there.
    progress: see `evaluate.Evaluator`.

  Raises:
    UserError: if the format has no place for such a prompt, or something is there.
  """
  prompts = {key: _prompt(*run) for key, run in runs.items()}
  check(prompts, directory, name, overwrite)
  # The data first, as in `setup.build`.
  rows = {}
  for key, (config, _) in runs.items() if name == 'merged' else ():
    rows[key] = setup.read(config)['validation']
  config, _ = next(iter(runs.values()))
  model = setup.load_model(config.model, devices.layout(**config.parallel))
  for key, (config, workdir) in runs.items():
    fingerprints = dict(model.fingerprint)
    if key in rows:
      found = setup.load_rows(
        prompts[key].task,
        model.template,
        'validation',
        rows[key],
        config.data,
        progress,
      )
      rows[key], fingerprints['validation'] = found.rows, found.fingerprint
    records.check_content(workdir, fingerprints)
  write(
    directory,
    prompts,
    name,
    model,
    rows,
    overwrite=overwrite,
    batch_size=config.eval.batch_size,
    progress=progress,
  )


def check(prompts, directory, name, overwrite):
  """Raises `UserError` for prompts, {name: `TrainedPrompt`}, or a place of no use."""
  form = FORMATS[name]
  if len(prompts) > 1 and form.files:
    raise errors.UserError(
      f'--format={name} holds one prompt, and there are {len(prompts)}; export each by '
      'itself, or all with --format=merged'
    )
  for prompt in prompts.values():
    form.refuse(prompt)
  exported.check(directory, overwrite, form.what, form.is_ours)


def write(directory, prompts, name, model, rows, *, overwrite, batch_size, progress):
  """Writes prompts that `check` has passed.

  Args:
    directory, name, overwrite, progress: as of `export`.
    prompts: {name: `trained.TrainedPrompt`}.
    model: `setup.Model`.
    rows: {name: `rows.Table`} for `merged`: of validation, where it is measured which
      token is never chosen.
    batch_size: of those.
  """
  check_again = functools.partial(check, prompts, directory, name, overwrite)
  if files := FORMATS[name].files:
    (prompt,) = prompts.values()
    of_model = {
      'base': embedded.model_path(model.path),
      'weights': dict(model.fingerprint)['weights'],
      'spec': model.lm.spec,
    }
    found = files(prompt, model.template, **of_model)
    exported.write(directory, found, check_again)
    return
  asked = [(prompts[key].placement, table) for key, table in rows.items()]
  rare = unchosen.measure(model, asked, batch_size=batch_size, progress=progress)
  log.info(
    'each virtual token is as likely as %r, at most %.1e at %d validation tokens',
    evaluate.piece(model.template.tokenizer, rare.token_id),
    rare.probability,
    rare.tokens,
  )
  with exported.replacing(directory, check_again) as temporary:
    merged.write(
      temporary,
      prompts,
      path=embedded.model_path(model.path),
      lm=model.lm,
      template=model.template,
      unchosen=rare.token_id,
      texts=[row.source for table in rows.values() for row in table],
    )


def _adapter(prompt, template, **of_model):
  return peft.files_of(
    prompt.arrays,
    name=prompt.task.prompt_name,
    task=prompt.task.name,
    template=prompt.task.template + template.tokenizer.eos_token,
    ranked=exported.ranked(template, prompt),
    **of_model,
  )


_DEEP_SUFFIX = 'a deep suffix has no format, it is for --mode=predict and --mode=serve'


def _refuse_suffix(prompt):
  if prompt.position != 'prefix':
    others = '--format=merged and --format=embeddings take both'
    raise errors.UserError(
      f'prompt.position is {prompt.position!r}; PEFT knows only a prompt in front, so '
      f'only a prefix can be exported; {_DEEP_SUFFIX if _is_deep(prompt) else others}'
    )


def _refuse_deep(prompt):
  if _is_deep(prompt):
    other = 'use --format=peft, or train prompt.kind=embedding'
    raise errors.UserError(
      "prompt.kind is 'deep', keys and values of every block, which no row of an "
      'embedding table stands for; '
      f'{other if prompt.position == "prefix" else _DEEP_SUFFIX}'
    )


def _is_deep(prompt):
  return 'embeddings' not in prompt.arrays


FORMATS = {
  'peft': Format('an adapter', peft.is_ours, _refuse_suffix, _adapter),
  'merged': Format(merged.WHAT, merged.is_ours, _refuse_deep, None),
  'embeddings': Format(
    embeddings.WHAT, embeddings.is_ours, _refuse_deep, embeddings.files_of
  ),
}


def _prompt(config, workdir):
  """Returns the `trained.TrainedPrompt` of a run."""
  best, _ = trained_prompts.best_prompt(workdir)
  return trained_prompts.as_configured(best, config)
