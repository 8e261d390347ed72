"""The small world's words, in English and in German: a dictionary, no grammar."""

import re
from typing import NamedTuple


class Noun(NamedTuple):
  """A noun that can be counted: `lamp`, `Lampe`, `die`."""

  english: str
  german: str
  article: str


class Person(NamedTuple):
  """`article` is `der` or `die`: it stands for the gender in both languages."""

  name: str
  article: str


class Words(NamedTuple):
  """Words that are the same in every case: `the violin` and `Geige`."""

  english: str
  german: str


def _nouns(table: str) -> tuple[Noun, ...]:
  rows = re.findall(r'(\w+): (der|die|das) (\w+)', table)
  return tuple(Noun(english, german, article) for english, article, german in rows)


def _phrases(table: str) -> tuple[Words, ...]:
  pairs = (entry.split(':') for entry in ' '.join(table.split()).split(','))
  return tuple(Words(english.strip(), german.strip()) for english, german in pairs)


_WOMEN = """
  Anna Berta Clara Dora Emma Frieda Greta Hanna Ida Julia Karla Lena Maria Nora Olga
  Rita Rosa Sara Tina Ulla Vera Wanda Eva Lisa Marta Petra Sofia Helga Nina Ruth
"""
_MEN = """
  Adam Bruno Carl David Emil Felix Georg Hugo Ivan Jakob Kurt Leo Martin Noah Oskar
  Paul Ralf Simon Tom Udo Viktor Walter Erik Jan Peter Otto Max Karsten Robert Stefan
"""
PEOPLE = tuple(Person(name, 'die') for name in _WOMEN.split()) + tuple(
  Person(name, 'der') for name in _MEN.split()
)

