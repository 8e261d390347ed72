"""Tasks: what is made of a row, and how outputs are judged; three are built in."""

import dataclasses
import functools
import re

from jaxprompt import errors
from jaxprompt.tasks import columns
from jaxprompt.tasks import metrics

_NUMBER = re.compile(r'\d{1,9}')  # of a label; int() refuses 5,000 digits


@dataclasses.dataclass(frozen=True)
class Example:
  """One row as text. The source is `before + text + after`."""

  id: str
  before: str
  text: str  # cut at its end when the source is too long
  after: str
  target: str
  references: tuple[str, ...]  # all the gold targets, for the metrics

  @property
  def source(self):
    return self.before + self.text + self.after


@dataclasses.dataclass(frozen=True)
class Task:
  """A task: templates over a row's columns (see `columns`), and its metrics.

  Attributes:
    source: what the model is to work on.
    target: what it is to answer.
    cut: the column of `source` that gives way when it is too long; '' = its first.
    references: the place of all gold targets; '' = the target alone.
    empty_target: what a row without a target is to be answered; '' = such a row cannot
      be used.
    labels: of a classification, the texts that a target may be, which a row may also
      number from 0, unless they are numbers themselves; they are ranked by their
      likelihood. () = text is generated.
    metrics: names in the registry of `metrics`, the main one first.
    name: for people.
    prompt_name: what the soft prompt is called.
    hard_prompt: the text of the hard arm.
    hard_prompts: those of which the arm best_hard takes the best: texts, or templates
      that hold {source}.
  """

  source: str
  target: str
  cut: str = ''
  references: str = ''
  empty_target: str = ''
  labels: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ('token_match',)
  name: str = 'text'
  prompt_name: str = ''
  hard_prompt: str = ''
  hard_prompts: tuple[str, ...] = ()

  def __post_init__(self):
    """Raises `UserError` for what cannot be used."""
    target = self._target
    assert self._cut_at >= 0  # read here, so that a mistake in a template shows
    if self.references:
      columns.place(self.references, 'example.references')
    if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
      raise errors.UserError(
        f'example.labels is {list(self.labels)!r:.80}; expected several texts, all '
        'different'
      )
    if self.labels and (len(target) > 1 or isinstance(target[0], str)):
      raise errors.UserError(
        f'example.target is {self.target!r:.60} of a task with labels; expected one '
        "column that holds them, such as '{label}'"
      )
    if self.labels and self.references:
      raise errors.UserError(
        f'example.references is {self.references!r:.60} of a task with labels; leave '
        'it empty: what counts as right is the label alone'
      )
    if self.labels and self.empty_target and self.empty_target not in self.labels:
      raise errors.UserError(
        f'example.empty_target is {self.empty_target!r:.60}; expected one of '
        f'example.labels: {", ".join(self.labels):.200}'
      )
    if not self.metrics:
      raise errors.UserError('metrics is empty; expected at least one')
    for name in self.metrics:
      metrics.resolve(name)
      if name in metrics.OF_LABELS and not self.labels:
        raise errors.UserError(
          f'metrics has {name!r}, which is of labels; set example.labels'
        )

  @functools.cached_property
  def _source(self):
    return columns.parse(self.source, 'example.source')

  @functools.cached_property
  def _target(self):
    parts = columns.parse(self.target, 'example.target')
    if not any(isinstance(part, columns.Place) for part in parts):
      raise errors.UserError(
        f'example.target is {self.target!r:.80}; expected a template that names a '
        "column, such as '{label}'"
      )
    return parts

  @functools.cached_property
  def _cut_at(self):
    """The number of the part of the source that gives way."""
    places = [
      i for i, part in enumerate(self._source) if isinstance(part, columns.Place)
    ]
    chosen = [i for i in places if self.cut in ('', self._source[i].path)]
    if not chosen:
      named = ', '.join(self._source[i].path for i in places)
      raise errors.UserError(
        f'example.cut is {self.cut!r:.60}; expected one of the places that '
        f'example.source names: {named}'
        if places
        else f'example.source is {self.source!r:.80}; expected a template that names a '
        "column, such as 'Review: {text}'"
      )
    return chosen[0]

  @property
  def template(self):
    """What a prompted row looks like before its end, for people, in one line."""
    return f'{self.source}\n {self.target}'.replace('\n', '\\n')

  def parse(self, row, index):
    """Returns the `Example` of one row, its text made safe and stripped at the ends.

    Args:
      row: a dict by columns.
      index: the row's number, its id if the row has none.

    Raises:
      RowError: says what is wrong with the row.
    """
    source = self.parse_source(row)
    try:
      target = self._label(row) if self.labels else self._target_text(row)
    except columns.EmptyError:
      if not self.empty_target:
        raise
      target = self.empty_target
      found = [target]
    else:
      found = self._references(row) if self.references else [target]
    return Example(row_id(row, index), *source, target, tuple(found))

  def _target_text(self, row):
    """Returns the target of a row; raises `EmptyError` if it is blank."""
    found = _rendered(row, self._target)
    if not found.strip():
      raise columns.EmptyError(f'example.target {self.target!r:.60} is blank')
    return found

  def _references(self, row):
    return columns.texts(row, columns.place(self.references, 'example.references'))

  def parse_source(self, row):
    """Returns what is before the text that may be cut, the text, and what is after."""
    before, text, after = (
      self._source[: self._cut_at],
      self._source[self._cut_at],
      self._source[self._cut_at + 1 :],
    )
    return _rendered(row, before), columns.text(row, text), _rendered(row, after)

  def split(self, source):
    """Returns the same three of a source that is typed as one text, stripped.

    What is after the text that may be cut begins at the last of what divides them.
    """
    after = self._source[self._cut_at + 1 :]
    divider = after[0] if after and isinstance(after[0], str) else None
    if divider is None:
      return '', source, ''
    if len(after) > 1:
      text, divider, rest = source.rpartition(divider)
      return '', text, divider + rest
    end = divider.rstrip()  # as the source was stripped
    if source.endswith(end):
      return '', source.removesuffix(end), divider
    return '', source, ''

  def _label(self, row):
    """Returns the label of a row.

    It may be given by its number, but where labels are numbers themselves: a 1 is
    then the label '1', wherever that stands.
    """
    found = columns.value(row, self._target[0])
    text = str(found).strip()
    if found is None or not text:
      raise columns.EmptyError(f'{self._target[0].path} is {found!r}, expected a label')
    if text in self.labels:
      return text
    expected = f'expected one of {", ".join(self.labels):.200}'
    if not any(map(_NUMBER.fullmatch, self.labels)):
      is_number = not isinstance(found, bool) and _NUMBER.fullmatch(text)
      if is_number and int(text) < len(self.labels):
        return self.labels[int(text)]
      expected += f', or its number from 0 to {len(self.labels) - 1}'
    raise errors.RowError(f'{self._target[0].path} is {text!r:.60}, {expected}')

  def measure(self, outputs):
    """Returns {metric: `statistics.Statistics`} of `metrics.Outputs`."""
    return {name: metrics.resolve(name).measure(outputs) for name in self.metrics}

  def try_metrics(self, row):
    """Measures the target of a `rows.Row`, so that what fails does so before training.

    Raises:
      UserError: if a metric cannot be computed.
    """
    ids = [row.target_ids[:-1].tolist()]
    self.measure(metrics.Outputs([row.target], [row.references], ids, ids, self.labels))


