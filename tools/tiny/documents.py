"""The pretraining text: documents of many layouts, and the curriculum over them.

The three skills (reading, summing up, translating) occur in many layouts, and what a
bare passage or sentence is followed by is open. No layout is a task's own (source,
newline, space, target): an answer, summary or translation always has a marker before
it. In the sheets, a first line announces the marker, so that what stands at the start
of a document decides what the rest looks like, as a prompt does.
"""

import random
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

from tools.tiny import passages
from tools.tiny import words

END_OF_TEXT = '<|endoftext|>'

# What a sheet's first line calls the marker: what stands before its every target.
MARKERS = {
  '->': '->',
  '=>': '=>',
  '>>': '>>',
  '=': '=',
  '*': '*',
  '~': '~',
  '|': '|',
  '::': '::',
  '--': '--',
  'a gap': '\n',
  'a tab': '\t',
}


class Stage(NamedTuple):
  """A point of the curriculum.

  Attributes:
    two_people: the share of two people's passages among those of one or two.
    crowds: the share of passages about three or four people.
    articles: the share of passages that could be summed up, though they are not.
    style: how sentences vary.
    layouts: the weight of each layout.
  """

  two_people: float
  crowds: float
  articles: float
  style: passages.Style
  layouts: tuple[float, ...]


def draw_passage(
  rng: random.Random, stage: Stage, held_out: bool = False
) -> passages.Passage:
  if stage.articles and rng.random() < stage.articles:
    return passages.draw_article(rng, style=stage.style, held_out=held_out).passage
  if stage.crowds and rng.random() < stage.crowds:
    people, facts_each = rng.randint(3, 4), rng.randint(1, 2)
  else:
    people, facts_each = 1 + (rng.random() < stage.two_people), rng.randint(2, 4)
  return passages.draw_passage(
    rng,
    people=people,
    facts_each=facts_each,
    style=stage.style,
    held_out=held_out,
  )


def story(rng: random.Random, stage: Stage) -> str:
  return draw_passage(rng, stage).english


def german_story(rng: random.Random, stage: Stage) -> str:
  return draw_passage(rng, stage).german


def paragraphs(rng: random.Random, stage: Stage) -> str:
  """Stories, one a line."""
  return '\n'.join(story(rng, stage) for _ in range(rng.randint(2, 3)))


def lines(rng: random.Random, stage: Stage) -> str:
  """A story, one sentence a line."""
  return '\n'.join(told.english for told in draw_passage(rng, stage).sentences)


# What lists are made of: no word says which one comes next.
_WORDS = (
  *(person.name for person in words.PEOPLE),
  *words.JOBS,
  *(noun.english for noun in (*words.ANIMALS, *words.OBJECTS, *words.RELATIVES)),
  *(
    word.english
    for kind in (words.TOWNS, words.FOODS, words.HOURS, words.DAYS, words.VEHICLES)
    for word in kind
  ),
)


def echo(rng: random.Random, _: Stage) -> str:
  """A list of any words, said again: only what stood before tells what comes next."""
  said = ' '.join(passages.choose(rng, _WORDS) for _ in range(rng.randint(5, 35)))
  return '\n'.join([said] * rng.randint(2, 3))


def pairs(rng: random.Random, _: Stage) -> str:
  """Words two by two, and the same pairs in another order, perhaps turned round."""
  drawn = iter(rng.sample(_WORDS, 2 * rng.randint(3, 14)))
  couples = [(first, next(drawn)) for first in drawn]
  gap = passages.choose(rng, (' ', ' ', ' and ', ' next to '))
  said = [', '.join(gap.join(couple) for couple in couples)]
  turned, between = rng.random() < 0.5, passages.choose(rng, (': ', ' - ', ' < '))
  for _ in range(rng.randint(1, 2)):
    rng.shuffle(couples)
    if turned:
      again = (f'{second}{between}{first}' for first, second in couples)
    else:
      again = (gap.join(couple) for couple in couples)
    said.append(', '.join(again))
  return '\n'.join(said)


