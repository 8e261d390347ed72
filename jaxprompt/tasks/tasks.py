"""The three tasks: what a row means, how it is prompted, how its output is scored.

A new task is one `Task` in `TASKS` and one file in `configs/`.
"""

import dataclasses
import json
import re
import reprlib
from collections.abc import Callable
from collections.abc import Sequence

from jaxprompt import errors
from jaxprompt.tasks import metrics
from jaxprompt.tasks import statistics


@dataclasses.dataclass(frozen=True)
class Example:
  """One row as text. The source is `head + tail`."""

  id: str
  head: str  # cut at its end when the source is too long
  tail: str  # never cut
  target: str
  references: tuple[str, ...]  # all the gold targets, for the metrics


@dataclasses.dataclass(frozen=True)
class Task:
  """A task's fixed parts.

  Attributes:
    prompt_name: the soft prompt's name.
    hard_prompt: the text of the hard arm.
    hard_prompts: those of which the arm best_hard takes the best: texts, or templates
      that hold {source}.
    template: what a prompted text looks like before its end, for people.
    source: from a row in the hub's columns to the source's head and tail; raises
      `RowError` with what is wrong with the row.
    targets: from such a row to its gold targets, likewise.
    score: from predictions and their gold targets to named `statistics.Statistics`.
    metrics: the names that `score` gives, and `token_match`, the main one first.
    signatures: gives {metric: the settings that it was computed with}.
    keeps_last_line: whether a source's last line, a question, is never cut.
  """

  prompt_name: str
  hard_prompt: str
  hard_prompts: tuple[str, ...]
  template: str
  source: Callable[[dict], tuple[str, str]]
  targets: Callable[[dict], Sequence[str]]
  score: Callable[..., dict[str, statistics.Statistics]]
  metrics: tuple[str, ...]
  signatures: Callable[[], dict[str, str]] = dict
  keeps_last_line: bool = False


def _text(value, name):
  if not isinstance(value, str):
    raise errors.RowError(f'{name} is {reprlib.repr(value)}, expected a string')
  if not value.strip():
    raise errors.RowError(f'{name} is blank')
  return value


def _column(row, name):
  if name not in row:
    raise errors.RowError(
      f'column {name!r} is missing; found {", ".join(map(repr, row)):.200}'
    )
  return row[name]


def _nested(row, name, key):
  """Returns `row[name][key]`; in CSV, the cell holds it as JSON."""
  value = _column(row, name)
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except (ValueError, RecursionError) as e:
      raise errors.RowError(f'{name} is not JSON: {e}') from e
  if not isinstance(value, dict) or key not in value:
    raise errors.RowError(
      f'{name} is {reprlib.repr(value)}, expected an object with {key!r}'
    )
  return value[key]


def _summarization_source(row):
  return _text(_column(row, 'article'), 'article'), ''


def _summarization_targets(row):
  return [_text(_column(row, 'highlights'), 'highlights')]


def _qa_source(row):
  context = _text(_column(row, 'context'), 'context')
  question = _text(_column(row, 'question'), 'question')
  return context, '\n' + question.strip()


def _qa_targets(row):
  answers = _nested(row, 'answers', 'text')
  if not isinstance(answers, list | tuple):
    raise errors.RowError(
      f'answers.text is {reprlib.repr(answers)}, expected a list of strings'
    )
  if not answers:
    raise errors.RowError('answers.text is empty: the question has no answer')
  return [_text(answer, 'answers.text') for answer in answers]


def _translation_source(row):
  return _text(_nested(row, 'translation', 'en'), 'translation.en'), ''


def _translation_targets(row):
  return [_text(_nested(row, 'translation', 'de'), 'translation.de')]


TASKS = {
  'summarization': Task(
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
    template='{article}\\n {highlights}',
    source=_summarization_source,
    targets=_summarization_targets,
    score=metrics.rouge,
    metrics=('rougeL', 'rouge1', 'rouge2', 'token_match'),
    signatures=metrics.rouge_signature,
  ),
  'qa': Task(
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
    template='{context}\\n{question}\\n {answer}',
    source=_qa_source,
    targets=_qa_targets,
    score=metrics.squad,
    keeps_last_line=True,
    metrics=('squad_f1', 'squad_em', 'token_match'),
  ),
  'translation': Task(
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
    template='{english}\\n {german}',
    source=_translation_source,
    targets=_translation_targets,
    score=metrics.translation,
    metrics=('bleu', 'chrf', 'token_match'),
    signatures=metrics.sacrebleu_signatures,
  ),
}


def parse(task, row, index):
  """Returns the `Example` of one row, its text made safe and stripped at the ends.

  Args:
    task: a `Task`.
    row: a dict in the hub's columns.
    index: the row's number, its id if the row has none.

  Raises:
    RowError: says what is wrong with the row.
  """
  head, tail = parse_source(task, row)
  targets = tuple(clean(target).strip() for target in task.targets(row))
  return Example(row_id(row, index), head, tail, targets[0], targets)


def parse_source(task, row):
  """Returns the head and the tail of a row's source alone; raises as `parse`."""
  head, tail = task.source(row)
  return clean(head).strip(), clean(tail)


def head_and_tail(task, source):
  """Returns the head and the tail of a source that is typed as one text."""
  if not task.keeps_last_line:
    return source, ''
  head, newline, tail = source.rpartition('\n')
  return head, newline + tail


def row_id(row, index):
  """Returns the row's own id, or its number if it has none."""
  identity = row.get('id')
  try:
    return clean(str(index if identity is None else identity))
  except RecursionError:  # nested as deep as JSON could just be read
    return str(index)


def clean(text):
  """Returns a text that can be tokenised and written."""
  # A lone surrogate is no character: no tokenizer or UTF-8 file takes one.
  return re.sub('[\ud800-\udfff]', '\ufffd', text)