TASKS = {
  'summarization': Task(
    name='summarization',
    source='{article}',
    target='{highlights}',
    metrics=('rougeL', 'rouge1', 'rouge2', 'rougeLsum', 'token_match'),
    prompt_name='[SUMMARIZE]',
    hard_prompt='Summarize the following content :',
    hard_prompts=(
      'Summarize the following content :',
      '{source}\nTL;DR:',  # Radford et al. 2019, of GPT-2
      '{source}\n\nTL;DR:',
      '{source}\nIn summary,',
      'Article: {source}\nSummary:',
      '{source}\n\nSummarize the above article in one sentence:',  # of P3 and FLAN
      'Write a short summary of this text.\n\n{source}\n\nSummary:',
      'Document:\n{source}\n\nThe main point of the document is that',
    ),
  ),
  'qa': Task(
    name='qa',
    source='{context}\n{question}',
    target='{answers.text[0]}',
    cut='context',
    references='answers.text',
    metrics=('squad_f1', 'squad_em', 'token_match'),
    prompt_name='[QUESTIONANSWERING]',
    hard_prompt='Answer the Following Question',
    hard_prompts=(
      'Answer the Following Question',
      '{source}\nAnswer:',
      '{source}\nA:',  # Radford et al. 2019, of GPT-2
      'Passage: {source}\nAnswer:',
      'Read the passage and answer the question with a few of its words.\n\n{source}'
      '\nAnswer:',
      'Context: {source}\nThe answer, in a few words, is:',
      '{source}\nThe answer to the question is',
      'Extract the answer to the question from the text.\n\n{source}\n\nAnswer:',
    ),
  ),
  'translation': Task(
    name='translation',
    source='{translation.en}',
    target='{translation.de}',
    metrics=('bleu', 'chrf', 'token_match'),
    prompt_name='[TRANSLATION]',
    hard_prompt='Translate the following sentence from english to german :',
    hard_prompts=(
      'Translate the following sentence from english to german :',
      'English: {source}\nGerman:',  # Brown et al. 2020, Vilar et al. 2022
      '{source} =',  # Radford et al. 2019, of GPT-2
      'English: {source}\nDeutsch:',
      'Translate English to German: {source}\nGerman:',  # Raffel et al. 2020
      'Translate this from English to German:\nEnglish: {source}\nGerman:',
      'Q: What is the German translation of "{source}"?\nA:',  # of GPT-3's examples
      'The English sentence "{source}" in German is:',
    ),
  ),
}


def hard_prompt(labels):
  """Returns an instruction for a task that has none of its own."""
  if not labels:
    return 'Write the answer to the following :'
  *others, last = labels
  return f'Classify the following text as {", ".join(others)} or {last} :'


def _rendered(row, parts):
  return ''.join(
    part if isinstance(part, str) else columns.text(row, part) for part in parts
  )


def row_id(row, index):
  """Returns the row's own id, or its number if it has none."""
  identity = row.get('id')
  try:
    return columns.clean(str(index if identity is None else identity))
  except RecursionError:  # nested as deep as JSON could just be read
    return str(index)