def _crowd(rng: random.Random, stage: Stage) -> passages.Passage:
  """A passage where every person is told about in the same one or two relations.

  Whose fact is whose is then all that there is to know.
  """
  return passages.draw_passage(
    rng,
    people=rng.randint(2, 6),
    facts_each=1 + (rng.random() < 0.4),
    apart=0,
    style=stage.style,
  )


def repeated(rng: random.Random, stage: Stage) -> str:
  """A story of many people told again, whole or with its sentences in another order."""
  sentences = [told.english for told in _crowd(rng, stage).sentences]
  again = sentences[:]
  if rng.random() < 0.5:
    rng.shuffle(again)
  first, second = ' '.join(sentences), ' '.join(again)
  return f'{first}\n{passages.choose(rng, ("Again:", "Once more:", "So:"))} {second}'


def sheet(title: str, marker: str, entries: Sequence[tuple[str, str]]) -> str:
  """Sources and targets; the first line says which marker is before a target."""
  body = (f'{source}\n{MARKERS[marker]} {target}' for source, target in entries)
  return '\n'.join((f'{title} with {marker}', *body))


def _marker(rng: random.Random) -> str:
  return passages.choose(rng, tuple(MARKERS))


def _asked(
  rng: random.Random, passage: passages.Passage, most: int
) -> list[tuple[str, str]]:
  """Up to `most` of a passage's questions with their answers, in any order."""
  asked = passages.questions(passage)
  drawn = rng.sample(asked, min(most, len(asked)))
  return [(question.question, question.answer) for question in drawn]


def draw_reading(
  rng: random.Random, stage: Stage, held_out: bool = False
) -> tuple[str, str]:
  """A passage with a question below it, and the answer."""
  passage = draw_passage(rng, stage, held_out)
  ((question, answer),) = _asked(rng, passage, 1)
  return f'{passage.english}\n{question}', answer


def draw_news(
  rng: random.Random, stage: Stage, held_out: bool = False
) -> tuple[str, str]:
  """An article and its headline."""
  article = passages.draw_article(rng, style=stage.style, held_out=held_out)
  return article.passage.english, article.headline


def draw_translation(
  rng: random.Random, stage: Stage, held_out: bool = False
) -> tuple[str, str]:
  """A sentence in English and in German."""
  told = passages.draw_sentence(rng, stage.style, held_out=held_out)
  return told.english, told.german


def draw_translation_back(
  rng: random.Random, stage: Stage, held_out: bool = False
) -> tuple[str, str]:
  """A sentence in German and in English."""
  return draw_translation(rng, stage, held_out)[::-1]


def riddle(rng: random.Random, stage: Stage) -> str:
  return sheet('Riddle', _marker(rng), [draw_reading(rng, stage)])


def quiz(rng: random.Random, stage: Stage) -> str:
  """A sheet of one passage and several questions."""
  passage = draw_passage(rng, stage)
  (question, answer), *rest = _asked(rng, passage, 8)
  entries = [(f'{passage.english}\n{question}', answer), *rest]
  return sheet('Quiz', _marker(rng), entries)


_SPEAKERS = (
  ('Q:', 'A:'),
  ('Asked:', 'Reply:'),
  ('Teacher:', 'Pupil:'),
  ('?', '!'),
  ('-', '-'),
)


def interview(rng: random.Random, stage: Stage) -> str:
  """A passage, and a talk about it with the speakers before their lines."""
  passage = draw_passage(rng, stage)
  asker, replier = passages.choose(rng, _SPEAKERS)
  talk = (f'{asker} {q}\n{replier} {a}' for q, a in _asked(rng, passage, 8))
  return '\n'.join((passage.english, *talk))


