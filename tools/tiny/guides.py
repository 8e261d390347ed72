"""Where some heads are shown to look while the tiny model is pretrained.

Left to itself, a model of this size comes to read by the kind of a word alone: asked
where Anna lives, it finds a town, whosever. To do better it has to know whom a word is
about, find the question's words again in the passage, and put both together, and as
long as it does not do all of that, no step towards any of it is worth anything. So a
head each is shown these steps, which the grammar that made the text knows, by a loss on
its attention (Deshpande and Narasimhan 2020, arXiv:2010.02399) that fades out before
the end. What to make of what they see, the heads learn from the text alone.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tools.tiny import words

# (block, head): what it is shown; `places` says what that is.
HEADS = {
  (0, 0): 'before',
  (1, 0): 'after_same',
  (1, 1): 'subject',
  (2, 0): 'same',
  (4, 0): 'answer',
}

NAMES = tuple(person.name for person in words.PEOPLE)
_SENTENCE = re.compile(r'[^.?\n]+\.')
# `Anna ...`, `She ...`, `On Monday Anna ...`, `Am Montag kaufte Anna ...`.
_SUBJECT = re.compile(
  r'\s*(?:\W{1,3} )?(?:On \w+ |Am \w+ \w+ )?'
  rf'(She|He|Sie|Er|she|he|sie|er|{"|".join(NAMES)})\b'
)
_WHO = re.compile(r'Who (.+)\?$')
_NAME_OF_FACT = re.compile(r'- (.+)(?:: | = | < )(\w+)$')
_LAST_WORD = re.compile(r'(\w+)$')


class Clause(NamedTuple):
  """Characters `start` to `end` of a text are about the person `NAMES[subject]`."""

  start: int
  end: int
  subject: int


class Answer(NamedTuple):
  """Characters `start` to `end` answer what the character at `place` told before.

  They are a copy of what begins there, or they name whom it is about.
  """

  start: int
  end: int
  place: int
  copied: bool


def clauses(text: str) -> list[Clause]:
  """The sentences that are about somebody, from their subject on."""
  found, subject = [], None
  for sentence in _SENTENCE.finditer(text):
    match = _SUBJECT.match(sentence[0])
    if not match:
      continue
    if match[1] in NAMES:
      subject = NAMES.index(match[1])
    if subject is not None:
      start = sentence.start() + match.start(1)
      found.append(Clause(start, sentence.end(), subject))
  return found


def answers(text: str) -> list[Answer]:
  """What is told again, below the passage that a text begins with."""
  found, passage, question, offset = [], None, '', 0
  for line in text.split('\n'):
    if passage is None:
      if line.endswith('.') and clauses(line):
        passage, base = line, offset
    elif line.endswith('?'):
      question = line
    else:
      answer = _answer(passage, question, line)
      if answer:
        start, end, place, copied = answer
        found.append(Answer(offset + start, offset + end, base + place, copied))
      question = ''
    offset += len(line) + 1
  return found


def _answer(passage: str, question: str, line: str) -> Answer | None:
  """What a line answers, its `place` counted from the passage's start."""
  told, who = _NAME_OF_FACT.match(line), _WHO.search(question)
  if told or who:
    fact = told[1] if told else who[1]
    name = _LAST_WORD.search(line)
    at = _find(passage, fact)
    if name and at >= 0:
      return Answer(*name.span(), at + len(fact) - 1, copied=False)
  elif question:
    for start in (0, *(space.end() for space in re.finditer(' ', line))):
      at = _find(passage, line[start:]) if line[start:] else -1
      if at >= 0:
        return Answer(start, len(line), at, copied=True)
  return None


def _find(passage: str, phrase: str) -> int:
  """The place of a phrase of whole words, or -1."""
  match = re.search(rf'(?<![^\W_]){re.escape(phrase)}(?![^\W_])', passage)
  return match.start() if match else -1


def annotate(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
  """What `places` has to know of a text's tokens besides the tokens.

  Args:
    text: a document.
    offsets: the characters of each token, from its start to its end.

  Returns:
    [2, tokens]: of each token whom it is about, an index of `NAMES` plus one; and
    where the answer is that comes next, a token's index plus one. 0 is none.
  """
  found = np.zeros((2, len(offsets)), np.uint16)
  ends = np.array([end for _, end in offsets])
  for start, end, subject in clauses(text):
    found[0, (ends > start) & (ends <= end)] = subject + 1
  for start, end, place, copied in answers(text):
    first, last = np.searchsorted(ends, [start, end - 1], side='right')
    for token in range(first, last + 1 if copied else first + 1):
      char = max(offsets[token][0], start)
      char += text[char] == ' '
      told = place + (char - start if copied else 0)
      found[1, token - 1] = np.searchsorted(ends, told, side='right') + 1
  return found


def places(rows: jax.Array, names: jax.Array, end_of_text: int) -> dict[str, jax.Array]:
  """Where each token is to look.

  Args:
    rows: [B, 3, T]: token ids, and what `annotate` says, indices being those of a row.
    names: [1 + people, N]: the ids that a name may begin with, by `annotate`'s index.
    end_of_text: the id that ends a document, beyond which nothing is looked for.

  Returns:
    Indices [B, T], -1 for anywhere, of
    'before': the token before;
    'same': the last one before that is the same;
    'after_same': the one behind the last that was followed by what follows here;
    'subject': the last name of whom the token is about;
    'answer': what tells the answer that comes next.
  """
  tokens, subject, answer = rows[:, 0], rows[:, 1], rows[:, 2]
  length = tokens.shape[1]

  def each_pair(x, y):  # [B, T, T]: a later token's x is an earlier one's y
    return x[:, :, None] == y[:, None, :]

  def last(pairs):
    return jnp.where(pairs, jnp.arange(length), -1).max(-1)

  ends = tokens == end_of_text
  document = jnp.cumsum(ends, axis=1) - ends
  together = each_pair(document, document) & np.tri(length, dtype=bool)
  same = each_pair(tokens, tokens) & together & ~np.eye(length, dtype=bool)
  following = jnp.roll(tokens, -1, axis=1)
  followed = last(same & each_pair(following, following))
  named = jnp.any(tokens[:, :, None] == names[subject], axis=-1)
  about = each_pair(subject, subject) & (subject > 0)[:, :, None]
  return {
    'before': jnp.broadcast_to(jnp.arange(length) - 1, tokens.shape),
    'same': last(same),
    'after_same': jnp.where(followed >= 0, followed + 1, -1),
    'subject': last(together & about & named[:, None, :]),
    'answer': answer - 1,
  }


def loss(attentions: Sequence[jax.Array], wanted: dict[str, jax.Array]) -> jax.Array:
  """The sum over `HEADS` of the mean surprise, in nats, at where each should look.

  Args:
    attentions: of each block, [B, heads, T, T].
    wanted: what `places` returns.
  """
  total = 0.0
  for (block, head), what in HEADS.items():
    place = wanted[what]
    weights = attentions[block][:, head]  # [B, T, T]
    seen = jnp.take_along_axis(weights, jnp.maximum(place, 0)[..., None], axis=-1)
    surprise = -jnp.log(seen[..., 0] + 1e-4)
    shown = place >= 0
    total += jnp.sum(surprise, where=shown) / jnp.maximum(jnp.sum(shown), 1)
  return total