TOWNS = _phrases("""
  Rome: Rom, Vienna: Wien, Munich: München, Cologne: Köln, Prague: Prag, Milan: Mailand,
  Warsaw: Warschau, Athens: Athen, Lisbon: Lissabon, Venice: Venedig, Geneva: Genf,
  Zurich: Zürich, Basel: Basel, Berlin: Berlin, Hamburg: Hamburg, Bremen: Bremen,
  Paris: Paris, London: London, Oslo: Oslo, Madrid: Madrid, Dublin: Dublin,
  Hanover: Hannover, Leipzig: Leipzig, Dresden: Dresden, Bonn: Bonn, Naples: Neapel,
  Florence: Florenz, Brussels: Brüssel, Moscow: Moskau, Lyon: Lyon
""")
# English job: the German for a man and for a woman.
JOBS = {
  'teacher': ('Lehrer', 'Lehrerin'),
  'doctor': ('Arzt', 'Ärztin'),
  'baker': ('Bäcker', 'Bäckerin'),
  'gardener': ('Gärtner', 'Gärtnerin'),
  'painter': ('Maler', 'Malerin'),
  'nurse': ('Pfleger', 'Pflegerin'),
  'cook': ('Koch', 'Köchin'),
  'farmer': ('Bauer', 'Bäuerin'),
  'judge': ('Richter', 'Richterin'),
  'driver': ('Fahrer', 'Fahrerin'),
  'singer': ('Sänger', 'Sängerin'),
  'dancer': ('Tänzer', 'Tänzerin'),
  'tailor': ('Schneider', 'Schneiderin'),
  'pilot': ('Pilot', 'Pilotin'),
  'lawyer': ('Anwalt', 'Anwältin'),
  'butcher': ('Metzger', 'Metzgerin'),
  'author': ('Autor', 'Autorin'),
  'barber': ('Friseur', 'Friseurin'),
  'carpenter': ('Tischler', 'Tischlerin'),
  'engineer': ('Ingenieur', 'Ingenieurin'),
  'chemist': ('Chemiker', 'Chemikerin'),
  'poet': ('Dichter', 'Dichterin'),
  'actor': ('Schauspieler', 'Schauspielerin'),
  'photographer': ('Fotograf', 'Fotografin'),
}
ANIMALS = _nouns("""
  cat: die Katze, dog: der Hund, bird: der Vogel, horse: das Pferd, fish: der Fisch,
  rabbit: das Kaninchen, mouse: die Maus, goat: die Ziege, sheep: das Schaf,
  duck: die Ente, hen: das Huhn, pony: das Pony, hamster: der Hamster, cow: die Kuh,
  turtle: die Schildkröte, goose: die Gans, donkey: der Esel, frog: der Frosch,
  snake: die Schlange, pig: das Schwein
""")
OBJECTS = _nouns("""
  lamp: die Lampe, chair: der Stuhl, table: der Tisch, book: das Buch, bag: die Tasche,
  coat: der Mantel, hat: der Hut, bicycle: das Fahrrad, clock: die Uhr, cup: die Tasse,
  mirror: der Spiegel, knife: das Messer, bottle: die Flasche, key: der Schlüssel,
  umbrella: der Regenschirm, ring: der Ring, box: die Kiste, carpet: der Teppich,
  picture: das Bild, ball: der Ball, drum: die Trommel, shirt: das Hemd,
  dress: das Kleid, scarf: der Schal, plate: der Teller, radio: das Radio,
  ladder: die Leiter, candle: die Kerze, basket: der Korb, boat: das Boot
""")
_COLOURS = _phrases('black: schwarz, white: weiß, grey: grau, brown: braun')
_AGES_AND_SIZES = _phrases('old: alt, small: klein, big: groß')
ANIMAL_ADJECTIVES = _COLOURS + _AGES_AND_SIZES + _phrases('young: jung')
OBJECT_ADJECTIVES = (
  _COLOURS + _AGES_AND_SIZES + _phrases('new: neu, red: rot, blue: blau, green: grün')
)
FOODS = _phrases("""
  soup: Suppe, bread: Brot, cheese: Käse, rice: Reis, cake: Kuchen, honey: Honig,
  salad: Salat, apples: Äpfel, chocolate: Schokolade, tea: Tee, coffee: Kaffee,
  milk: Milch, juice: Saft, butter: Butter, eggs: Eier, grapes: Trauben,
  plums: Pflaumen, pears: Birnen, nuts: Nüsse, noodles: Nudeln, potatoes: Kartoffeln,
  tomatoes: Tomaten, beans: Bohnen, cherries: Kirschen
""")
GAMES = _phrases("""
  the violin: Geige, the piano: Klavier, the guitar: Gitarre, the flute: Flöte,
  the drums: Schlagzeug, the trumpet: Trompete, the organ: Orgel, the harp: Harfe,
  the cello: Cello, tennis: Tennis, football: Fußball, chess: Schach, cards: Karten,
  golf: Golf, hockey: Hockey, handball: Handball
""")
PLACES = _phrases("""
  in the kitchen: in der Küche, in the garden: im Garten, in the cellar: im Keller,
  in the garage: in der Garage, in the bedroom: im Schlafzimmer, in the hall: im Flur,
  in the office: im Büro, in the library: in der Bibliothek, in the park: im Park,
  at the station: am Bahnhof, at the market: auf dem Markt, at school: in der Schule,
  in the church: in der Kirche, in the museum: im Museum, on the beach: am Strand,
  in the forest: im Wald, at the harbour: am Hafen, at the bank: in der Bank,
  at the theatre: im Theater, at the zoo: im Zoo, by the river: am Fluss,
  on the bridge: auf der Brücke, in the castle: im Schloss,
  on the street: auf der Straße
""")
VEHICLES = _phrases("""
  train: dem Zug, bus: dem Bus, car: dem Auto, ship: dem Schiff, bicycle: dem Fahrrad,
  plane: dem Flugzeug, tram: der Straßenbahn, taxi: dem Taxi, boat: dem Boot
""")
RELATIVES = _nouns("""
  mother: die Mutter, sister: die Schwester, aunt: die Tante, daughter: die Tochter,
  father: der Vater, brother: der Bruder, uncle: der Onkel, son: der Sohn
""")
HOURS = _phrases("""
  one: ein, two: zwei, three: drei, four: vier, five: fünf, six: sechs, seven: sieben,
  eight: acht, nine: neun, ten: zehn, eleven: elf, twelve: zwölf
""")
DAYS = _phrases("""
  Monday: Montag, Tuesday: Dienstag, Wednesday: Mittwoch, Thursday: Donnerstag,
  Friday: Freitag, Saturday: Samstag, Sunday: Sonntag
""")
# Whole sentences that set a scene and tell nothing of anybody.
SCENES = _phrases("""
  It is raining: Es regnet, It is snowing: Es schneit, The sun is shining: Die Sonne
  scheint, It is cold today: Heute ist es kalt, It is warm today: Heute ist es warm,
  The wind is strong: Der Wind ist stark, The day is long: Der Tag ist lang
""")