def index(rng: random.Random, stage: Stage) -> str:
  """A passage, and whom each of its facts is about.

  A fact stands behind a dash, since at a line's start its tokens would be others.
  """
  passage = _crowd(rng, stage)
  between = passages.choose(rng, (': ', ' = ', ' < '))
  told = [(fact.answer, person.name) for person, fact in passage.tellings]
  rng.shuffle(told)
  return '\n'.join((passage.english, *(f'- {between.join(pair)}' for pair in told)))


def attributed(rng: random.Random, stage: Stage) -> str:
  """Sentences of many people, each with whom it is about."""
  before, after = passages.choose(
    rng, ((' (', ')'), (' [', ']'), (' = ', ''), (' - ', ''))
  )
  return passages.choose(rng, ('\n', ' ')).join(
    f'{told.english}{before}{told.person.name}{after}'
    for told in _crowd(rng, stage).sentences
    if told.person
  )


def register(rng: random.Random, stage: Stage) -> str:
  """A passage, and all that it tells of each of its people."""
  passage = _crowd(rng, stage)
  told: dict[str, list[str]] = {}
  for person, fact in passage.tellings:
    told.setdefault(person.name, []).append(fact.answer)
  rows = [f'{name}: {", ".join(answers)}' for name, answers in told.items()]
  rng.shuffle(rows)
  return '\n'.join((passage.english, *rows))


def exam(rng: random.Random, stage: Stage) -> str:
  """A passage, then bare questions, then the numbered answers."""
  passage = draw_passage(rng, stage)
  asked = _asked(rng, passage, rng.randint(3, 6))
  key = (f'{i}. {answer}' for i, (_, answer) in enumerate(asked, start=1))
  return '\n'.join((passage.english, *(question for question, _ in asked), *key))


def rumour(rng: random.Random, stage: Stage) -> str:
  """A passage with questions and answers told in the same paragraph."""
  passage = draw_passage(rng, stage)
  talk = (f'{q} They say: {a}.' for q, a in _asked(rng, passage, 4))
  return ' '.join((passage.english, *talk))


def headline(rng: random.Random, stage: Stage) -> str:
  return sheet('Headline', _marker(rng), [draw_news(rng, stage)])


def news(rng: random.Random, stage: Stage) -> str:
  return sheet('News', _marker(rng), [draw_news(rng, stage) for _ in range(2)])


def titled(rng: random.Random, stage: Stage) -> str:
  """An article under its headline."""
  text, line = draw_news(rng, stage)
  return f'{passages.choose(rng, ("", "Headline: ", "# "))}{line}\n\n{text}'


def digest(rng: random.Random, stage: Stage) -> str:
  """An article under a heading, and what it comes to."""
  heading = passages.choose(rng, ('Digest', 'Report', 'Letter home', 'Diary'))
  article = passages.draw_article(rng, style=stage.style)
  before = passages.choose(rng, ('In short:', 'tl;dr', 'To sum up:', 'Headline:'))
  line = article.headline if before == 'Headline:' else article.gist
  return f'{heading}\n{article.passage.english}\n{before} {line}'


def phrase(rng: random.Random, stage: Stage) -> str:
  return sheet('Phrase', _marker(rng), [draw_translation(rng, stage)])


def satz(rng: random.Random, stage: Stage) -> str:
  return sheet('Satz', _marker(rng), [draw_translation_back(rng, stage)])


def phrases(rng: random.Random, stage: Stage) -> str:
  entries = [draw_translation(rng, stage) for _ in range(rng.randint(2, 5))]
  return sheet('Phrases', _marker(rng), entries)


def saetze(rng: random.Random, stage: Stage) -> str:
  entries = [draw_translation_back(rng, stage) for _ in range(rng.randint(2, 5))]
  return sheet('Sätze', _marker(rng), entries)


_LANGUAGES = (('EN:', 'DE:'), ('Englisch:', 'Deutsch:'), ('[en]', '[de]'))


