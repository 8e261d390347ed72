"""The three tasks: what a row means, how it is prompted, how its output is scored.

A new task is one `Task` in `TASKS` and one file in `configs/`.
"""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Sequence

from jaxprompt import metrics


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
    parse: from a row in the hub's columns to head, tail and gold targets; raises
      `ValueError` with what is wrong with the row.
    score: from predictions and their gold targets to named `metrics.Statistics`.
    metrics: the names that `score` gives, and `token_match`, the main one first.
    signatures: gives {metric: the settings that it was computed with}.
  """

  prompt_name: str
  hard_prompt: str
  parse: Callable[[dict], tuple[str, str, Sequence[str]]]
  score: Callable[..., dict[str, metrics.Statistics]]
  metrics: tuple[str, ...]
  signatures: Callable[[], dict[str, str]] = dict


def _text(value, name):
  if not isinstance(value, str):
    raise ValueError(f'{name} is {value!r:.80}, expected a string')
  return value


def _column(row, name):
  if name not in row:
    raise ValueError(f'column {name!r} is missing; found {", ".join(map(str, row))}')
  return row[name]


def _nested(row, name, keys):
  """Returns `row[name]`, a mapping that must have the keys."""
  value = _column(row, name)
  if not isinstance(value, dict) or not all(key in value for key in keys):
    raise ValueError(
      f'{name} is {value!r:.80}, expected an object with {", ".join(keys)}'
    )
  return value


def _parse_summarization(row):
  article = _text(_column(row, 'article'), 'article')
  return article, '', [_text(_column(row, 'highlights'), 'highlights')]


def _parse_qa(row):
  context = _text(_column(row, 'context'), 'context')
  question = _text(_column(row, 'question'), 'question')
  answers = _nested(row, 'answers', ['text'])['text']
  if not isinstance(answers, list | tuple) or not answers:
    raise ValueError(f'answers.text is {answers!r:.80}, expected a list of strings')
  tail = '\n' + question.strip()
  return context, tail, [_text(answer, 'answers.text') for answer in answers]


def _parse_translation(row):
  pair = _nested(row, 'translation', ['en', 'de'])
  english = _text(pair['en'], 'translation.en')
  return english, '', [_text(pair['de'], 'translation.de')]


TASKS = {
  'summarization': Task(
    prompt_name='[SUMMARIZE]',
    hard_prompt='Summarize the following content :',
    parse=_parse_summarization,
    score=metrics.rouge,
    metrics=('rougeL', 'rouge1', 'rouge2', 'token_match'),
  ),
  'qa': Task(
    prompt_name='[QUESTIONANSWERING]',
    hard_prompt='Answer the Following Question',
    parse=_parse_qa,
    score=metrics.squad,
    metrics=('squad_f1', 'squad_em', 'token_match'),
  ),
  'translation': Task(
    prompt_name='[TRANSLATION]',
    hard_prompt='Translate the following sentence from english to german :',
    parse=_parse_translation,
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
    ValueError: says what is wrong with the row.
  """
  head, tail, targets = task.parse(row)
  targets = tuple(clean(target) for target in targets)
  if not all(targets):
    raise ValueError('the target is empty')
  identity = row.get('id')
  return Example(
    id=clean(str(index if identity is None else identity)),
    head=clean(head),
    tail=clean(tail, strip=False),
    target=targets[0],
    references=targets,
  )


def clean(text, strip=True):
  """Returns a text that can be tokenised, without space at its ends."""
  # A lone surrogate is no character: no tokenizer or UTF-8 file takes one.
  text = re.sub('[\ud800-\udfff]', '\ufffd', text)
  return text.strip() if strip else text
