"""The small world's facts: what can be said of a person, in English and in German.

A `Fact` is a predicate without its subject, with the questions it answers. Every claim
(a person and a fact's key) is held out or not, by its hash: the model is trained on
claims that are not, validation and test rows make only claims that are.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

from tools.tiny import words

_HELD_OUT_ONE_IN = 10


class German(NamedTuple):
  """A German predicate: the finite verb, what follows it, and what closes the bracket.

  `particle` is a separable prefix (steht ... auf), `closing` a participle or an
  infinitive (hat ... gekauft); a clause has at most one of the two.
  """

  verb: str
  middle: str
  particle: str = ''
  closing: str = ''


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
  """What can be said of a person.

  Attributes:
    key: what is claimed, whatever the wording: `home Rome`.
    english: the English predicate: `lives in Rome`.
    german: the German one.
    questions: (question with `{}` for the name, answer) pairs; the answer occurs in
      `english` letter by letter.
    headline: the predicate in a headline, `buys a red lamp`; empty unless an event.
  """

  key: str
  english: str
  german: German
  questions: tuple[tuple[str, str], ...]
  headline: str = ''

  @property
  def answer(self) -> str:
    return self.questions[0][1]


def indefinite(phrase: str) -> str:
  """`red lamp` -> `a red lamp`."""
  return ('an ' if phrase[0] in 'aeiou' else 'a ') + phrase


_ACCUSATIVE = {'der': ('einen', 'en'), 'die': ('eine', 'e'), 'das': ('ein', 'es')}
_DATIVE_POSSESSIVE = {'der': 'em', 'die': 'er'}


def accusative(adjective: words.Words, noun: words.Noun) -> str:
  """The German for `a red lamp` as an object: `eine rote Lampe`."""
  article, ending = _ACCUSATIVE[noun.article]
  return f'{article} {adjective.german}{ending} {noun.german}'


def possessive_dative(owner: str, noun: words.Noun) -> str:
  """The German for `her brother` as a receiver: `ihrem Bruder`."""
  stem = 'ihr' if owner == 'die' else 'sein'
  return f'{stem}{_DATIVE_POSSESSIVE[noun.article]} {noun.german}'


def _home(_: str) -> Iterator[Fact]:
  questions = ('Where does {} live?', 'In which town does {} live?')
  for town in words.TOWNS:
    asked = tuple((question, town.english) for question in questions)
    key = f'home {town.english}'
    live = German('wohnt', f'in {town.german}')
    yield Fact(key, f'lives in {town.english}', live, asked)
    house = German('hat', f'ein Haus in {town.german}')
    yield Fact(key, f'has a house in {town.english}', house, asked)


def _job(article: str) -> Iterator[Fact]:
  for english, germans in words.JOBS.items():
    german = germans[article == 'die']
    asked = (("What is {}'s job?", english), ('What does {} do for a living?', english))
    key = f'job {english}'
    yield Fact(key, f'is {indefinite(english)}', German('ist', german), asked)
    work = German('arbeitet', f'als {german}')
    yield Fact(key, f'works as {indefinite(english)}', work, asked)


def _animal(_: str) -> Iterator[Fact]:
  for adjective in words.ANIMAL_ADJECTIVES:
    for animal in words.ANIMALS:
      english = indefinite(f'{adjective.english} {animal.english}')
      asked = (('Which animal does {} have?', english),)
      for have, haben in (('has', 'hat'), ('owns', 'besitzt')):
        german = German(haben, accusative(adjective, animal))
        yield Fact(f'animal {english}', f'{have} {english}', german, asked)


def _food(_: str) -> Iterator[Fact]:
  for food in words.FOODS:
    asked = (('What does {} like?', food.english),)
    for like, moegen in (('likes', 'mag'), ('loves', 'liebt')):
      german = German(moegen, food.german)
      yield Fact(f'food {food.english}', f'{like} {food.english}', german, asked)


def _game(_: str) -> Iterator[Fact]:
  for game in words.GAMES:
    asked = (('What does {} play?', game.english),)
    key = f'game {game.english}'
    yield Fact(key, f'plays {game.english}', German('spielt', game.german), asked)
    can = German('kann', game.german, closing='spielen')
    yield Fact(key, f'can play {game.english}', can, asked)


def _hour(_: str) -> Iterator[Fact]:
  verbs = (
    ('gets up', 'get up', 'steht', 'auf'),
    ('goes out', 'go out', 'geht', 'aus'),
    ('comes back', 'come back', 'kommt', 'zurück'),
  )
  for hour in words.HOURS:
    english = f"at {hour.english} o'clock"
    for does, do, verb, particle in verbs:
      asked = ((f'When does {{}} {do}?', english),)
      german = German(verb, f'um {hour.german} Uhr', particle=particle)
      yield Fact(f'{do} {english}', f'{does} {english}', german, asked)


def _place(_: str) -> Iterator[Fact]:
  verbs = (('waiting', 'wartet'), ('sitting', 'sitzt'), ('working', 'arbeitet'))
  for place in words.PLACES:
    for doing, verb in verbs:
      asked = ((f'Where is {{}} {doing}?', place.english),)
      english = f'is {doing} {place.english}'
      german = German(verb, place.german)
      yield Fact(f'place {place.english}', english, german, asked)


def _trade(_: str) -> Iterator[Fact]:
  verbs = (
    ('bought', 'buy', 'gekauft'),
    ('sold', 'sell', 'verkauft'),
    ('ordered', 'order', 'bestellt'),
    ('repaired', 'repair', 'repariert'),
  )
  for adjective in words.OBJECT_ADJECTIVES:
    for thing in words.OBJECTS:
      english = indefinite(f'{adjective.english} {thing.english}')
      for did, do, participle in verbs:
        asked = ((f'What did {{}} {do}?', english),)
        german = German('hat', accusative(adjective, thing), closing=participle)
        key = f'{do} {english}'
        yield Fact(key, f'{did} {english}', german, asked, f'{do}s {english}')


def _loss(_: str) -> Iterator[Fact]:
  verbs = (('found', 'find', 'gefunden'), ('lost', 'lose', 'verloren'))
  for thing in words.OBJECTS:
    article = _ACCUSATIVE[thing.article][0]
    for place in words.PLACES:
      english = indefinite(thing.english)
      for did, do, participle in verbs:
        asked = (
          (f'What did {{}} {do}?', english),
          (f'Where did {{}} {do} {english}?', place.english),
        )
        german = German(
          'hat', f'{place.german} {article} {thing.german}', closing=participle
        )
        told = f'{english} {place.english}'
        yield Fact(f'{do} {told}', f'{did} {told}', german, asked, f'{do}s {told}')


def _gift(article: str) -> Iterator[Fact]:
  verbs = (
    ('gave', 'give', 'gegeben'),
    ('showed', 'show', 'gezeigt'),
    ('sent', 'send', 'geschickt'),
  )
  their = 'her' if article == 'die' else 'his'
  for relative in words.RELATIVES:
    receiver = f'{their} {relative.english}'
    empfaenger = possessive_dative(article, relative)
    for adjective in words.OBJECT_ADJECTIVES:
      for thing in words.OBJECTS:
        english = indefinite(f'{adjective.english} {thing.english}')
        for did, do, participle in verbs:
          asked = (
            (f'What did {{}} {do} {receiver}?', english),
            (f'To whom did {{}} {do} {english}?', receiver),
          )
          german = German(
            'hat', f'{empfaenger} {accusative(adjective, thing)}', closing=participle
          )
          told = f'{receiver} {english}'
          yield Fact(f'{do} {told}', f'{did} {told}', german, asked, f'{do}s {told}')


def _journey(_: str) -> Iterator[Fact]:
  for town in words.TOWNS:
    for vehicle in words.VEHICLES:
      told = f'to {town.english} by {vehicle.english}'
      asked = (
        ('Where is {} travelling?', f'to {town.english}'),
        ('How is {} travelling?', f'by {vehicle.english}'),
      )
      german = German('reist', f'mit {vehicle.german} nach {town.german}')
      yield Fact(
        f'travel {told}', f'is travelling {told}', german, asked, f'travels {told}'
      )


def _meeting(_: str) -> Iterator[Fact]:
  verbs = (
    ('met', 'meet', 'getroffen'),
    ('visited', 'visit', 'besucht'),
    ('saw', 'see', 'gesehen'),
  )
  for person in words.PEOPLE:
    for place in words.PLACES:
      told = f'{person.name} {place.english}'
      for did, do, participle in verbs:
        asked = (
          (f'Whom did {{}} {do}?', person.name),
          (f'Where did {{}} {do} {person.name}?', place.english),
        )
        german = German('hat', f'{person.name} {place.german}', closing=participle)
        yield Fact(f'{do} {told}', f'{did} {told}', german, asked, f'{do}s {told}')


def _call(_: str) -> Iterator[Fact]:
  for person in words.PEOPLE:
    for hour in words.HOURS:
      time = f"at {hour.english} o'clock"
      told = f'{person.name} {time}'
      asked = (
        ('Whom is {} calling?', person.name),
        (f'When is {{}} calling {person.name}?', time),
      )
      german = German('ruft', f'{person.name} um {hour.german} Uhr', particle='an')
      yield Fact(f'call {told}', f'is calling {told}', german, asked, f'calls {told}')


_STATES: dict[str, Callable[[str], Iterator[Fact]]] = {
  'home': _home,
  'job': _job,
  'animal': _animal,
  'food': _food,
  'game': _game,
  'hour': _hour,
  'place': _place,
}
_EVENTS: dict[str, Callable[[str], Iterator[Fact]]] = {
  'trade': _trade,
  'loss': _loss,
  'gift': _gift,
  'journey': _journey,
  'meeting': _meeting,
  'call': _call,
}
EVENTS = tuple(_EVENTS)
RELATIONS = (*_STATES, *_EVENTS)


@functools.cache
def facts(relation: str, article: str) -> tuple[Fact, ...]:
  """All that can be said in a relation of a person whose article this is."""
  return tuple((_STATES | _EVENTS)[relation](article))


def is_held_out(person: words.Person, fact: Fact) -> bool:
  """Whether only validation and test rows may claim this of the person."""
  claim = f'{person.name} {fact.key}'.encode()
  return zlib.crc32(claim) % _HELD_OUT_ONE_IN == 0


@functools.cache
def claims(person: words.Person, relation: str, held_out: bool) -> tuple[Fact, ...]:
  """The facts of a relation whose claim of this person is held out, or is not."""
  return tuple(
    fact
    for fact in facts(relation, person.article)
    if is_held_out(person, fact) == held_out and person.name not in fact.english
  )