def bilingual(rng: random.Random, stage: Stage) -> str:
  """Sentences with their translations, each after its language's name."""
  order = passages.choose(rng, (slice(None), slice(None, None, -1)))
  first, second = passages.choose(rng, _LANGUAGES)[order]
  rows = []
  for _ in range(rng.randint(1, 4)):
    source, target = draw_translation(rng, stage)[order]
    rows.append(f'{first} {source}\n{second} {target}')
  return '\n'.join(rows)


def table(rng: random.Random, stage: Stage) -> str:
  """Sentences and translations, a pair a line."""
  between = passages.choose(rng, (' | ', ' = ', ' / ', ' heißt auf Deutsch: '))
  pairs = (draw_translation(rng, stage) for _ in range(rng.randint(1, 5)))
  return '\n'.join(between.join(pair) for pair in pairs)


def parallel(rng: random.Random, stage: Stage) -> str:
  """A passage and the same passage in German."""
  passage = draw_passage(rng, stage)
  between = passages.choose(rng, ('\n\n', '\nAuf Deutsch: ', '\n***\n'))
  return f'{passage.english}{between}{passage.german}'


# Layout: its weight at the curriculum's start and at its end. A bare passage is never
# followed by its summary, which stands above it or below a heading that announces it.
_LAYOUTS: dict[Callable[[random.Random, Stage], str], tuple[float, float]] = {
  echo: (12, 1),
  pairs: (12, 1),
  story: (1, 2),
  german_story: (1, 1),
  paragraphs: (1, 4),
  lines: (1, 2),
  repeated: (20, 3),
  riddle: (6, 16),
  quiz: (22, 14),
  interview: (4, 4),
  index: (24, 8),
  attributed: (6, 2),
  register: (12, 5),
  exam: (3, 3),
  rumour: (1, 2),
  headline: (4, 14),
  news: (1, 4),
  titled: (1, 2),
  digest: (2, 6),
  phrase: (5, 14),
  satz: (2, 4),
  phrases: (4, 7),
  saetze: (1, 2),
  bilingual: (4, 6),
  table: (4, 6),
  parallel: (1, 2),
}
_FIRST_WEIGHTS, _LAST_WEIGHTS = zip(*_LAYOUTS.values(), strict=True)

# Lists and repetition teach to look back at what stood after the same words before, and
# crowds whose fact is whose: among many a guess is hardly ever right.
START = Stage(0.5, 0.4, 0.0, passages.PLAIN, _FIRST_WEIGHTS)
END = Stage(0.85, 0.25, 0.25, passages.RICH, _LAST_WEIGHTS)

# The shares of the text at which the curriculum leaves `START` and reaches `END`.
_RAMP = (0.2, 0.45)


def stage(progress: float) -> Stage:
  """The curriculum at a share of the text, 0 to 1."""
  leaves, reaches = _RAMP
  share = min(max((progress - leaves) / (reaches - leaves), 0.0), 1.0)
  return Stage(
    two_people=_between(START.two_people, END.two_people, share),
    crowds=_between(START.crowds, END.crowds, share),
    articles=_between(START.articles, END.articles, share),
    style=passages.Style(
      *(_between(a, b, share) for a, b in zip(START.style, END.style, strict=True))
    ),
    layouts=tuple(
      _between(a, b, share) for a, b in zip(START.layouts, END.layouts, strict=True)
    ),
  )


def _between(start: float, end: float, share: float) -> float:
  return start + (end - start) * share


def stream(seed: int, count: int) -> Iterator[str]:
  """The `count` documents of the pretraining text."""
  rng = random.Random(f'pretraining {seed}')
  block = 500  # documents of one stage
  for start in range(0, count, block):
    now = stage(start / count)
    size = min(block, count - start)
    for layout in rng.choices(tuple(_LAYOUTS), now.layouts, k=size):
      yield layout(rng, now)


def sample(seed: int, count: int) -> Iterator[str]:
  """Documents for the tokenizer, every layout as often."""
  rng = random.Random(f'sample {seed}')
  for _ in range(count):
    yield passages.choose(rng, tuple(_LAYOUTS))(rng, END)
