"""Sentences and passages about people, in English and in German."""

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple
from typing import TypeVar

from tools.tiny import words
from tools.tiny import world

T = TypeVar('T')

_PAIRS = 0.4  # the share of single sentences that tell two facts
_PASTIMES = (
  'animal',
  'food',
  'game',
  'hour',
  'place',
)  # told besides an article's news


class Style(NamedTuple):
  """How varied passages are; every field is a probability.

  Attributes:
    pronouns: that a sentence says `She` of whom the sentence before is about.
    joins: that a sentence tells two facts of the same person.
    fronts: that a sentence about an event begins with a day.
    scenes: that a passage begins with a sentence about the weather.
  """

  pronouns: float
  joins: float
  fronts: float
  scenes: float


PLAIN = Style(pronouns=0, joins=0, fronts=0, scenes=0)
RICH = Style(pronouns=0.3, joins=0.15, fronts=0.2, scenes=0.15)


Telling = tuple[words.Person, world.Fact]


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
  """One sentence in both languages, about `person` (None: a scene) telling `facts`."""

  english: str
  german: str
  person: words.Person | None = None
  facts: tuple[world.Fact, ...] = ()


def choose(rng: random.Random, options: Sequence[T]) -> T:
  """`rng.choice`, in half its time."""
  return options[int(rng.random() * len(options))]


def _join(*parts: str) -> str:
  return ' '.join(part for part in parts if part)


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]


def _after_verb(german: world.German) -> str:
  return _join(german.middle, german.particle, german.closing)


def _verb_first(german: world.German) -> str:
  """`steht um sechs Uhr auf`."""
  return f'{german.verb} {_after_verb(german)}'


def _verb_last(german: world.German) -> str:
  """`um sechs Uhr aufsteht`."""
  return _join(german.middle, german.closing, german.particle + german.verb)


def _pronouns(person: words.Person) -> tuple[str, str]:
  return ('she', 'sie') if person.article == 'die' else ('he', 'er')


def plain(person: words.Person, fact: world.Fact, pronoun: bool = False) -> Sentence:
  """`Anna gets up at six o'clock.`, or `She gets ...`."""
  english, german = _pronouns(person) if pronoun else (person.name, person.name)
  return Sentence(
    f'{_capital(english)} {fact.english}.',
    f'{_capital(german)} {_verb_first(fact.german)}.',
    person,
    (fact,),
  )


def fronted(
  person: words.Person, fact: world.Fact, day: words.Words, pronoun: bool = False
) -> Sentence:
  """`On Monday Anna bought a red lamp.`; in German the verb stays second."""
  english, german = _pronouns(person) if pronoun else (person.name, person.name)
  return Sentence(
    f'On {day.english} {english} {fact.english}.',
    f'Am {day.german} {fact.german.verb} {german} {_after_verb(fact.german)}.',
    person,
    (fact,),
  )


def coordinated(
  person: words.Person, first: world.Fact, second: world.Fact
) -> Sentence:
  """`Anna lives in Rome and has a black cat.`"""
  return Sentence(
    f'{person.name} {first.english} and {second.english}.',
    f'{person.name} {_verb_first(first.german)} und {_verb_first(second.german)}.',
    person,
    (first, second),
  )


def relative(person: words.Person, first: world.Fact, second: world.Fact) -> Sentence:
  """`Anna, who lives in Rome, has a black cat.`; the German clause ends in its verb."""
  return Sentence(
    f'{person.name}, who {first.english}, {second.english}.',
    f'{person.name}, {person.article} {_verb_last(first.german)}, '
    f'{_verb_first(second.german)}.',
    person,
    (first, second),
  )


def sentence(
  rng: random.Random,
  person: words.Person,
  facts: Sequence[world.Fact],
  style: Style,
  *,
  pronoun: bool = False,
) -> Sentence:
  """Puts one or two facts of a person into a sentence of some form."""
  if len(facts) == 2:
    return choose(rng, (coordinated, relative))(person, *facts)
  (fact,) = facts
  if fact.headline and rng.random() < style.fronts:
    return fronted(person, fact, choose(rng, words.DAYS), pronoun)
  return plain(person, fact, pronoun)


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
  """Some sentences in their order."""

  sentences: tuple[Sentence, ...]

  @property
  def english(self) -> str:
    return ' '.join(sentence.english for sentence in self.sentences)

  @property
  def german(self) -> str:
    return ' '.join(sentence.german for sentence in self.sentences)

  @property
  def tellings(self) -> list[Telling]:
    return [(told.person, fact) for told in self.sentences for fact in told.facts]


