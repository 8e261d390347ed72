"""Arms: the ways to ask the frozen model that a comparison measures on the same rows.

A written arm is a function from what it may use to `Wording`s, the tokens around every
row's source. A new one is such a function and its line in `ARMS`.
"""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from jaxprompt import errors
from jaxprompt.tasks import template as template_lib

SOURCE = '{source}'  # in a text: where the source stands
_SEAMS = 8  # tokens that a text may have more than its parts
_BETWEEN_WORDS = re.compile(r'(?<=\S) (?=\S)')
_MARK = '\ue000'  # stands for the source in a chat template; of no text's own letters


@dataclasses.dataclass(frozen=True)
class Given:
  """What a written arm may use.

  Attributes:
    template: `template.Template`.
    examples: training rows, `rows.Row`s.
    hard_prompt: a text.
    hard_prompts: texts, or templates that hold `SOURCE`.
    shots, draws: how many examples to show, and how many times to draw them.
    room: the tokens that can stand before the longest row.
  """

  template: template_lib.Template
  examples: Sequence
  hard_prompt: str
  hard_prompts: Sequence[str]
  shots: int
  draws: int
  room: int


@dataclasses.dataclass(frozen=True)
class Wording:
  """What stands around every source.

  Attributes:
    text: what it is, for people.
    before: ids in front of all sources.
    lead: the text between them and the source, tokenised with it: a word's tokens
      have the space before it.
    after: the text after the source, tokenised with it; None = the template's newline.
    closing: ids after that.
    target_lead: what a target begins with.
    shown: the ids of the training rows that it shows.
  """

  text: str
  before: Sequence[int] = ()
  lead: str = ''
  after: str | None = None
  closing: Sequence[int] = ()
  target_lead: str = template_lib.SPACE
  shown: tuple[str, ...] = ()


BARE = Wording(SOURCE)  # nothing but the source


@dataclasses.dataclass(frozen=True)
class Arm:
  """An arm.

  Attributes:
    title: what it asks with, for a sentence.
    wordings: from `Given` to a list of `Wording`s; None for the trained prompt.
    chooses: whether the wording that is best on the validation rows is tested. If not,
      all are, and their figures averaged.
  """

  title: str
  wordings: Callable[[Given], list[Wording]] | None
  chooses: bool = False


def in_front(template, text):
  """Returns the `Wording` of a text in front of the source."""
  return Wording(text, template.in_front(text))


def written(template, text):
  """Returns the `Wording` of a text in front, or around `SOURCE` if it holds that.

  Raises:
    UserError: if the text is blank, or holds `SOURCE` twice.
  """
  before, source, after = text.partition(SOURCE)
  if not text.strip():
    raise errors.UserError('a hard prompt is blank; expected a text')
  if not source:
    return in_front(template, text)
  if SOURCE in after:
    raise errors.UserError(
      f'the hard prompt {text!r:.80} holds {SOURCE} twice; expected it once'
    )
  front, lead = _front(before)
  after = after.rstrip(' ')
  return Wording(
    text,
    template_lib.encode(template.tokenizer, front)[0],
    lead=lead,
    after=after,
    target_lead=_target_lead(after),
  )


def _front(before, special=()):
  """Cuts what stands before a source where no token goes across: before a word.

  To Llama 3's and Qwen's tokenizers punctuation and newlines after it are one token.

  Args:
    before: the text.
    special: what spells special tokens in it, after which it may be cut too.

  Returns:
    What is the same before all sources, and what is tokenised with each.
  """
  ends = [before.rfind(x) + len(x) for x in special if x in before]
  at = max([0, *ends, *(x.start() for x in _BETWEEN_WORDS.finditer(before))])
  return before[:at], before[at:]


def _target_lead(after):
  """Returns what a target begins with after a text: a space, unless one is there."""
  return '' if after[-1:].isspace() else template_lib.SPACE


def _none(given):
  del given
  return [BARE]


def _hard(given):
  return [in_front(given.template, given.hard_prompt)]


def _best_hard(given):
  return [written(given.template, text) for text in given.hard_prompts]


def _few_shot(given):
  return [_shots(given, draw) for draw in range(given.draws)]


def _shots(given, draw):
  """Returns training rows in the template, end of text included, as a `Wording`."""
  shown, room = [], given.room
  for i in np.random.default_rng(draw).permutation(len(given.examples)):
    row = given.examples[i]
    if row.length <= room:
      shown.append(row)
      room -= row.length - len(given.template.start_ids)
    if len(shown) == given.shots:
      break
  if not shown:
    raise errors.UserError(
      f"arms has few_shot, but before the longest row the model's positions leave "
      f'{max(given.room, 0)} tokens, too few for any training row; lower '
      'data.max_source_tokens or eval.max_new_tokens, or leave few_shot out'
    )
  return examples(given.template, shown)


def examples(template, rows):
  """Returns the `Wording` of rows in the template, end of text included."""
  ids = [id_ for row in rows for id_ in _spelled(template, row)]
  shown = tuple(row.id for row in rows)
  return Wording(f'{len(rows)} training row{"s" * (len(rows) > 1)}', ids, shown=shown)


