"""Prompts of any kind, trained or written: checked, and as generation takes them."""

import dataclasses

from jaxprompt import errors
from jaxprompt import nouns
from jaxprompt import written
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.runs import comparison
from jaxprompt.runs import setup
from jaxprompt.runs import trained_prompts


def use(experiment, prompt, given):
  """Returns a prompt of any kind as a `trained.TrainedPrompt`.

  Args:
    experiment: `setup.Experiment` of the model.
    prompt: `nouns.Prompt` or `written.Written`.
    given: {name: value} to use in place of a trained prompt's own.

  Raises:
    UserError: if it is several texts, or leaves no room for a source.
  """
  model, template, config = experiment.model, experiment.template, experiment.config
  if isinstance(prompt, nouns.Prompt):
    found = dataclasses.replace(prompt.use, **given)
    around = kinds.length(found.arrays)
  else:
    wording, *others = prompt.wordings(template)
    if others:
      raise errors.UserError(
        f'prompt is one of {1 + len(others)} texts; choose one by compare, and give it'
      )
    around = arms.tokens_around(wording, template)
    front = comparison.in_front(model, arms.ids_in_front(wording, template)).prefix
    found = trained_prompts.as_configured({'embeddings': front}, config)
    found = dataclasses.replace(found, position='prefix', wording=wording)
  new_tokens = found.answer_tokens(template)
  limit = setup.source_room(model.lm, template, around, new_tokens)
  if isinstance(prompt, nouns.Prompt):
    limit = min(limit, found.max_source_tokens)
  return dataclasses.replace(found, max_source_tokens=limit)


def check_prompts(model, prompts):
  """Raises `UserError` for what is no prompt, or one of another model."""
  for name, prompt in prompts.items():
    if not isinstance(prompt, nouns.Prompt | written.Written):
      raise errors.UserError(
        f'{name} is {prompt!r:.60}; expected a trained prompt, or one of text such as '
        "jp.Hard('...')"
      )
    check_model(model, **{name: prompt})


def check_model(model, **others):
  """Raises `UserError` for what is of another model."""
  for name, other in others.items():
    own = getattr(other, 'model', model)
    if own.fingerprint != model.fingerprint:
      raise errors.UserError(
        f'{name} is of {own!r}, not of {model!r}; use what is of one model'
      )