def draw_tellings(
  rng: random.Random,
  person: words.Person,
  relations: Sequence[str],
  taken: set[str],
  *,
  held_out: bool,
) -> list[Telling]:
  """Draws one fact a relation, none whose answer or person is in `taken`, and takes it.

  Relations in which nothing is left for the person are passed over.
  """
  tellings = []
  for relation in relations:
    options = world.claims(person, relation, held_out)
    for _ in range(4 if options else 0):
      fact = choose(rng, options)
      if taken.isdisjoint(answer for _, answer in fact.questions):
        tellings.append((person, fact))
        taken.update(answer for _, answer in fact.questions)
        break
  return tellings


def draw_passage(
  rng: random.Random,
  *,
  people: int,
  facts_each: int,
  style: Style,
  apart: int = 1,
  held_out: bool = False,
) -> Passage:
  """Draws a passage; all but `apart` of the relations told of a person are all's."""
  cast = rng.sample(words.PEOPLE, people)
  taken = {person.name for person in cast}
  pool = rng.sample(world.RELATIONS, facts_each + min(people - 1, apart))
  tellings = []
  for person in cast:
    own = rng.sample(pool, facts_each)
    tellings += draw_tellings(rng, person, own, taken, held_out=held_out)
  if people > 1 and rng.random() < 0.5:
    rng.shuffle(tellings)
  return tell(rng, tellings, style)


def tell(rng: random.Random, tellings: Sequence[Telling], style: Style) -> Passage:
  """Puts facts into sentences, in the given order."""
  sentences = []
  if rng.random() < style.scenes:
    english, german = choose(rng, words.SCENES)
    sentences.append(Sentence(f'{english}.', f'{german}.'))
  before, i = None, 0
  while i < len(tellings):
    person, fact = tellings[i]
    facts = [fact]
    same_next = i + 1 < len(tellings) and tellings[i + 1][0] is person
    if same_next and rng.random() < style.joins:
      facts.append(tellings[i + 1][1])
    pronoun = person is before and rng.random() < style.pronouns
    sentences.append(sentence(rng, person, facts, style, pronoun=pronoun))
    before, i = person, i + len(facts)
  return Passage(tuple(sentences))


def draw_sentence(
  rng: random.Random, style: Style, *, held_out: bool = False
) -> Sentence:
  """Draws a sentence that stands for itself."""
  tellings: list[Telling] = []
  while not tellings:
    (person,) = rng.sample(words.PEOPLE, 1)
    count = 1 + (rng.random() < _PAIRS)
    relations = rng.sample(world.RELATIONS, count)
    taken = {person.name}
    tellings = draw_tellings(rng, person, relations, taken, held_out=held_out)
  return sentence(rng, person, [fact for _, fact in tellings], style)


class Question(NamedTuple):
  """A question that a passage answers; `start` is the answer's place in its English."""

  question: str
  answer: str
  start: int


def questions(passage: Passage) -> list[Question]:
  """All questions that a passage answers, in its order."""
  found, offset, named = [], 0, {}
  for told in passage.sentences:
    name = told.person.name if told.person else ''
    if name and name in told.english:
      named.setdefault(name, offset + told.english.index(name))
    for fact in told.facts:
      clause = offset + told.english.index(fact.english)
      for template, answer in fact.questions:
        start = clause + fact.english.index(answer)
        found.append(Question(template.format(name), answer, start))
      found.append(Question(f'Who {fact.english}?', name, named[name]))
    offset += len(told.english) + 1
  return found


class Article(NamedTuple):
  """A passage whose main person's job, home and news can be summed up.

  Attributes:
    headline: `Baker Anna from Rome buys a red lamp.`
    gist: `Anna is a baker from Rome who bought a red lamp.`
  """

  passage: Passage
  headline: str
  gist: str


def draw_article(
  rng: random.Random, *, style: Style, held_out: bool = False
) -> Article:
  """Draws an article about one person and her news; it tells of another one, too."""
  told: list[Telling] = []
  while len(told) < 3:
    main, other = rng.sample(words.PEOPLE, 2)
    taken = {main.name, other.name}
    relations = ('job', 'home', choose(rng, world.EVENTS))
    told = draw_tellings(rng, main, relations, taken, held_out=held_out)
  (_, job), (_, home), (_, event) = told
  first, *rest = rng.sample(_PASTIMES, 3)
  about_main = told + draw_tellings(rng, main, [first], taken, held_out=held_out)
  about_other = draw_tellings(rng, other, rest, taken, held_out=held_out)
  rng.shuffle(about_main)
  blocks = [about_main, about_other]
  rng.shuffle(blocks)
  title, town = world.indefinite(job.answer), home.answer
  return Article(
    tell(rng, blocks[0] + blocks[1], style),
    f'{_capital(job.answer)} {main.name} from {town} {event.headline}.',
    f'{main.name} is {title} from {town} who {event.english}.',
  )
