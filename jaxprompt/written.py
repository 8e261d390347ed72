"""Prompts of text: the nouns of the Python API that soft prompts are compared with."""

import dataclasses
from collections.abc import Sequence

from jaxprompt import arguments
from jaxprompt import errors
from jaxprompt import nouns
from jaxprompt.prompts import arms


class Written:
  """A prompt of text; `validation` holds rows that the best of several is chosen by."""

  validation: nouns.Rows | None = None

  def wordings(self, template) -> list[arms.Wording]:
    """Returns what stands around every source; `template` is that of a model."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Bare(Written):
  """The source alone."""

  def wordings(self, template):
    del template
    return [arms.BARE]


@dataclasses.dataclass(frozen=True)
class _Text(Written):
  text: str

  def __post_init__(self):
    arguments.check_is(str, 'a text', text=self.text)


@dataclasses.dataclass(frozen=True)
class Hard(_Text):
  """A text in front of the source, or around it if it holds {source}."""

  def wordings(self, template):
    return [arms.written(template, self.text)]


@dataclasses.dataclass(frozen=True)
class BestHard(Written):
  """The text with the lowest loss on validation rows, of several as of `Hard`."""

  texts: Sequence[str]
  validation: nouns.Rows

  def __post_init__(self):
    own = self.validation
    arguments.check_is(nouns.Rows, 'rows, such as data.validation', validation=own)
    if isinstance(self.texts, str) or not len(self.texts):
      raise errors.UserError(
        f'texts is {self.texts!r:.80}; expected a list of one or more texts'
      )

  @property
  def model(self):
    return self.validation.model

  def wordings(self, template):
    return [arms.written(template, text) for text in self.texts]


@dataclasses.dataclass(frozen=True)
class FewShot(Written):
  """Rows with their targets, in order, before the source."""

  rows: nouns.Rows

  def __post_init__(self):
    arguments.check_is(nouns.Rows, 'rows, such as data.train[:4]', rows=self.rows)

  @property
  def model(self):
    return self.rows.model

  def wordings(self, template):
    return [arms.examples(template, self.rows)]


@dataclasses.dataclass(frozen=True)
class Chat(_Text):
  """A text and the source in the tokenizer's chat template."""

  def wordings(self, template):
    return [arms.chat(template, self.text)]
