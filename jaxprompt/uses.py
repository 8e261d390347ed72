"""A prompt of any kind, trained or written, as generation takes it."""

import dataclasses

from jaxprompt import errors
from jaxprompt import nouns
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.prompts import trained as trained_lib
from jaxprompt.runs import comparison


def use(experiment, prompt, given):
  """Returns a prompt of any kind as a `trained.TrainedPrompt`.

  Args:
    experiment: `setup.Experiment` of the model.
    prompt: `nouns.Prompt` or `nouns.Written`.
    given: {name: value} of what a trained prompt is not to use its own of.

  Raises:
    UserError: if it is several texts, or leaves no room for a source.
  """
  model, template, config = experiment.model, experiment.template, experiment.config
  if nouns.is_soft(prompt):
    use = dataclasses.replace(prompt.use, **given)
    around = kinds.length(use.arrays)
  else:
    wording, *others = prompt.wordings(template)
    if others:
      raise errors.UserError(
        f'prompt is one of {1 + len(others)} texts; choose one by compare, and give it'
      )
    around = arms.tokens_around(wording, template)
    front = comparison.in_front(model, arms.ids_in_front(wording, template)).prefix
    use = trained_lib.as_configured({'embeddings': front}, experiment.task, config)
    use = dataclasses.replace(use, position='prefix', wording=wording)
  room = model.lm.spec.max_positions - around
  room -= template.frame_tokens + use.max_new_tokens
  if room < 1:
    raise errors.UserError(
      f'max_new_tokens is {use.max_new_tokens}, which leaves no room for a source in '
      f'the {model.lm.spec.max_positions} positions of the model; lower it'
    )
  limit = min(room, use.max_source_tokens) if nouns.is_soft(prompt) else room
  return dataclasses.replace(use, max_source_tokens=limit)
