"""The rows of the four tasks; three have the columns of the hub's data sets."""

import random
from collections.abc import Callable
from typing import Any

from tools.tiny import passages

SIZES = {'train': 1000, 'validation': 130, 'test': 110}

Row = dict[str, Any]


def qa(rng: random.Random, held_out: bool) -> Row:
  """Two persons and a question about one of them, as in squad."""
  passage = passages.draw_passage(
    rng,
    people=2,
    facts_each=rng.randint(3, 4),
    style=passages.RICH,
    held_out=held_out,
  )
  asked = passages.choose(rng, passages.questions(passage))
  return {
    'context': passage.english,
    'question': asked.question,
    'answers': {'text': [asked.answer], 'answer_start': [asked.start]},
  }


def summarization(rng: random.Random, held_out: bool) -> Row:
  """An article and its headline, as in cnn_dailymail."""
  article = passages.draw_article(rng, style=passages.RICH, held_out=held_out)
  return {'article': article.passage.english, 'highlights': article.headline}


def translation(rng: random.Random, held_out: bool) -> Row:
  """A sentence in English and in German, as in wmt16."""
  told = passages.draw_sentence(rng, passages.RICH, held_out=held_out)
  return {'translation': {'en': told.english, 'de': told.german}}


def text(rng: random.Random, held_out: bool) -> Row:
  """What is told of a person by name, and which pronoun is theirs: a classification."""
  passage = passages.draw_passage(
    rng,
    people=1,
    facts_each=rng.randint(2, 3),
    style=passages.RICH._replace(pronouns=0),
    held_out=held_out,
  )
  (article,) = {person.article for person, _ in passage.tellings}
  return {'text': passage.english, 'label': 'she' if article == 'die' else 'he'}


TASKS: dict[str, Callable[[random.Random, bool], Row]] = {
  'qa': qa,
  'summarization': summarization,
  'translation': translation,
  'text': text,
}


def splits(seed: int, task: str) -> dict[str, list[Row]]:
  """The rows of each split, no two alike; only `train` makes claims not held out."""
  rng = random.Random(f'{task} {seed}')
  rows: dict[str, list[Row]] = {split: [] for split in SIZES}
  seen = set()
  for split, size in SIZES.items():
    while len(rows[split]) < size:
      row = TASKS[task](rng, split != 'train')
      if str(row) not in seen:
        seen.add(str(row))
        rows[split].append({'id': f'{split}-{len(rows[split]):04d}', **row})
  return rows
