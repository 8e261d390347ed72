"""A trained prompt, or one of text in its place, and how it is used."""

import dataclasses

from jaxprompt import errors
from jaxprompt.prompts import arms
from jaxprompt.prompts import kinds
from jaxprompt.tasks import tasks


@dataclasses.dataclass(frozen=True)
class TrainedPrompt:
  """A trained prompt, and how it is used."""

  arrays: dict  # see `kinds`, float32
  position: str  # 'prefix' or 'suffix'
  task: tasks.Task
  max_source_tokens: int
  max_new_tokens: int
  beams: int
  calibration: str  # of a classification's labels, see `labels.CALIBRATIONS`
  wording: arms.Wording | None = None  # of a written prompt, whose arrays are its front
  others: tuple['TrainedPrompt', ...] = ()  # that answer together with it: an ensemble

  @property
  def members(self):
    return self, *self.others

  def answer_tokens(self, template):
    """Returns how many tokens an answer may have, see `Template.answer_tokens`."""
    return template.answer_tokens(self.task.labels, self.max_new_tokens)

  @property
  def placement(self):
    return kinds.place(self.arrays, self.position)


def ensemble(prompts):
  """Returns the `TrainedPrompt` of several prompts that answer every source together.

  Raises:
    UserError: if they are of different tasks, or generate in different ways.
  """
  first, *others = prompts
  for other in others:
    ours, theirs = _in_common(first), _in_common(other)
    for name in ours:
      if ours[name] != theirs[name]:
        raise errors.UserError(
          f'prompts that answer together differ in {name}: {ours[name]!r:.60} and '
          f'{theirs[name]!r:.60}; use prompts of one task, and set the fields of eval '
          'that differ'
        )
  room = min(each.max_source_tokens for each in prompts)
  return dataclasses.replace(first, max_source_tokens=room, others=tuple(others))


def _in_common(prompt):
  """Returns what the prompts of an ensemble must have in common."""
  return {
    'example.source': prompt.task.source,
    'example.cut': prompt.task.cut,
    'example.labels': prompt.task.labels,
    'eval.max_new_tokens': prompt.max_new_tokens,
    'eval.beams': prompt.beams,
    'eval.calibration': prompt.calibration,
  }