def last_ids(template, rows, length, seed):
  """Returns the last `length` ids of training rows in the template, or all ids.

  Args:
    template: `template.Template`.
    rows: `rows.Row`s, which are drawn in an order of their own for each seed.
    length, seed: a longer text of one seed goes on in front of the shorter one.
  """
  ids = []
  for i in np.random.default_rng(seed).permutation(len(rows)):
    ids = [*_spelled(template, rows[i]), *ids]
    if len(ids) >= length:
      break
  return ids[-length:]


def _spelled(template, row):
  source_ids = row.source_ids[len(template.start_ids) :]
  return [*source_ids.tolist(), *row.target_ids.tolist()]


def _chat(given):
  return [chat(given.template, given.hard_prompt)]


def chat(template, text):
  """Returns the `Wording` of a text and the source as what a user says.

  Raises:
    UserError: if the tokenizer has no chat template, or one that cannot be used.
  """
  tokenizer = template.tokenizer
  if not tokenizer.chat_template:
    raise errors.UserError(
      'arms has chat, but the tokenizer has no chat template; use an instruction-tuned '
      'model, or leave chat out'
    )
  if SOURCE in text or not text.strip():
    raise errors.UserError(
      f'the arm chat asks with {text!r:.80}; expected an instruction without {SOURCE}, '
      'which the source follows'
    )
  content = f'{text}\n\n{_MARK}'
  try:
    said = tokenizer.apply_chat_template(
      [{'role': 'user', 'content': content}],
      tokenize=False,
      add_generation_prompt=True,
    )
  except Exception as e:  # whatever the checkpoint's template raises
    raise errors.UserError(
      "arms has chat, but the tokenizer's chat template fails: "
      f'{errors.reason(e):.300}; leave chat out'
    ) from e
  before, mark, after = said.partition(_MARK)
  if not mark:
    raise errors.UserError(
      "arms has chat, but the tokenizer's chat template leaves out what the user says; "
      'leave chat out'
    )
  special = _special(tokenizer)
  front, lead = _front(before, special)
  end = min((after.index(x) for x in special if x in after), default=len(after))
  return Wording(
    before + SOURCE + after,
    _with_special_tokens(tokenizer, front),
    lead=lead,
    after=after[:end],
    closing=_with_special_tokens(tokenizer, after[end:]),
    target_lead=_target_lead(after),
  )


def _special(tokenizer):
  """Returns what spells a special token."""
  return [x.content for x in tokenizer.added_tokens_decoder.values() if x.special]


def _with_special_tokens(tokenizer, text):
  """Returns the ids of a text of our own: what spells a special token is that token."""
  return tokenizer(text, add_special_tokens=False)['input_ids']


ARMS = {
  'none': Arm('no prompt', _none),
  'hard': Arm('the hard prompt', _hard),
  'best_hard': Arm('the best hard prompt', _best_hard, chooses=True),
  'few_shot': Arm('examples', _few_shot),
  'chat': Arm('the chat template', _chat),
  'soft': Arm('the soft prompt', None),
}


def reworded(wording, template, rows):
  """Returns the ids of every row's source, and those of its target, under a `Wording`.

  Args:
    wording: `Wording`.
    template: `template.Template`.
    rows: `rows.Row`s.
  """

  def target(row):
    if wording.after is None:
      return row.target_ids
    return template.target(row.target, None, lead=wording.target_lead)[1]

  return (
    [source_ids(wording, template, row.source, row.source_ids) for row in rows],
    [target(row) for row in rows],
  )


def source_ids(wording, template, text, ids):
  """Returns the ids of a source under a `Wording`, without those in front of all.

  Args:
    wording, template: as of `reworded`.
    text, ids: the source alone, as `template.Template.source` gives it.
  """
  is_inside = len(wording.before) > 0
  if wording.after is None:
    return ids[len(template.start_ids) :] if is_inside else ids
  text = wording.lead + text + wording.after
  if is_inside:
    ids = template.inside(text)
  else:
    ids = [*template.start_ids, *template_lib.encode(template.tokenizer, text)[0]]
  return [*ids, *wording.closing]


def empty_source(wording, template):
  """Returns the ids of a source without content, as `source_ids`.

  It is a newline; around `SOURCE`, nothing.
  """
  return source_ids(wording, template, '', template.empty_source) or [template.end_id]


def ids_in_front(wording, template):
  """Returns the ids in front of all sources, with what the tokenizer begins with."""
  start, before = template.start_ids, tuple(wording.before)
  return (*start, *before) if before and before[: len(start)] != start else before


def tokens_around(wording, template):
  """Returns the most tokens that a `Wording` adds to a source."""
  front = len(ids_in_front(wording, template))
  if wording.after is None:
    return front
  inside = len(template.inside(wording.lead + wording.after))
  return front + inside + _SEAMS + len(wording.closing)
